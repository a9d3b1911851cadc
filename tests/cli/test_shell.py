"""What a shell and a script see of `edgeq`: completion, and nothing but the result under `--json`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import onnx
import pytest
import typer.main

from edgeq.cli.app import app

DIGITS = "{digits}/digits_bn.onnx"
# A run of each verb that has --json; {build} is a finished build.
RUNS = {
    "build": (DIGITS, "--target", "cpu", "--preset", "unit", "--dry-run", "{tiny}"),
    "compare": (DIGITS, "{build}/model.qdq.onnx", "--samples", "{build}/samples"),
    "doctor": (),
    "estimate": (DIGITS, "--target", "jetson-orin"),
    "explain": (DIGITS, "--target", "jetson-orin", "--bits", "w4a8"),
    "lint": ("{build}/model.qdq.onnx", "--target", "jetson-orin"),
    "recipes": ("--show", "edgeq"),
    "report": ("{build}", "{build}", "--out", "{tmp}/builds.html"),
    "targets": (),
    "weight-only": (
        "{tmp}/wide.onnx",
        "--target",
        "jetson-orin",
        "--bounds=-1,1",
        "--out",
        "{tmp}/packed",
    ),
}
# Where a success needs a GPU or a board: tests/unit/cli looks at their output.
WITHOUT_A_RUN = {"deploy", "device-check", "engine"}
WIDE = "g (float[N,512] x) => (float[N,512] y) <float[512,512] w> { y = MatMul(x, w) }"


def complete(shell: str, **words: str) -> str:
    """Return what `edgeq` answers a shell that completes."""
    env = {**os.environ, "_EDGEQ_COMPLETE": shell, **words}
    done = subprocess.run(
        [sys.executable, "-c", "from edgeq.cli.app import main; main()"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_script_is_made_that_the_shell_accepts(shell):
    script = complete(f"source_{shell}")
    assert "_edgeq_completion" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}: whether it takes the script was not tried")
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("edgeq bu", ["build"]),
        ("edgeq build --bi", ["--bits"]),
        ("edgeq build m.onnx --target jetson-orin-n", ["jetson-orin-nano", "jetson-orin-nx"]),
        ("edgeq build m.onnx --recipe le", ["leaves"]),
        ("edgeq build m.onnx --preset ci", ["cifar10", "cifar100"]),
        ("edgeq build m.onnx --effort q", ["quick"]),
        ("edgeq estimate m.onnx --target jetson-th", ["jetson-thor"]),
        ("edgeq device-check --target jetson-th", ["jetson-thor"]),
        ("edgeq targets --show jetson-th", ["jetson-thor"]),
        ("edgeq recipes --show le", ["leaves"]),
    ],
)
def test_verbs_options_and_names_are_completed(typed, offered):
    place = str(len(typed.split()) - 1)
    answer = complete("complete_bash", COMP_WORDS=typed, COMP_CWORD=place)
    assert answer.split() == offered


def test_every_verb_with_json_is_run_here():
    verbs = typer.main.get_command(app).commands
    having = {name for name, verb in verbs.items() for item in verb.params if "--json" in item.opts}
    assert having == set(RUNS) | WITHOUT_A_RUN


@pytest.mark.parametrize("verb", sorted(RUNS))
def test_json_is_all_that_standard_output_holds(
    verb, build, edgeq_process, digits, tiny, parse_graph, tmp_path
):
    onnx.save(parse_graph(WIDE), tmp_path / "wide.onnx")
    words: list[str] = []
    for word in RUNS[verb]:
        known = {"digits": digits, "build": build.folder, "tmp": tmp_path}
        words += tiny if word == "{tiny}" else [word.format(**known)]
    done = edgeq_process(verb, *words, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_a_fault_leaves_standard_output_empty_under_json(edgeq_process, tmp_path):
    for verb in ("build", "explain", "lint", "estimate"):
        done = edgeq_process(verb, tmp_path / "none.onnx", "--target", "jetson-orin", "--json")
        assert (done.code, done.out) == (3, "")
        assert "error: " in done.err
