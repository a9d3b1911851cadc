from __future__ import annotations

import onnx
import pytest

from deploy.half_agreement import compare_half
from edgeq.core.errors import NumericsError
from edgeq.graph.convert_opset import convert_opset
from edgeq.graph.half_rules import choose_full
from edgeq.graph.type_half import type_half


def half(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    twin = convert_opset(model, 19)
    inferred = onnx.shape_inference.infer_shapes(twin)
    return twin, type_half(twin, kept=choose_full(inferred, {})).model


def test_the_cost_of_half_precision_is_counted(qdq, plan, samples):
    twin, model = half(qdq)
    found = compare_half(twin, model, plan, samples.feed(slice(8)))
    assert [item.tensor for item in found.codes.tensors] == ["x", "r1"]
    assert found.codes.tensors[0].largest <= 1
    assert all(20 < value < 200 for value in found.sqnr_db.values())
    same = compare_half(twin, twin, plan, samples.feed(slice(8)))
    assert same.codes.largest == 0
    assert set(same.sqnr_db.values()) == {200.0}


def test_an_overflow_is_no_result(qdq, plan, samples):
    twin, model = half(qdq)
    feed = samples.feed(slice(4))
    name = model.graph.output[0].name
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] == name:
            node.input[0] = "overflow"
    last = next(n for n in model.graph.node if n.output[0] == f"{name}/float16")
    scale = onnx.helper.make_tensor("huge", onnx.TensorProto.FLOAT16, [], [60000.0])
    model.graph.initializer.append(scale)
    product = onnx.helper.make_node("Mul", [last.output[0], "huge"], ["big"])
    square = onnx.helper.make_node("Mul", ["big", "huge"], ["overflow"])
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-1], product, square, nodes[-1]])
    with pytest.raises(NumericsError, match="NaN or infinity"):
        compare_half(twin, model, plan, feed)
