"""`edgeq build` on networks that read other things than a batch of pictures, or give other things than classes.

Each goes all the way: the teacher is proved against ONNX Runtime, the student's codes are those of the file that ships,
and the bundle holds every input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from polygraphy.json import load_json

from deploy.onnxrt import Session
from edgeq.core.samples import SampleSet
from edgeq.graph.inputs import describe_inputs

HEAD = """r = Relu (n) p = GlobalAveragePool (r) f = Flatten (p) y = Gemm<transB=1> (f, v) }"""
BODY = "n = BatchNormalization (c, scale, bias, mean, var)"
NORM = "float[4] scale, float[4] bias, float[4] mean, float[4] var"


def picture_net(
    shape: str, channels: int, *, front: str = "c = Conv (x, w)", kind: str = "float", **more: str
) -> str:
    extra = "".join(f", {item}" for item in more.values())
    return (
        f"g ({kind}[{shape}] x) => (float[N,5] y) <float[4,{channels},3,3] w, {NORM}, float[5,4] v{extra}>"
        f"{{ {front} {BODY} {HEAD}"
    )


@dataclass(frozen=True)
class Built:
    """What a build left."""

    source: onnx.ModelProto
    folder: Path
    out: str

    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text("utf-8"))

    def samples(self) -> SampleSet:
        return SampleSet.load(self.folder / "samples")

    def shipped(self) -> onnx.ModelProto:
        return onnx.load(self.folder / "model.qdq.onnx")


Build = Callable[..., Built]


@pytest.fixture
def build_net(edgeq, parse_graph, tiny, tmp_path) -> Build:
    """Return a function that builds a graph given as text, and checks what holds for every network."""

    def run(text: str, *words: object, **arrays: np.ndarray) -> Built:
        source = parse_graph(text, **{"var": np.ones(4, np.float32), **arrays})
        onnx.save(source, tmp_path / "net.onnx")
        folder = tmp_path / "out"
        done = edgeq(
            "build", tmp_path / "net.onnx", "--target", "cpu", *tiny, *words, "--out", folder
        )
        assert done.code == 0, done.err
        built = Built(source, folder, done.out)
        shipped = built.shipped()
        onnx.checker.check_model(shipped, full_check=True)
        assert list(shipped.graph.input) == list(source.graph.input)
        assert list(shipped.graph.output) == list(source.graph.output)
        results = built.results()
        assert results["codes"]["tensors"]
        assert results["codes"]["largest"] <= 1
        assert min(output["sqnr_db"] for output in results["agreement"]["outputs"]) > 10
        calls = load_json(str(folder / "bundle" / "inputs.json"))
        size = samples_of_a_call(source)
        names = {item.name for item in source.graph.input}
        assert [set(call) for call in calls] == [names] * (16 // size)
        path = folder / "bundle" / "model.qdq.onnx"
        if "bfloat16[" in text.partition("{")[0]:  # ONNX Runtime takes no arrays of it
            assert all(Session(path).run(call) for call in calls)
        else:
            session = onnxruntime.InferenceSession(path)
            assert all(session.run(None, call) for call in calls)
        return built

    return run


def samples_of_a_call(source: onnx.ModelProto) -> int:
    """Return how many samples a call of the model takes."""
    return next(report.spec.batch or 1 for report in describe_inputs(source))


def is_without_labels(built: Built) -> bool:
    """Return true if the summary says so, no top class is told, and no loss needs one."""
    history = json.loads((built.folder / "history.json").read_text("utf-8"))
    told = [line for line in built.out.splitlines() if "gives no class scores" in line]
    return (
        len(told) == 1
        and "top class" not in built.out
        and built.results()["agreement"]["top1_match_ratio"] is None
        and built.samples().labels is None
        and set(history[0]) == {"step", "loss", "outputs", "features"}
    )


# The batch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_that_is_written_into_a_reshape_stays_in_the_file(build_net, batch):
    text = picture_net(f"{batch},3,8,8", 3, to=f"int64[2] to = {{{batch},4}}")
    text = text.replace("[N,5]", f"[{batch},5]").replace("Flatten (p)", "Reshape (p, to)")
    built = build_net(text)
    (to,) = (item for item in built.shipped().graph.initializer if item.name == "to")
    assert onnx.numpy_helper.to_array(to).tolist() == [batch, 4]
    assert len(built.samples()) == 16


def test_codes_are_compared_where_the_batch_is_not_the_first_axis(build_net):
    text = """g (float[1,3,8,8] x) => (float[1,5] y)
    <float[4,3,3,3] w, {NORM}, int64[3] rows = {1,4,36}, int64[2] flat = {36,4}, float[4,4] u,
     int64[3] apart = {36,1,4}, int64[1] axis = {0}, float[5,4] v>
    { c = Conv (x, w) {BODY} r = Relu (n) s = Reshape (r, rows) t = Transpose<perm=[2,0,1]> (s)
      f = Reshape (t, flat) m = MatMul (f, u) a = Reshape (m, apart) h = Relu (a)
      p = ReduceMean<axes=[0],keepdims=0> (h) y = Gemm<transB=1> (p, v) }"""
    built = build_net(text.replace("{NORM}", NORM).replace("{BODY}", BODY))
    compared = {item["tensor"]: item["count"] for item in built.results()["codes"]["tensors"]}
    assert compared["x"] == 16 * 3 * 8 * 8


def test_a_batch_that_cannot_be_freed_is_refused_before_the_work(
    edgeq, parse_graph, tiny, tmp_path
):
    text = picture_net("2,3,8,8", 3).replace("[N,5]", "[2,5]")
    model = parse_graph(
        text.replace("y = Gemm", "z = Gemm").replace(HEAD[-2:], " y = Softmax<axis=0> (z) }"),
        var=np.ones(4, np.float32),
    )
    onnx.save(model, tmp_path / "net.onnx")
    done = edgeq("build", tmp_path / "net.onnx", "--target", "cpu", *tiny, "--out", tmp_path / "o")
    assert done.code == 3
    assert "the batch size 2 is built into the file" in done.err
    assert not (tmp_path / "o").exists()


# No batch axis --------------------------------------------------------------------------------------------------------

TO_ONE = "int64[1] front = {0}"
UNBATCHED = {
    "channels-first": ("3,8,8", 3, "u = Unsqueeze (x, front) c = Conv (u, w)"),
    "one-channel": ("1,8,8", 1, "u = Unsqueeze (x, front) c = Conv (u, w)"),
    "channels-last": (
        "8,8,3",
        3,
        "t = Transpose<perm=[2,0,1]> (x) u = Unsqueeze (t, front) c = Conv (u, w)",
    ),
    "reshaped": ("3,8,8", 3, "u = Reshape (x, four) c = Conv (u, w)"),
    "layer-by-layer": (
        "3,8,8",
        3,
        """u = Unsqueeze (x, front) b = Conv<pads=[1,1,1,1]> (u, w3) d = Squeeze (b, front)
        q = Relu (d) z = Unsqueeze (q, front) c = Conv (z, w)""",
    ),
}


@pytest.mark.parametrize("case", UNBATCHED)
@pytest.mark.parametrize("is_squeezed", [True, False], ids=["squeezed", "batch-of-one"])
def test_a_picture_without_a_batch_axis_is_built(build_net, edgeq, case, is_squeezed):
    shape, channels, front = UNBATCHED[case]
    more = {"four": "int64[4] four = {1,3,8,8}", "w3": "float[3,3,3,3] w3"}
    text = picture_net(shape, channels, front=front, one=TO_ONE, **more)
    text = text.replace("[N,5]", "[5]" if is_squeezed else "[1,5]")
    if is_squeezed:
        text = text.replace("y = Gemm", "k = Gemm").replace(HEAD[-2:], " y = Squeeze (k, front) }")
    built = build_net(text, "--set", "training.activation_map=1")
    sizes = tuple(map(int, shape.split(",")))
    assert built.samples().samples.shape == (16, *sizes)
    assert (built.folder / "samples" / "preview.png").is_file()
    results = built.results()
    assert results["agreement"]["top1_match_ratio"] is not None
    history = json.loads((built.folder / "history.json").read_text("utf-8"))
    assert {"distillation", "features", "activation_map"} <= set(history[0])
    pair = (built.folder.parent / "net.onnx", built.folder / "model.qdq.onnx")
    done = edgeq("compare", *pair, "--samples", built.folder / "samples", "--json")
    assert done.code == 0, done.err


def test_a_picture_whose_batch_axis_comes_late_is_told_what_to_do(
    edgeq, parse_graph, tiny, tmp_path
):
    front = "o = Pad (x, ring) u = Unsqueeze (o, front) c = Conv (u, w)"
    text = picture_net("3,8,8", 3, front=front, one=TO_ONE, ring="int64[6] ring = {0,1,1,0,1,1}")
    model = parse_graph(text.replace("[N,5]", "[1,5]"), var=np.ones(4, np.float32))
    onnx.save(model, tmp_path / "net.onnx")
    done = edgeq("build", tmp_path / "net.onnx", "--target", "cpu", *tiny, "--out", tmp_path / "o")
    assert done.code == 3
    assert "the batch size 3 is built into the file" in done.err
    assert "if axis 0 is no batch but part of one sample, as in [C, H, W]" in done.err
    assert not (tmp_path / "o").exists()


def test_a_vector_without_a_batch_axis_is_built(build_net):
    text = """g (float[12] x) => (float[12] y)
    <float[12,4] a, float[4,12] b, {NORM}, int64[2] two = {1,4}, int64[1] four = {4}>
    { m = MatMul (x, a) c = Reshape (m, two) {BODY} r = Relu (n) f = Reshape (r, four) y = MatMul (f, b) }"""
    built = build_net(text.replace("{NORM}", NORM).replace("{BODY}", BODY))
    assert built.samples().samples.shape == (16, 12)
    assert is_without_labels(built)


def test_two_inputs_without_a_batch_axis_are_built(build_net):
    text = TWO.replace("[N,3,8,8]", "[3,8,8]").replace("[N,6]", "[6]").replace("[N,5]", "[1,5]")
    text = text.replace("<float[4,3,3,3] w", f"<{TO_ONE}, float[4,3,3,3] w")
    text = text.replace("c = Conv (x,", "s = Unsqueeze (x, front) c = Conv (s,")
    text = text.replace("Gemm<transB=1> (t, u)", "Gemm<transB=1> (o, u)")
    text = text.replace("g = Gemm", "o = Unsqueeze (t, front) g = Gemm")
    samples = build_net(text).samples()
    assert {name: x.shape for name, x in samples.feed().items()} == {
        "x": (16, 3, 8, 8),
        "t": (16, 6),
    }


def test_labelled_pictures_are_shown_one_by_one_where_there_is_no_batch_axis(
    edgeq, digits, tiny, tmp_path
):
    source = onnx.load(digits / "digits_bn.onnx")
    (image,), (scores,) = source.graph.input, source.graph.output
    axes = onnx.numpy_helper.from_array(np.array([0]), "front")
    source.graph.initializer.append(axes)
    for node in source.graph.node:
        node.input[:] = ["batched" if name == image.name else name for name in node.input]
    source.graph.node.insert(
        0, onnx.helper.make_node("Unsqueeze", [image.name, "front"], ["batched"])
    )
    del image.type.tensor_type.shape.dim[0]
    scores.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(source, tmp_path / "net.onnx")
    accuracy = []
    for model in (digits / "digits_bn.onnx", tmp_path / "net.onnx"):
        out = tmp_path / model.stem
        words = ("--target", "cpu", "--eval", digits / "heldout.zip", *tiny, "--out", out)
        done = edgeq("build", model, *words)
        assert done.code == 0, done.err
        results = json.loads((out / "results.json").read_text("utf-8"))
        accuracy.append(results["evaluation"])
    assert accuracy[0]["float"] == accuracy[1]["float"]
    assert accuracy[1]["quantized"]["top1_pct"] > 50


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_may_be_last(build_net, channels):
    front = "t = Transpose<perm=[0,3,1,2]> (x) c = Conv (t, w)"
    built = build_net(picture_net(f"N,8,8,{channels}", channels, front=front))
    assert built.samples().samples.shape == (16, 8, 8, channels)
    assert (built.folder / "samples" / "preview.png").is_file()


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_may_have_one_channel_or_four(build_net, channels):
    built = build_net(picture_net(f"N,{channels},8,8", channels))
    assert built.results()["agreement"]["top1_match_ratio"] is not None


BYTES = "q = Cast<to=1> (x) d = Sub (q, m) e = Div (d, s) c = Conv (e, w)"


@pytest.mark.parametrize("recipe", ["edgeq", "estimate", "gzsq", "leaves", "noise"])
def test_bytes_that_the_network_normalises_itself_are_made_as_bytes(build_net, recipe):
    text = picture_net(
        "N,3,8,8", 3, front=BYTES, kind="uint8", m="float m = {120}", s="float s = {60}"
    )
    built = build_net(text, "--recipe", recipe)
    x = built.samples().samples
    assert x.dtype == np.uint8
    assert x.std() > 20
    assert (built.folder / "samples" / "preview.png").is_file()


# What is no picture ---------------------------------------------------------------------------------------------------

VECTOR = """g (float[N,12] x) => (float[N,12] y) <float[4,12] a, float[12,4] b, {NORM}>
{ c = Gemm<transB=1> (x, a) {BODY} r = Relu (n) y = Gemm<transB=1> (r, b) }"""
VECTOR = VECTOR.replace("{NORM}", NORM).replace("{BODY}", BODY)


def test_an_autoencoder_on_vectors_is_trained_on_its_outputs(build_net):
    built = build_net(VECTOR)
    assert is_without_labels(built)
    assert "note: nothing is known of the values of the input 'x'" in built.out
    assert np.abs(built.samples().samples).max() <= 4
    assert not (built.folder / "samples" / "preview.png").exists()


def test_the_values_of_a_vector_are_those_that_were_told(build_net):
    built = build_net(VECTOR, "--mean", "100", "--std", "5")
    x = built.samples().samples
    assert "nothing is known" not in built.out
    assert 80 <= x.min() < 98
    assert 102 < x.max() <= 120


def test_sound_has_one_axis_of_time(build_net):
    text = picture_net("N,2,64", 2).replace("[4,2,3,3]", "[4,2,3]")
    built = build_net(text)
    assert built.samples().samples.shape == (16, 2, 64)


def test_a_spectrogram_fills_its_bounds(build_net):
    built = build_net(picture_net("N,1,20,12", 1), "--bounds=-80,0")
    x = built.samples().samples
    assert (x.min() >= -80, x.max() <= 0) == (True, True)
    assert x.std() > 5


# Several inputs -------------------------------------------------------------------------------------------------------

TWO = """g (float[N,3,8,8] x, float[N,6] t) => (float[N,5] y)
<float[4,3,3,3] w, {NORM}, float[4,6] u, float[5,8] v>
{ c = Conv (x, w) {BODY} r = Relu (n) p = GlobalAveragePool (r) f = Flatten (p)
  g = Gemm<transB=1> (t, u) h = Relu (g) j = Concat<axis=1> (f, h) y = Gemm<transB=1> (j, v) }"""
TWO = TWO.replace("{NORM}", NORM).replace("{BODY}", BODY)


@pytest.mark.parametrize("recipe", ["edgeq", "estimate", "gzsq", "leaves", "noise"])
def test_a_picture_and_a_vector_are_made_together(build_net, recipe):
    built = build_net(TWO, "--recipe", recipe)
    samples = built.samples()
    assert {name: x.shape for name, x in samples.feed().items()} == {
        "x": (16, 3, 8, 8),
        "t": (16, 6),
    }
    assert built.results()["preprocessing"].startswith("'x': ")


def test_models_of_two_inputs_can_be_compared(build_net, edgeq):
    built = build_net(TWO)
    pair = (built.folder.parent / "net.onnx", built.folder / "model.qdq.onnx")
    done = edgeq("compare", *pair, "--samples", built.folder / "samples", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["outputs"][0]["sqnr_db"] > 10


def test_pictures_with_labels_do_not_feed_two_inputs(edgeq, parse_graph, digits, tiny, tmp_path):
    onnx.save(parse_graph(TWO, var=np.ones(4, np.float32)), tmp_path / "net.onnx")
    words = ("--target", "cpu", "--eval", digits / "heldout.zip", *tiny, "--out", tmp_path / "out")
    done = edgeq("build", tmp_path / "net.onnx", *words)
    assert done.code == 3
    assert "--eval for a network of 2 inputs" in done.err


def test_one_bias_for_all_channels_of_a_matrix_product_gets_a_scale_for_each(build_net):
    text = picture_net("N,3,8,8", 3, bias="float[1] b")
    built = build_net(text.replace("Gemm<transB=1> (f, v)", "Gemm<transB=1> (f, v, b)"))
    codes = {item.name: tuple(item.dims) for item in built.shipped().graph.initializer}
    assert codes["b/spread/codes"] == (5,)


# Outputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", ["y = Softmax<axis=1> (z)", "s = Softmax<axis=1> (z) y = Flatten (s)"]
)
def test_behind_a_closing_softmax_all_is_as_without_it(build_net, end):
    plain = picture_net("N,3,8,8", 3)
    scores = build_net(plain, "--recipe", "synq-qat")
    trained = (scores.folder / "trained.safetensors").read_bytes()
    text = plain.replace("y = Gemm<transB=1> (f, v)", f"z = Gemm<transB=1> (f, v) {end}")
    probabilities = build_net(text, "--recipe", "synq-qat", "--overwrite")
    assert np.array_equal(probabilities.samples().samples, scores.samples().samples)
    assert (probabilities.folder / "trained.safetensors").read_bytes() == trained
    assert probabilities.results()["agreement"]["top1_match_ratio"] is not None


OUTPUTS = """g (float[N,3,8,8] x) => ({OUTPUTS})
<float[4,3,3,3] w, {NORM}, float[2,4,1,1] k, float[5,4] v>
{ c = Conv<pads=[1,1,1,1]> (x, w) {BODY} r = Relu (n) {REST} }"""
OUTPUTS = OUTPUTS.replace("{NORM}", NORM).replace("{BODY}", BODY)
POOL = "p = GlobalAveragePool (r) f = Flatten (p) l = Gemm<transB=1> (f, v)"
MASK = "m = Conv (r, k)"


@pytest.mark.parametrize(
    ("outputs", "rest"),
    [
        ("float[N,2,8,8] m", MASK),
        ("float[N,5] e", f"{POOL} e = LpNormalization<axis=1> (l)"),
        ("float[N,5] e", f"{POOL} e = Sigmoid (l)"),
        ("float[N,2,8,8] m, float[N,5] l", f"{MASK} {POOL}"),
        (
            "int64[N,2] i, float[N,5] l",
            f"{POOL} two = Constant<value = int64[1] {{2}}> () o, i = TopK (l, two)",
        ),
        ("float[N,2,8,8] m, int64[N,1,8,8] i", f"{MASK} i = ArgMax<axis=1> (m)"),
    ],
    ids=["mask", "embedding", "independent", "mask-and-scores", "indices", "mask-and-indices"],
)
def test_what_is_no_class_score_switches_the_label_terms_off(build_net, outputs, rest):
    assert is_without_labels(
        build_net(OUTPUTS.replace("{OUTPUTS}", outputs).replace("{REST}", rest))
    )


def test_outputs_beside_the_class_scores_are_matched_too(build_net):
    text = OUTPUTS.replace("{OUTPUTS}", "float[N,5] l, float[N,2,8,8] m")
    built = build_net(text.replace("{REST}", f"{MASK} {POOL}"))
    history = json.loads((built.folder / "history.json").read_text("utf-8"))
    assert {"distillation", "outputs"} <= set(history[0])


# Half precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ["float16", "float"])
def test_a_float16_network_keeps_the_types_of_its_border(build_net, border):
    text = picture_net("N,3,8,8", 3).replace("float[", "float16[")
    if border == "float":
        text = text.replace("g (float16[", "g (float[").replace("(float16[N,5]", "(float[N,5]")
        text = text.replace("{ c = Conv (x", "{ a = Cast<to=10> (x) c = Conv (a")
        text = text.replace("y = Gemm", "z = Gemm").replace(HEAD[-2:], " y = Cast<to=1> (z) }")
    built = build_net(text, var=np.ones(4, np.float16))
    assert built.samples().samples.dtype == {"float16": np.float16, "float": np.float32}[border]
    assert "note: the file is of float16" in built.out


def test_a_bfloat16_network_with_a_float_border_is_computed_in_float32(build_net):
    front = "h = Cast<to=16> (x) k = Cast<to=16> (a) d = Gemm<transB=1> (h, k) c = Cast<to=1> (d)"
    built = build_net(VECTOR.replace("c = Gemm<transB=1> (x, a)", front))
    assert "note: the file is of bfloat16" in built.out


def test_a_bfloat16_network_keeps_the_types_of_its_border(build_net):
    front = "h = Cast<to=1> (x) c = Gemm<transB=1> (h, a)"
    text = VECTOR.replace("c = Gemm<transB=1> (x, a)", front).replace("g (float[", "g (bfloat16[")
    built = build_net(text)
    model = onnx.load(built.folder / "model.qdq.onnx")
    assert [item.type.tensor_type.elem_type for item in model.graph.input] == [
        onnx.TensorProto.BFLOAT16
    ]
    assert built.samples().samples.dtype == np.float32
    assert "note: the file is of bfloat16" in built.out


@pytest.mark.parametrize("numbers", ["dfq", "aac-abn", "adaround", "genie-m"])
def test_numbers_recipes_serve_networks_of_two_inputs(build_net, numbers):
    few = ("--set", "reconstruction.iterations=2") if numbers in {"adaround", "genie-m"} else ()
    built = build_net(TWO, "--recipe", f"leaves+{numbers}", *few)
    assert built.results()["build"]["recipe"]["numbers"] == numbers
