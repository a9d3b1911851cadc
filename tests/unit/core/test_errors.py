"""Every error says what, why and mend, where it belongs, and with which code the program ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.core.errors import (
    BuildError,
    CalibError,
    DeviceError,
    EdgeqBug,
    EdgeqError,
    GateFailed,
    InputError,
    MissingDependencyError,
    ModelError,
    NumericsError,
    TargetError,
    describe_choices,
    nearest_names,
)

EXIT_CODES = {
    InputError: 3,
    ModelError: 3,
    NumericsError: 3,
    CalibError: 3,
    TargetError: 4,
    MissingDependencyError: 5,
    BuildError: 6,
    DeviceError: 6,
    GateFailed: 7,
}


@pytest.mark.parametrize("kind", EXIT_CODES, ids=lambda kind: kind.__name__)
def test_each_kind_has_its_exit_code_and_says_what_why_and_mend(kind):
    error = kind("the sky fell", why="it was heavy", mend="hold it up")
    assert isinstance(error, EdgeqError)
    assert error.exit_code == EXIT_CODES[kind]
    assert (error.what, error.why, error.mend) == ("the sky fell", "it was heavy", "hold it up")
    assert str(error) == "the sky fell\n  why:  it was heavy\n  mend: hold it up"


def test_the_table_lists_every_kind():
    assert set(EXIT_CODES) == set(EdgeqError.__subclasses__())


@pytest.mark.parametrize(
    ("places", "lines"),
    [
        ({"node": "conv1"}, ["  in:   node 'conv1'"]),
        ({"path": "model.onnx"}, ["  in:   file 'model.onnx'"]),
        ({"path": Path("a") / "b.onnx"}, [f"  in:   file '{Path('a') / 'b.onnx'}'"]),
        (
            {"node": "conv1", "path": "model.onnx"},
            ["  in:   file 'model.onnx'", "  in:   node 'conv1'"],
        ),
    ],
    ids=["node", "text_path", "path", "both"],
)
def test_an_error_names_its_file_and_its_node(places, lines):
    error = ModelError("broken", why="because", mend="mend it", **places)
    assert str(error).splitlines() == ["broken", *lines, "  why:  because", "  mend: mend it"]


def test_a_path_is_kept_as_text():
    error = InputError("w", why="y", mend="m", path=Path("x.json"))
    assert error.path == "x.json"


def test_a_bug_of_ours_is_not_caught_as_a_users_mistake():
    assert not issubclass(EdgeqBug, EdgeqError)
    assert EdgeqBug.exit_code == 70


def test_nearest_names_come_best_first_and_are_at_most_three():
    known = ["jetson-orin", "jetson-xavier", "jetson-nano", "jetson-agx", "cpu"]
    found = nearest_names("jetson-orin2", known)
    assert found[0] == "jetson-orin"
    assert len(found) == 3
    assert nearest_names("zzzz", known) == []


def test_choices_offer_the_nearest_and_list_all_in_order():
    assert describe_choices("alpa", ["beta", "alpha"]) == "did you mean alpha? known: alpha, beta"


def test_choices_without_a_near_name_only_list():
    assert describe_choices("qqq", ["beta", "alpha"]) == "known: alpha, beta"
