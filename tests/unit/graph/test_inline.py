"""Functions of the file's own and branches of known condition are put in place; what grows without bound is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeq.core.errors import ModelError
from edgeq.graph.fold_shapes import fold_shapes, infer_for_any_batch
from edgeq.graph.inline_branches import inline_branches
from edgeq.graph.read import load_model
from edgeq.graph.view import GraphView

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def parse(graph: str, *, opset: int = 17, functions: str = "") -> onnx.ModelProto:
    domain = ', "mine" : 1' if functions else ""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}{domain}]>\n{graph}\n{functions}'
    )


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(None, {"x": X})[0])


def require_inlined(model: onnx.ModelProto, folder: Path, ops: list[str]) -> None:
    """Check the operators that are left, the names of the interface, and the numbers."""
    loaded = load_model(save(model, folder))
    assert [node.op_type for node in loaded.model.graph.node if node.op_type != "Constant"] == ops
    assert not loaded.model.functions
    assert [item.name for item in loaded.model.graph.output] == ["y"]
    np.testing.assert_array_equal(run(loaded.model), run(model))


def function(name: str, body: str) -> str:
    return (
        f'<domain: "mine", opset_import: ["" : 17, "mine" : 1]>\n{name} (a) => (b) {{ {body} }}\n'
    )


def test_calls_of_functions_are_replaced_by_their_bodies(tmp_path: Path) -> None:
    model = parse(
        "g (float[2,3,4] x) => (float[2,3,4] y) { u = mine.Outer (x) y = mine.Outer (u) }",
        functions=function("Outer", "c = mine.Inner (a) b = Neg (c)")
        + function("Inner", "c = Abs (a) b = Exp (c)"),
    )
    require_inlined(model, tmp_path, ["Abs", "Exp", "Neg"] * 2)


def test_a_function_that_nothing_calls_changes_nothing(tmp_path: Path) -> None:
    model = parse(
        "g (float[2,3,4] x) => (float[2,3,4] y) { y = Abs (x) }",
        functions=function("Unused", "b = Abs (a)"),
    )
    assert load_model(save(model, tmp_path)).model == model


def test_functions_that_unfold_without_bound_are_refused_unfolded(tmp_path: Path) -> None:
    bodies = [function(f"F{i}", f"c = mine.F{i + 1} (a) b = mine.F{i + 1} (c)") for i in range(60)]
    model = parse(
        "g (float[2] x) => (float[2] y) { y = mine.F0 (x) }",
        functions="".join([*bodies, function("F60", "b = Abs (a)")]),
    )
    with pytest.raises(ModelError, match=r"unfold into 1.15e\+18 nodes"):
        load_model(save(model, tmp_path))


def test_functions_that_nest_deep_are_refused(tmp_path: Path) -> None:
    bodies = [function(f"F{i}", f"b = mine.F{i + 1} (a)") for i in range(10_000)]
    model = parse(
        "g (float[2] x) => (float[2] y) { y = mine.F0 (x) }",
        functions="".join([*bodies, function("F10000", "b = Abs (a)")]),
    )
    with pytest.raises(ModelError, match="nest deeper than 100"):
        load_model(save(model, tmp_path))


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) { y = mine.F (x) }",
        functions=function("F", "c = mine.G (a) b = Abs (c)") + function("G", "b = mine.F (a)"),
    )
    with pytest.raises(ModelError, match="call themselves: mine::F"):
        load_model(save(model, tmp_path))


def test_a_foreign_operator_inside_a_function_is_found(tmp_path: Path) -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) { y = mine.F (x) }",
        functions=function("F", "b = Wonder (a)"),
    )
    with pytest.raises(ModelError, match="Wonder"):
        load_model(save(model, tmp_path))


IF = """
  y = If (k) <
    then_branch = t () => (float[2,3,4] r) { i = Abs (x) r = Exp (i) },
    else_branch = e () => (float[2,3,4] r) { i = Neg (x) r = Exp (i) }
  >
"""


@pytest.mark.parametrize(("condition", "first"), [("1", "Abs"), ("0", "Neg")])
def test_a_constant_condition_leaves_the_branch_that_is_taken(
    tmp_path: Path, condition: str, first: str
) -> None:
    model = parse(f"g (float[2,3,4] x) => (float[2,3,4] y) <bool k = {{{condition}}}> {{ {IF} }}")
    require_inlined(model, tmp_path, [first, "Exp"])


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("batch", ["2", "N"])
def test_a_condition_that_static_shapes_decide_leaves_one_branch(
    tmp_path: Path, opset: int, batch: str
) -> None:
    model = parse(
        f"""g (float[{batch},3,4] x) => (float[{batch},3,4] y) <int64 one = {{1}}, int64 three = {{3}}> {{
          s = Shape (x) d = Gather (s, one) k = Equal (d, three) {IF} }}""",
        opset=opset,
    )
    require_inlined(model, tmp_path, ["Shape", "Gather", "Equal", "Abs", "Exp"])


def test_a_condition_made_of_data_stays(tmp_path: Path) -> None:
    model = parse(
        f"""g (float[2,3,4] x) => (float[2,3,4] y) {{
          m = ReduceMax <keepdims = 0> (x) k = Cast <to = 9> (m) {IF} }}"""
    )
    assert load_model(save(model, tmp_path)).model == model


def test_branches_inside_branches_are_inlined_and_names_kept_apart(tmp_path: Path) -> None:
    inner = """p = If (k) <
      then_branch = t2 () => (float[2,3,4] q) { i2 = Abs (x) q = Relu (i2) },
      else_branch = e2 () => (float[2,3,4] q) { q = Neg (x) }
    >"""
    model = parse(
        f"""g (float[2,3,4] x) => (float[2,3,4] y) <bool k = {{1}}> {{
          a = If (k) <
            then_branch = t () => (float[2,3,4] r) {{ {inner} r = Exp (p) }},
            else_branch = e () => (float[2,3,4] r) {{ r = Neg (x) }}
          >
          c = If (k) <
            then_branch = t () => (float[2,3,4] r) {{ {inner} r = Exp (p) }},
            else_branch = e () => (float[2,3,4] r) {{ r = Neg (x) }}
          >
          y = Add (a, c) }}"""
    )
    require_inlined(model, tmp_path, ["Abs", "Relu", "Exp"] * 2 + ["Add"])


def test_a_branch_may_give_its_own_constant(tmp_path: Path) -> None:
    model = parse(
        """g (float[2,3,4] x) => (float[2,3,4] y) <bool k = {1}> {
          a, b = If (k) <
            then_branch = t () => (float[2,3,4] r, float[1] w) <float[1] w = {2}> { r = Abs (x) },
            else_branch = e () => (float[2,3,4] r, float[1] w) <float[1] w = {3}> { r = Neg (x) }
          >
          y = Mul (a, b) }"""
    )
    require_inlined(model, tmp_path, ["Abs", "Identity", "Mul"])


def test_a_branch_of_another_number_of_outputs_is_refused(tmp_path: Path) -> None:
    model = parse(f"g (float[2,3,4] x) => (float[2,3,4] y) <bool k = {{1}}> {{ {IF} }}")
    branch = model.graph.node[0].attribute[0].g
    branch.output.append(onnx.ValueInfoProto(name="i", type=branch.output[0].type))
    with pytest.raises(ModelError):
        load_model(save(model, tmp_path))
    with pytest.raises(ModelError, match="another number of outputs"):
        inline_branches(model, model)


def test_shapes_are_folded_axis_by_axis() -> None:
    model = parse(
        """g (float[N,3,8] x) => (float[a,b] y) <int64[1] two = {2}, int64[1] end = {3}, int64[1] rest = {-1}> {
          s = Shape (x) h = Slice (s, two, end) n = Gather (s, two) t = Mul (n, two)
          z = Shape <start = 0, end = 1> (x) c = Concat <axis = 0> (z, t) y = Reshape (x, c) }"""
    )
    values = fold_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True))
    assert {name: value.tolist() for name, value in values.items()} == {
        "h": [8],
        "n": [8],
        "t": [16],
    }


def test_a_freed_batch_decides_nothing() -> None:
    model = parse(
        """g (float[5,3] x) => (float[5] y) <int64[1] zero = {0}, int64[1] one = {1}> {
          s = Shape (x) n = Gather (s, zero) c = Gather (s, one) y = ReduceSum (x, c) }"""
    )
    assert set(fold_shapes(onnx.shape_inference.infer_shapes(model))) >= {"n", "c"}
    freed = fold_shapes(infer_for_any_batch(GraphView(model)))
    assert "n" not in freed
    assert freed["c"].tolist() == [3]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5
