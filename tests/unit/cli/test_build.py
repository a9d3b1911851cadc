from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeq.core.specs import BitSpec, Effort, GraphFlavour

BUILD = ("build", "nets/model.v2.onnx", "--target", "cpu")


@pytest.fixture
def seen(pipeline: Any) -> list[Any]:
    """Return the list that gets the options of each run."""
    options: list[Any] = []

    def answer(wanted: Any) -> Any:
        options.append(wanted)
        return SimpleNamespace(
            summary_lines=lambda: ["top-1 match 99 %"],
            to_dict=lambda: {"match": 0.99},
            lines=lambda: ["stage read", "stage train"],
            folder=wanted.out,
        )

    pipeline.answer = answer
    return options


def test_the_short_form_uses_the_defaults(edgeq: Any, seen: list[Any]) -> None:
    assert edgeq(*BUILD).code == 0
    assert dataclasses.asdict(seen[0]) == {
        "model": Path("nets/model.v2.onnx"),
        "target": "cpu",
        "bits": dataclasses.asdict(BitSpec(weights=8, activations=8)),
        "effort": Effort.STANDARD,
        "seed": 0,
        "out": Path("model.v2.cpu"),
        "recipe": "edgeq",
        "preset": None,
        "mean": (),
        "std": (),
        "bounds": (),
        "shapes": {},
        "eval_path": None,
        "settings": {},
        "overwrite": False,
        "teacher_weights": None,
        "samples_path": None,
        "flavour": None,
        "for_dla": False,
        "device": "auto",
    }


def test_every_option_reaches_the_pipeline(edgeq: Any, seen: list[Any]) -> None:
    text = (
        "--bits w4a6 --first-last same --effort max --seed 7 --out o --preset unit --mean 0.1,0.2 "
        "--std 1,2 --bounds -1,1 --shape x:1x2 --shape y:3 --eval e.zip --recipe r --set a=1 "
        "--set b=2 --overwrite --teacher w.pth --samples s.npy --flavour fp16-typed --dla "
        "--device cuda:1"
    )
    assert edgeq(*BUILD, *text.split()).code == 0
    assert dataclasses.asdict(seen[0]) == {
        "model": Path("nets/model.v2.onnx"),
        "target": "cpu",
        "bits": dataclasses.asdict(BitSpec(weights=4, activations=6, first_last_same=True)),
        "effort": Effort.MAX,
        "seed": 7,
        "out": Path("o"),
        "recipe": "r",
        "preset": "unit",
        "mean": (0.1, 0.2),
        "std": (1.0, 2.0),
        "bounds": (-1.0, 1.0),
        "shapes": {"x": (1, 2), "y": (3,)},
        "eval_path": Path("e.zip"),
        "settings": {"a": "1", "b": "2"},
        "overwrite": True,
        "teacher_weights": Path("w.pth"),
        "samples_path": Path("s.npy"),
        "flavour": GraphFlavour.FP16_TYPED,
        "for_dla": True,
        "device": "cuda:1",
    }


def test_the_summary_and_the_folder_end_the_output(edgeq: Any, seen: list[Any]) -> None:
    assert edgeq(*BUILD, "--out", "o").out == "top-1 match 99 %\nresults: o\n"


def test_json_has_standard_output_for_itself(edgeq: Any, seen: list[Any]) -> None:
    done = edgeq(*BUILD, "--json")
    assert json.loads(done.out) == {"match": 0.99}
    assert "one file" in done.err


def test_every_default_in_use_is_said_and_nothing_else(edgeq: Any, seen: list[Any]) -> None:
    done = edgeq(*BUILD, "--seed", "0", "--bits", "w4a8")
    assert done.err.splitlines()[0] == (
        "defaults: --first-last int8 --effort standard --out model.v2.cpu --device auto "
        "--recipe edgeq"
    )


def test_a_default_is_said_as_a_shell_takes_it(edgeq: Any, seen: list[Any]) -> None:
    done = edgeq("build", "my net.onnx", "--target", "cpu")
    assert " --out 'my net.cpu' " in done.err.splitlines()[0]


def test_a_default_of_zero_is_said(edgeq: Any, seen: list[Any]) -> None:
    assert " --seed 0 " in edgeq(*BUILD).err.splitlines()[0]


def test_a_dry_run_prints_the_plan_and_runs_nothing(
    edgeq: Any, seen: list[Any], tmp_path: Path
) -> None:
    done = edgeq(*BUILD, "--dry-run")
    assert done.out == "stage read\nstage train\n"
    assert "one file" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_log_is_written_once_the_folder_is_claimed(
    edgeq: Any, seen: list[Any], pipeline: Any
) -> None:
    pipeline.claimed = Path("o")
    pipeline.claimed.mkdir()
    edgeq(*BUILD, "--out", "o")
    events = [json.loads(line)["event"] for line in Path("o/log.jsonl").read_text().splitlines()]
    assert events == ["start", "advance", "finish"]


def test_no_log_is_written_into_a_folder_that_is_not_claimed(edgeq: Any, seen: list[Any]) -> None:
    Path("o").mkdir()
    edgeq(*BUILD, "--out", "o")
    assert list(Path("o").iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "--bits w9a8",
        "--first-last none",
        "--effort long",
        "--mean a",
        "--shape x",
        "--set a",
        "--device gpu",
    ],
)
def test_a_value_that_is_not_understood_ends_with_3_and_says_what_is(
    edgeq: Any, seen: list[Any], wrong: str
) -> None:
    done = edgeq(*BUILD, *wrong.split())
    assert done.code == 3
    assert f"error: {wrong.split()[0]} '{wrong.split()[1]}' is not understood" in done.err
    assert "\n  mend: " in done.err
    assert seen == []
