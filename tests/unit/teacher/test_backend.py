"""ONNX's own node tests, for every operator that has a converter.

Each case runs twice: with all inputs as graph inputs, and with all but the first as initializers, which takes the path
of constants that are written into the call. Only the first output is compared where edgeq gives only one.
"""

from __future__ import annotations

import collections
import functools
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.loader import load_model_tests

from edgeq.teacher.converters import CONVERTERS, TORCH_TYPES
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.support import OPSETS

TYPES = {"bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8"}

TRAINING = "training mode is refused"
EMPTY = "the maximum of nothing is refused by torch"
EXCLUDED = {
    "test_batchnorm_epsilon_training_mode": TRAINING,
    "test_batchnorm_example_training_mode": TRAINING,
    "test_reduce_max_empty_set": EMPTY,
    "test_reduce_max_empty_set_bool": EMPTY,
    "test_reduce_min_empty_set": EMPTY,
    "test_training_dropout": TRAINING,
    "test_training_dropout_default": TRAINING,
    "test_training_dropout_default_mask": TRAINING,
    "test_training_dropout_mask": TRAINING,
    "test_training_dropout_zero_ratio": TRAINING,
    "test_training_dropout_zero_ratio_mask": TRAINING,
}

# A float16 sum in another order differs by a few units in the last of 11 bits.
HALF_TOLERANCE = 4 * 2.0**-10


@functools.cache
def cases():
    """Return the cases of each operator; those of several operators are under "composed"."""
    found = collections.defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about overflow in the generators of the cases
        everything = load_model_tests(kind="node")
    for case in everything:
        if case.model is not None and is_ours(case):
            nodes = case.model.graph.node
            found[nodes[0].op_type if len(nodes) == 1 else "composed"].append(case)
    return found


def data_sets(case):
    """Return the (inputs, outputs) of a case; some generators give TensorProtos."""
    return [
        [
            [
                onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item
                for item in side
            ]
            for side in data_set
        ]
        for data_set in case.data_sets
    ]


def is_ours(case):
    nodes = case.model.graph.node
    arrays = [item for inputs, outputs in data_sets(case) for item in [*inputs, *outputs]]
    casts = [item.i for node in nodes for item in node.attribute if item.name == "to"]
    return (
        all(
            not node.domain and (node.op_type in CONVERTERS or node.op_type == "Constant")
            for node in nodes
        )
        and all(str(getattr(item, "dtype", "none")) in TYPES for item in arrays)
        and set(casts) <= set(TORCH_TYPES)
    )


def prepared(model):
    """Return the model in an opset that edgeq reads, with the outputs that it gives."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = copy.opset_import[0]
    opset.version = min(max(opset.version, OPSETS[0]), OPSETS[1])
    onnx.checker.check_model(copy)
    nodes = copy.graph.node
    if len(nodes) == 1 and not CONVERTERS.get(nodes[0].op_type).returns_tuple:
        del copy.graph.output[1:]
    return copy


def run(model, inputs, *, as_constants):
    names = [item.name for item in model.graph.input]
    if as_constants:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in list(zip(names, inputs, strict=True))[1:]
        )
        model, inputs = copy, inputs[:1]
    module = import_teacher(model).module
    return [item.numpy() for item in module(*(torch.from_numpy(np.array(item)) for item in inputs))]


def check(case):
    model = prepared(case.model)
    for inputs, expected in data_sets(case):
        for as_constants in (False, True)[: len(inputs)]:
            found = run(model, inputs, as_constants=as_constants)
            for ours, theirs in zip(found, expected, strict=False):
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                rtol = HALF_TOLERANCE if theirs.dtype == np.float16 else case.rtol
                np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=max(case.atol, 1e-6))


def failure(case):
    """Return why a case fails, or None."""
    try:
        check(case)
    except Exception as error:
        return f"{case.name}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("op_type", [*CONVERTERS.names(), "composed"])
def test_onnx_node_tests_pass(op_type):
    chosen = [case for case in cases()[op_type] if case.name not in EXCLUDED]
    assert chosen, "no node test covers this operator"
    assert [text for text in map(failure, chosen) if text] == []


def test_every_exclusion_still_fails():
    known = [case for group in cases().values() for case in group if case.name in EXCLUDED]
    assert known
    assert [case.name for case in known if failure(case) is None] == []


def test_most_node_tests_of_these_operators_are_run():
    count = sum(len(group) for group in cases().values())
    assert count - len(EXCLUDED) >= 700
