from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from edgeq.graph.rescaled import KEY, mark_rescaled, unlike_tensors

FACTORS = {"r1": np.float32([1, 2]), "r0": np.float32([0.5, 1])}


def model(factors=None) -> onnx.ModelProto:
    found = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    mark_rescaled(found, factors or {})
    return found


def test_rescaled_tensors_are_unlike_those_of_a_model_without_the_note():
    for pair in ((model(), model(FACTORS)), (model(FACTORS), model())):
        assert unlike_tensors(*pair) == {"r0", "r1"}


def test_two_models_with_the_same_factors_are_alike_and_with_others_are_not():
    other = {**FACTORS, "r1": np.float32([1, 3])}
    assert unlike_tensors(model(FACTORS), model(FACTORS)) == frozenset()
    assert unlike_tensors(model(FACTORS), model(other)) == {"r0", "r1"}


def test_no_factors_leave_no_note():
    assert not model().metadata_props


def test_a_new_note_takes_the_place_of_an_old_one_and_leaves_other_metadata():
    found = model(FACTORS)
    found.metadata_props.add(key="author", value="me")
    mark_rescaled(found, {"c": np.float32([2])})
    assert sorted(item.key for item in found.metadata_props) == ["author", KEY]
    assert unlike_tensors(model(), found) == {"c"}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"tensors": 3}', "[" * 100_000])
def test_a_note_that_cannot_be_read_counts_as_none(text):
    found = model()
    found.metadata_props.add(key=KEY, value=text)
    assert unlike_tensors(model(), found) == frozenset()
