"""A sequence whose parts are known goes, and ONNX Runtime gives the same bits; every other one stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeq.graph.inline_sequences import inline_sequences

SIZES = """int64[2] sizes = {1, 3}, int64 two = {2}, int64 three = {3}, int64 i = {0}, int64 j = {-1},
    int64[4] four = {1,1,1,-1}"""

KNOWN = {
    "sizes": """s = SplitToSequence<axis=1> (x, sizes) a = SequenceAt (s, i) b = SequenceAt (s, j)
        y = Concat<axis=1> (b, a)""",
    "equal": "s = SplitToSequence<axis=1> (x, two) a = SequenceAt (s, i) b = SequenceAt (s, j) y = Mul (a, b)",
    "a-rest": "s = SplitToSequence<axis=-2> (x, three) b = SequenceAt (s, j) y = Abs (b)",
    "ones": "s = SplitToSequence<axis=1> (x) b = SequenceAt (s, j) y = Abs (b)",
    "one-part-twice": """s = SplitToSequence<axis=1> (x, two) a = SequenceAt (s, i)
        b = SequenceAt (s, i) y = Add (a, b)""",
    "joined": "s = SplitToSequence<axis=1> (x, two) h = ConcatFromSequence<axis=2> (s) y = Abs (h)",
    "made": """n = Neg (x) s = SequenceConstruct (x, n) b = SequenceAt (s, j)
        c = ConcatFromSequence<axis=1> (s) y = Concat<axis=1> (b, c)""",
}

UNKNOWN = {
    "a-batch": "s = SplitToSequence<axis=0> (x, two) a = SequenceAt (s, i) y = Abs (a)",
    "a-length": """s = SplitToSequence<axis=1> (x, two) a = SequenceAt (s, i) l = SequenceLength (s)
        f = Cast<to=1> (l) y = Mul (a, f)""",
    "a-new-axis": """s = SplitToSequence<axis=1> (x, two) h = ConcatFromSequence<axis=0,new_axis=1> (s)
        y = ReduceMax<axes=[0],keepdims=0> (h)""",
    "a-lost-axis": """s = SplitToSequence<axis=1,keepdims=0> (x) h = SequenceAt (s, i) f = Flatten (h)
        y = Reshape (f, four)""",
    "a-computed-place": "l = Size (x) z = Sub (l, l) s = SplitToSequence<axis=1> (x, two) y = SequenceAt (s, z)",
    "a-place-outside": "s = SplitToSequence<axis=1> (x, two) y = SequenceAt (s, three)",
}


def make(body: str, *, opset: int = 17) -> onnx.ModelProto:
    text = f"g (float[N,4,5,6] x) => (float[?,?,?,?] y) <{SIZES}> {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    onnx.checker.check_model(model)
    return model


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    return inline_sequences(onnx.shape_inference.infer_shapes(model), model)


def run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("case", KNOWN)
def test_known_parts_are_split_and_joined_as_tensors(case, opset):
    model = make(KNOWN[case], opset=opset)
    before = model.SerializeToString()
    result = inline(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert not [node for node in result.graph.node if "Sequence" in node.op_type]
    np.testing.assert_array_equal(run(result), run(model))
    assert inline(result) is result


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_sequence_whose_parts_are_not_known_stays(case):
    model = make(UNKNOWN[case])
    assert inline(model) is model


def test_the_parts_keep_the_names_that_the_file_gave_them():
    result = inline(make(KNOWN["sizes"]))
    (split,) = (node for node in result.graph.node if node.op_type == "Split")
    assert list(split.output) == ["a", "b"]
    assert not {"sizes", "i", "j"} & {item.name for item in result.graph.initializer}
