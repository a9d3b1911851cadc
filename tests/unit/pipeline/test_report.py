from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.testing

from deploy.cards import load_card
from edgeq.cli import build, options
from edgeq.cli.app import app
from edgeq.core.recipes import load_recipe
from edgeq.core.specs import GraphFlavour
from edgeq.pipeline import report
from edgeq.pipeline.options import BuildOptions
from edgeq.pipeline.report import command_words
from edgeq.report.page import Command


@pytest.fixture
def asked():
    return options.make_options(
        Path("some where/net 1.onnx"),
        out=Path("out"),
        target="jetson-orin",
        bits="w4a4",
        first_last="same",
        effort="quick",
        seed=7,
        recipe="leaves",
        preset="unit",
        mean="-0.5,0.25",
        std="1,2",
        bounds="-1,1",
        shapes=["a:b:1x3x8x8"],
        eval_path=Path("some where/pictures.zip"),
        settings=["training.steps=4"],
        teacher=Path("some where/w.pth"),
        samples=Path("some where/set"),
        device="cpu",
    )


def onward(asked: BuildOptions) -> list[Command]:
    """Return the commands that go on from the build that was asked for."""
    return list(report._onward(SimpleNamespace(options=asked, card=load_card(asked.target))))


def test_the_command_of_a_build_asks_for_the_same_build(asked, monkeypatch):
    seen = []
    monkeypatch.setattr("edgeq.pipeline.run_build", lambda wanted, *_, **__: seen.append(wanted))
    words = shlex.split(shlex.join(command_words(asked)))
    typer.testing.CliRunner().invoke(app, [*words[1:], "--out", "out"])
    expected = dataclasses.replace(
        asked,
        model=Path("net 1.onnx"),
        eval_path=Path("pictures.zip"),
        teacher_weights=Path("w.pth"),
        samples_path=Path("set"),
    )
    assert seen == [expected]


def test_the_command_names_no_folder_of_a_machine(asked):
    words = command_words(asked)
    assert "some where" not in " ".join(words)
    assert words[words.index("--out") + 1] == "THIS_FOLDER"
    assert "THIS_FOLDER is the one of this report" in report._reproduce(asked).purpose


@pytest.mark.parametrize("folder", ["r 1", "runs/r1"])
def test_a_folder_beside_the_model_is_found_again_from_there_and_back(asked, folder):
    inside = dataclasses.replace(asked, out=Path("some where") / folder)
    words = command_words(inside)
    assert words[words.index("--out") + 1] == folder
    assert "THIS_FOLDER" not in report._reproduce(inside).purpose
    back = "../" * len(Path(folder).parts)
    (compared,) = [item.text for item in onward(inside) if "edgeq compare" in item.text]
    assert compared.startswith(f"edgeq compare '{back}net 1.onnx' model.qdq.onnx")


def test_a_model_whose_folder_does_not_hold_the_report_is_looked_for_in_its_own(asked):
    (compared,) = [item.text for item in onward(asked) if "edgeq compare" in item.text]
    assert compared.startswith("edgeq compare 'MODEL_FOLDER/net 1.onnx' model.qdq.onnx")


def test_a_link_to_a_model_lies_where_the_link_lies(asked, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "v3.onnx").touch()
    link = tmp_path / "current.onnx"
    link.symlink_to(tmp_path / "store" / "v3.onnx")
    linked = dataclasses.replace(asked, model=link, out=tmp_path / "out")
    words = command_words(linked)
    assert (words[2], words[words.index("--out") + 1]) == ("current.onnx", "out")


def test_settings_tell_which_ones_equal_their_defaults(asked):
    usual = dataclasses.replace(asked, seed=0, device="auto", out=Path("net 1.jetson-orin"))
    recipe = load_recipe(usual.recipe, effort=usual.effort, settings=usual.settings)
    job = SimpleNamespace(
        options=usual, recipe=recipe, card=load_card(usual.target), preprocessing="", given=None
    )
    told = {item.name: item.origin for item in report.list_settings(job)}
    same = {name for name, origin in told.items() if origin == "equals the default"}
    assert same == {"--seed", "--device", "--out"}
    assert (told["--bits"], told["training.steps"]) == ("asked", "--set")


def test_the_placement_is_explained_with_the_types_of_the_build(asked):
    typed = dataclasses.replace(asked, flavour=GraphFlavour.FP16_TYPED)
    (explained,) = [item.text for item in onward(typed) if "edgeq explain" in item.text]
    assert "--flavour fp16-typed" in explained


def test_a_file_that_only_tensorrt_optimises_is_not_timed_in_onnx_runtime(asked):
    typed = dataclasses.replace(asked, target="jetson-thor")
    assert load_card("jetson-thor").flavour is GraphFlavour.FP16_TYPED
    assert not [item.text for item in onward(typed) if "bench_latency" in item.text]


def test_the_defaults_are_those_of_the_command_line():
    command = typer.main.get_command(app).commands[build.build.__name__]
    known = {param.opts[0]: str(param.default) for param in command.params}
    assert {name: known[name] for name in report._DEFAULTS} == report._DEFAULTS


def test_both_models_are_timed_at_the_shapes_of_the_build(asked):
    (timed,) = [item.text for item in onward(asked) if "bench_latency" in item.text]
    assert timed.endswith("model.qdq.onnx --shape a:b:1x3x8x8 --json > latency.json")
