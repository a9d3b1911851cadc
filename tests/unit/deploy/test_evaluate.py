from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image

from deploy import evaluate
from deploy.evaluate import EvalResult, evaluate_top1, require_pictures
from deploy.onnxrt import run_onnx
from edgeq.core.errors import InputError
from edgeq.core.specs import Layout

# Class = the channel with the largest mean: pictures that are red, green or blue are told apart without training.
_BRIGHTEST = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,8,8] x) => (float[N,3] y) { p = GlobalAveragePool (x) y = Flatten (p) }
"""
_DARKEST = _BRIGHTEST.replace("y = Flatten (p)", "q = Flatten (p) y = Neg (q)")


@pytest.fixture
def colours(tmp_path):
    """Seven pictures: 3 blue, 2 green, 2 red; one of the blue ones lies under red."""
    rng = np.random.default_rng(0)
    for channel, name in ((2, "a_blue"), (1, "b_green"), (0, "c_red")):
        for index in range(2):
            pixels = rng.integers(0, 100, (8, 8, 3), np.uint8)
            pixels[:, :, channel] += 120
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    Image.fromarray(pixels[:, :, ::-1].copy()).save(tmp_path / "c_red" / "wrong.png")
    return tmp_path


@pytest.fixture
def brightest():
    """Classes in the order blue, green, red."""
    model = parser.parse_model(
        _BRIGHTEST.replace("y = Flatten (p)", "q = Flatten (p) y = Gather <axis=1> (q, order)")
    )
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order")
    )
    return model


def test_accuracy_counts_the_right_ones(brightest, colours, input_spec):
    result = evaluate_top1({"teacher": brightest}, colours, input_spec)["teacher"]
    assert result == EvalResult(correct=6, total=7, top1_pct=600 / 7, classes=3)


def test_two_models_are_judged_on_the_same_pictures_in_one_pass(
    brightest, colours, input_spec, tmp_path
):
    onnx.save(parser.parse_model(_DARKEST), tmp_path / "c_red" / ".darkest.onnx")
    models = {"a": brightest, "b": tmp_path / "c_red" / ".darkest.onnx"}
    results = evaluate_top1(models, colours, input_spec)
    assert results["a"].correct == 6
    assert results["b"].total == 7
    assert results["b"].correct != 6


def test_small_batches_give_the_same_figure(brightest, colours, input_spec, monkeypatch):
    monkeypatch.setattr(evaluate, "BATCH_BYTES", 3 * 4 * 3 * 64)
    assert evaluate_top1({"m": brightest}, colours, input_spec)["m"].correct == 6


def test_a_fixed_batch_of_one_gives_the_same_figure(brightest, colours, input_spec):
    brightest.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    brightest.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert evaluate_top1({"m": brightest}, colours, input_spec)["m"].correct == 6


def test_pixels_are_what_the_model_was_trained_on(brightest, colours, input_spec):
    ((pixels, labels),) = evaluate.load_labelled_images(colours, input_spec)
    predicted = run_onnx(brightest, {"x": pixels})["y"].argmax(1)
    assert (predicted == labels).sum() == 6


def test_another_number_of_classes_is_an_input_error(brightest, colours, input_spec):
    (colours / "d_more").mkdir()
    with pytest.raises(InputError, match="4 class folders, but the model has 3 classes"):
        evaluate_top1({"m": brightest}, colours, input_spec)


def test_a_model_without_classes_is_an_input_error(colours, input_spec):
    model = parser.parse_model(_BRIGHTEST)
    model.graph.output[0].name = "x_out"
    model.graph.node[1].op_type, model.graph.node[1].output[0] = "Relu", "x_out"
    model.graph.node[1].input[0] = "x"
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="no output that looks like classes"):
        evaluate_top1({"m": model}, colours, input_spec)


def test_pictures_that_fit_are_let_pass(colours, input_spec):
    require_pictures(colours, input_spec, {"y": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4), "3 class folders, but the model has 4 classes"),
        ((1, 3, 8, 8), "no output that looks like classes"),
    ],
    ids=str,
)
def test_pictures_that_do_not_fit_the_outputs_are_refused_before_a_run(
    colours, input_spec, shape, message
):
    with pytest.raises(InputError, match=message):
        require_pictures(colours, input_spec, {"y": np.zeros(shape, np.float32)})


def test_pictures_that_do_not_fit_the_input_are_refused_before_a_run(colours, input_spec):
    spec = dataclasses.replace(input_spec, layout=Layout.OTHER)
    with pytest.raises(InputError, match="takes no pictures"):
        require_pictures(colours, spec, {"y": np.zeros((1, 3), np.float32)})


def test_an_input_of_another_name_is_an_input_error(brightest, colours, input_spec):
    with pytest.raises(InputError, match="no values for the input x"):
        evaluate_top1({"m": brightest}, colours, dataclasses.replace(input_spec, name="image"))


def test_progress_names_the_running_accuracy_of_each_model(brightest, colours, input_spec):
    heard = []

    class Listener:
        def start(self, stage, total, unit):
            heard.append((stage, total, unit))

        def advance(self, n=1, **figures):
            heard.append((n, figures))

        def finish(self, summary):
            heard.append(summary)

    evaluate_top1({"m": brightest}, colours, input_spec, progress=Listener())
    assert heard[0] == ("evaluate", 7, "pictures")
    assert heard[1] == (7, {"m_top1_pct": pytest.approx(600 / 7)})
    assert heard[2] == "m 85.71 % of 7 pictures"
