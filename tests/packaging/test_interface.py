"""`import edgeq` offers what its stub says, loads nothing for it, and has the command line's names and defaults."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeq
from edgeq.cli.build import build as verb
from edgeq.core.errors import InputError
from edgeq.core.specs import BitSpec, Effort

DIGITS = str(Path(__file__).parents[2] / "examples" / "digits" / "digits_bn.onnx")
STUB = Path(edgeq.__file__).with_name("__init__.pyi")
# What a program has no use for, and what only a program has.
OF_THE_SHELL = {"context", "dry_run", "as_json"}
OF_PROGRAMS = {"progress"}


def stub_imports() -> dict[str, str]:
    """Return the names of the stub, and the module that each comes from."""
    tree = ast.parse(STUB.read_text("utf-8"))
    return {
        str(alias.asname): str(node.module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_stub_names_what_is_there() -> None:
    assert stub_imports() == edgeq._HOMES


@pytest.mark.parametrize("name", sorted(edgeq._HOMES))
def test_each_name_is_that_of_its_module_and_has_a_docstring(name: str) -> None:
    found = getattr(edgeq, name)
    assert found is getattr(importlib.import_module(edgeq._HOMES[name]), name)
    assert found.__doc__
    assert name in dir(edgeq)


def test_another_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'edgeq' has no attribute 'frob'"):
        _ = edgeq.frob


@pytest.mark.parametrize("name", ["build", "make_options"])
def test_names_and_defaults_are_those_of_the_command_line(name: str) -> None:
    typed = inspect.signature(verb).parameters
    offered = inspect.signature(getattr(edgeq, name)).parameters
    assert set(offered) - OF_PROGRAMS == set(typed) - OF_THE_SHELL
    # An empty text is what an empty sequence looks like on the command line.
    differing = {
        key: (typed[key].default, item.default)
        for key, item in offered.items()
        if key not in OF_PROGRAMS and (typed[key].default or None) != (item.default or None)
    }
    assert differing == {}


def test_build_takes_what_make_options_takes() -> None:
    taken = dict(inspect.signature(edgeq.build).parameters)
    del taken["progress"]
    assert taken == dict(inspect.signature(edgeq.make_options).parameters)


@pytest.mark.parametrize("wish", [None, "0"])
def test_onnxruntime_reports_nothing_unless_the_user_wants_it(
    tmp_path: Path, wish: str | None
) -> None:
    env = {key: x for key, x in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    env |= {} if wish is None else {"ORT_DISABLE_TELEMETRY": wish}
    code = "import edgeq, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (wish or "1")
    if wish is None:
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_values_of_python_become_options() -> None:
    options = edgeq.make_options(
        "nets/a.onnx",
        target="cpu",
        bits="w4a6",
        first_last="same",
        effort="quick",
        mean=[0.5],
        bounds=(0, 1),
        shape={"x": [1, 3, 8, 8]},
        settings={"training.steps": 5, "training.flip": False},
    )
    assert options.out == Path("a.cpu")
    assert options.bits == BitSpec(weights=4, activations=6, first_last_same=True)
    assert options.effort is Effort.QUICK
    assert (options.mean, options.bounds) == ((0.5,), (0.0, 1.0))
    assert options.shapes == {"x": (1, 3, 8, 8)}
    assert options.settings == {"training.steps": "5", "training.flip": "False"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"effort": "quik"}, "--effort 'quik' is not understood"),
        ({"first_last": "int4"}, "--first-last 'int4' is not understood"),
        ({"bits": "8"}, "--bits '8' is not understood"),
        ({"seed": -1}, "--seed is -1"),
        ({"bounds": (1,)}, "--bounds has 1 numbers"),
        ({"bits": 8}, "bits is 8"),
        ({"mean": 0.5}, "mean is 0.5"),
        ({"std": "1,1,1"}, "std is '1,1,1'"),
        ({"settings": ["training.steps=5"]}, "settings is .*training.steps"),
        ({"shape": ["x:1x3x8x8"]}, "shape is .*x:1x3x8x8"),
        ({"shape": {"x": "1x3x8x8"}}, "x.* is '1x3x8x8'"),
        ({"shape": {"x": [1, 3.5, 8, 8]}}, "x.* is 3.5"),
        ({"seed": "1"}, "seed is '1'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"mean": ["a"]}, "mean is .*'a'"),
        ({"mean": np.zeros((3, 2))}, "mean is .*array"),
        ({"effort": Effort.QUICK}, "effort is <Effort.QUICK"),
        ({"first_last": None}, "first_last is None"),
        ({"flavour": 16}, "flavour is 16"),
        ({"preset": 5}, "preset is 5"),
        ({"device": 0}, "device is 0"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(words: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        edgeq.make_options("a.onnx", target="cpu", **words)


def test_numbers_of_numpy_become_numbers_that_json_has() -> None:
    sizes, means = np.array([1, 3, 8, 8]), np.array([0.5], np.float32)
    options = edgeq.make_options(
        "a", target="cpu", shape={"x": sizes}, mean=means, seed=np.int64(3)
    )
    assert (
        json.dumps([options.shapes["x"], options.mean, options.seed]) == "[[1, 3, 8, 8], [0.5], 3]"
    )


def test_numbers_of_torch_are_numbers() -> None:
    torch = importlib.import_module("torch")
    options = edgeq.make_options("a", target="cpu", mean=torch.tensor([0.5, 0.25]))
    assert options.mean == (0.5, 0.25)


def test_a_path_may_be_text(tmp_path: Path) -> None:
    x = np.zeros((2, 1, 16, 16), np.float32)
    made = edgeq.SampleSet(input_name="input", samples=x, labels=None, provenance={})
    made.save(str(tmp_path / "set"))
    samples = edgeq.SampleSet.load(str(tmp_path / "set"))
    assert edgeq.compare_models(DIGITS, DIGITS, samples).worst_db == 200
    found = edgeq.estimate_latency(DIGITS, edgeq.load_card("jetson-orin"))
    assert found.model == "digits_bn.onnx"
    with pytest.raises(InputError, match=r"cannot read results\.json"):
        edgeq.read_build(str(tmp_path))


def test_every_effort_has_its_word() -> None:
    made = [edgeq.make_options("a", target="cpu", effort=item.value).effort for item in Effort]
    assert made == list(Effort)
