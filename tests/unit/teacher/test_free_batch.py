from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeq.core.errors import ModelError
from edgeq.core.specs import InputSpec, Layout
from edgeq.teacher.free_batch import free_batch
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.proof import prove_equal, require_any_batch

FLAT = """g (float[B,2,4,4] x) => (float[B,3] y) <float[3,32] w, int64[2] to = {TO}>
{ r = Relu (x) f = Reshape (r, to) y = Gemm<transB=1> (f, w) }"""

# Attention as torch exports it: the batch is moved behind the sequence, merged into it and into the heads.
ATTENTION = """g (float[1,8,2,2] x) => (float[1,8] y)
<float[1,1,8] token, float[8,24] w, int64[3] to_rows = {1,8,4}, int64[2] merged = {5,8}, int64[3] apart = {5,1,24},
 int64[3] heads = {5,2,4}, int64[3] back = {5,1,8}, int64 zero = {0}, int64[3] parts = {8,8,8}>
{
  rows = Reshape (x, to_rows)
  tokens = Transpose<perm=[0,2,1]> (rows)
  all = Concat<axis=1> (token, tokens)
  moved = Transpose<perm=[1,0,2]> (all)
  flat = Reshape (moved, merged)
  qkv = MatMul (flat, w)
  apart3 = Reshape (qkv, apart)
  q, k, v = Split<axis=2> (apart3, parts)
  qh = Reshape (q, heads) kh = Reshape (k, heads) vh = Reshape (v, heads)
  qt = Transpose<perm=[1,0,2]> (qh) kt = Transpose<perm=[1,2,0]> (kh) vt = Transpose<perm=[1,0,2]> (vh)
  s = MatMul (qt, kt) p = Softmax<axis=-1> (s) o = MatMul (p, vt)
  ot = Transpose<perm=[1,0,2]> (o)
  joined = Reshape (ot, back)
  first = Transpose<perm=[1,0,2]> (joined)
  y = Gather<axis=1> (first, zero)
}"""


def spec_of(*shape: int) -> InputSpec:
    return InputSpec(
        name="x",
        shape=shape[1:],
        batch=shape[0],
        dtype="float32",
        layout=Layout.OTHER,
        mean=(),
        std=(),
        low=(-2.0,),
        high=(2.0,),
    )


def free(model, spec):
    """Free the batch, and prove the result against the file at its own batch and against itself at larger ones."""
    teacher = free_batch(import_teacher(model), [spec])
    prove_equal(teacher, model, [spec], seed=0)
    require_any_batch(teacher, [spec], seed=0)
    return teacher


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("to", ["BATCH,-1", "BATCH,32", "-1,32", "0,-1"])
def test_a_flatten_to_the_batch_of_the_file_runs_any_batch(parse_graph, batch, to):
    text = FLAT.replace("B,", f"{batch},").replace("TO", to.replace("BATCH", str(batch)))
    free(parse_graph(text), spec_of(batch, 2, 4, 4))


def test_attention_over_a_batch_of_one_runs_any_batch(parse_graph):
    free(parse_graph(ATTENTION), spec_of(1, 8, 2, 2))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "resize", ['<mode="linear"> (x, , , all)', '<mode="linear", axes=[-1,0]> (x, , , two)']
)
def test_a_resize_to_constant_sizes_runs_any_batch(parse_graph, batch, resize):
    text = f"""g (float[{batch},2,4,4] x) => (float[{batch},2,?,?] y)
    <int64[4] all = {{{batch},2,8,6}}, int64[2] two = {{6,{batch}}}> {{ y = Resize{resize} }}"""
    free(parse_graph(text, opset=18), spec_of(batch, 2, 4, 4))


def test_the_teacher_that_was_passed_in_keeps_its_batch(parse_graph):
    text = FLAT.replace("B,", "1,").replace("TO", "1,32")
    teacher = import_teacher(parse_graph(text))
    before = str(teacher.module.graph)
    free_batch(teacher, [spec_of(1, 2, 4, 4)])
    assert str(teacher.module.graph) == before


def test_a_dynamic_batch_needs_no_copy(parse_graph):
    teacher = import_teacher(parse_graph("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }"))
    assert free_batch(teacher, [dataclasses.replace(spec_of(1, 4), batch=None)]) is teacher


@pytest.mark.parametrize(
    "body",
    [
        "{ y = Softmax<axis=0> (x) }",  # samples of a batch influence each other
        "{ y = Add (x, table) }",  # a table of two rows is no part of a larger batch
    ],
)
def test_a_batch_that_cannot_be_freed_is_refused_with_the_mend(parse_graph, body):
    header = "g (float[2,4] x) => (float[2,4] y) <float[2,4] table>"
    model = parse_graph(f"{header} {body}", table=np.ones((2, 4), np.float32))
    teacher = free_batch(import_teacher(model), [spec_of(2, 4)])
    with pytest.raises(ModelError) as caught:
        require_any_batch(teacher, [spec_of(2, 4)], seed=0)
    assert "the batch size 2 is built into the file" in caught.value.what
    assert "dynamic" in caught.value.mend
