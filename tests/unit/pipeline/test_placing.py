"""What the target's parser would refuse is told before anything is trained."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploy.cards import load_card
from edgeq.core.errors import ModelError
from edgeq.pipeline import make_options
from edgeq.pipeline.placing import place, read_model

TEXT = """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[4,3,3,3] w, float[4] scales = {1, 1, 2, 2}>
{ c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w) y = Resize<antialias=ANTIALIAS,mode="linear">(c, , scales) }"""


def place_it(parse_graph, folder: Path, *, antialias: int, target: str):
    path = folder / "net.onnx"
    onnx.save(parse_graph(TEXT.replace("ANTIALIAS", str(antialias)), opset=18), path)
    options = make_options(path, target=target, mean=[0.0], std=[1.0])
    loaded, reports = read_model(options)
    return place(options, load_card(target), loaded, [report.spec for report in reports])


def test_a_form_that_the_parser_refuses_is_refused_at_once(parse_graph, tmp_path):
    with pytest.raises(ModelError, match=r"Jetson.* would refuse the model: Resize with antialias"):
        place_it(parse_graph, tmp_path, antialias=1, target="jetson-orin")


def test_an_opset_that_cannot_be_raised_is_refused_at_once(parse_graph, tmp_path):
    text = """g (float[N,3,8,8] x) => (float[N,3,10,4] y) <float[4] s = {1, 1, 1.3, 0.6}> { y = Resize(x, s) }"""
    path = tmp_path / "net.onnx"
    onnx.save(parse_graph(text, opset=10), path)
    options = make_options(path, target="cpu", mean=[0.0], std=[1.0])
    loaded, reports = read_model(options)
    with pytest.raises(ModelError, match="opset 11 cannot say"):
        place(options, load_card("cpu"), loaded, [report.spec for report in reports])


@pytest.mark.parametrize(("antialias", "target"), [(0, "jetson-orin"), (1, "cpu")])
def test_what_the_runtime_of_the_target_takes_is_placed(parse_graph, tmp_path, antialias, target):
    placed = place_it(parse_graph, tmp_path, antialias=antialias, target=target)
    assert list(placed.plan.quantized())
