"""Packing of 4-bit weights for any size: nothing is lost, and ONNX reads what was written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeq.core.errors import NumericsError
from edgeq.core.numerics import pack_int4, unpack_int4
from edgeq.core.quantized import PackedMatrix, from_rows, to_rows

sizes = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 7))
seeds = st.integers(0, 2**31)


@given(count=st.integers(0, 33), seed=seeds)
def test_any_number_of_codes_comes_back_and_onnx_reads_the_same(count, seed):
    codes = np.random.default_rng(seed).integers(-8, 8, count).astype(np.int8)
    packed = pack_int4(codes)
    assert packed.size == (count + 1) // 2
    np.testing.assert_array_equal(unpack_int4(packed, count), codes)
    tensor = onnx.TensorProto(
        data_type=onnx.TensorProto.INT4, dims=[count], raw_data=packed.tobytes()
    )
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


@given(sizes=sizes, seed=seeds)
def test_blocks_are_rows_and_come_back(sizes, seed):
    blocks, block, columns = sizes
    matrix = np.random.default_rng(seed).normal(size=(blocks * block, columns))
    rows = to_rows(matrix, block)
    np.testing.assert_array_equal(rows[0], matrix[:block, 0])
    np.testing.assert_array_equal(from_rows(rows, columns), matrix)


@given(size=st.integers(1, 40), block=st.integers(1, 40))
def test_only_blocks_that_divide_are_taken(size, block):
    matrix = np.zeros((size, 3), np.float32)
    if size % block:
        with pytest.raises(NumericsError, match="do not divide"):
            to_rows(matrix, block)
    else:
        assert to_rows(matrix, block).shape == (3 * size // block, block)


@settings(max_examples=25, deadline=None)
@given(sizes=sizes, seed=seeds)
def test_onnx_dequantizes_blocks_as_we_do(sizes, seed):
    blocks, block, columns = sizes
    draw = np.random.default_rng(seed)
    codes = draw.integers(-7, 8, (blocks * block, columns)).astype(np.int8)
    scale = draw.uniform(0.01, 1, (blocks, columns)).astype(np.float32)
    packed = PackedMatrix(
        codes=codes, scale=scale, rows=np.zeros(0, np.int64), floats=np.zeros((0, columns), np.float32)
    )  # fmt: skip
    assert packed.block == block
    node = onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["y"], axis=0, block_size=block)
    made = [
        onnx.TensorProto(
            name="q", data_type=22, dims=codes.shape, raw_data=pack_int4(codes).tobytes()
        ),
        numpy_helper.from_array(scale, "s"),
    ]
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("y", 1, codes.shape)], made
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    (found,) = ReferenceEvaluator(model).run(None, {})
    np.testing.assert_array_equal(found, packed.dequantized())
