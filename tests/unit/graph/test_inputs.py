"""Inputs: shape, layout and preprocessing come from the file, the presets and the user, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeq.core.errors import EdgeqError, InputError, ModelError
from edgeq.core.specs import Layout
from edgeq.graph.inputs import PRESETS, InputReport, describe_inputs

Axes = Sequence[int | str | None] | None


def make_model(
    shape: Axes = ("N", 3, 32, 32), *, kind: int = TensorProto.FLOAT, more: Axes = None
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("image", kind, shape)]
    if more is not None:
        length = TensorProto.INT64 if len(more) == 1 else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info("length", length, more))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["y"])],
        "net",
        inputs,
        [helper.make_tensor_value_info("y", kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def report(model: onnx.ModelProto, **options: Any) -> InputReport:
    (only,) = describe_inputs(model, **options)
    return only


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [
        (("N", 3, 32, 32), Layout.NCHW, 3),
        ((1, 1, 28, 28), Layout.NCHW, 1),
        ((1, 4, 8, 8), Layout.NCHW, 4),
        ((1, 32, 40, 3), Layout.NHWC, 3),
        ((1, 3, 32, 3), Layout.NCHW, 3),
    ],
)
def test_the_channels_are_found_on_axis_1_before_the_last(
    shape: Axes, layout: Layout, channels: int
) -> None:
    spec = report(make_model(shape)).spec
    assert (spec.layout, spec.channels) == (layout, channels)
    assert shape is not None
    assert spec.shape == tuple(shape[1:])
    assert spec.dtype == "float32"


@pytest.mark.parametrize("axis", ["N", 0, -1, None])
def test_a_named_zero_negative_or_missing_batch_axis_is_dynamic(axis: int | str | None) -> None:
    assert report(make_model((axis, 3, 8, 8))).spec.batch is None


def test_a_fixed_batch_is_kept() -> None:
    assert report(make_model((8, 3, 8, 8))).spec.batch == 8


def test_a_given_shape_fills_open_axes_and_leaves_the_batch_open() -> None:
    spec = report(make_model(("N", 3, "H", "W")), shapes={"image": (1, 3, 64, 48)}).spec
    assert (spec.shape, spec.batch) == ((3, 64, 48), None)


def test_a_given_shape_serves_where_the_file_has_no_rank() -> None:
    spec = report(make_model(None), shapes={"image": (1, 3, 16, 16)}).spec
    assert (spec.shape, spec.batch) == ((3, 16, 16), None)


@pytest.mark.parametrize(("shape", "name"), [((1, 3, 8, 8), "imagenet"), ((1, 1, 8, 8), "unit")])
def test_the_default_follows_the_channels_and_is_told(shape: Axes, name: str) -> None:
    found = report(make_model(shape))
    assert found.spec.mean == PRESETS[name].mean
    assert found.spec.std == PRESETS[name].std
    assert "default" in found.chosen_by
    assert name in found.chosen_by


def test_four_channels_are_taken_as_they_are() -> None:
    assert report(make_model((1, 4, 8, 8))).spec.mean == (0.0,) * 4


def test_the_legal_box_is_what_black_and_white_become() -> None:
    spec = report(make_model((1, 3, 8, 8)), preset="cifar10").spec
    black, white = (spec.normalise(np.full((1, 8, 8, 3), value))[0, :, 0, 0] for value in (0, 1))
    np.testing.assert_allclose(spec.low, black, rtol=1e-6)
    np.testing.assert_allclose(spec.high, white, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_serves_three_channels_and_has_a_source(name: str) -> None:
    found = report(make_model(), preset=name)
    assert found.chosen_by == f"--preset {name}"
    assert len(found.spec.mean) == len(found.spec.low) == 3
    assert PRESETS[name].source


def test_mean_and_std_replace_the_preset_and_one_value_serves_all_channels() -> None:
    found = report(make_model(), mean=(0.5,), std=(0.1, 0.2, 0.3))
    assert (found.spec.mean, found.spec.std) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert found.chosen_by == "--mean and --std"


def test_one_of_them_replaces_its_half_of_a_named_preset() -> None:
    found = report(make_model(), preset="cifar10", std=(1.0,))
    assert found.spec.mean == PRESETS["cifar10"].mean
    assert found.chosen_by == "--preset cifar10 and --std"


def test_bounds_are_in_the_models_own_unit() -> None:
    found = report(make_model(), bounds=(-2.0, 2.5))
    assert (found.spec.low, found.spec.high) == ((-2.0,) * 3, (2.5,) * 3)
    assert found.chosen_by.endswith("limits from --bounds")


@pytest.mark.parametrize("shape", [("N", 64), (1, 40, 101), (1, 64, 8, 8)])
def test_what_is_no_picture_is_taken_for_normal_values_and_the_user_is_told(shape: Axes) -> None:
    found = report(make_model(shape))
    assert found.spec.layout is Layout.OTHER
    assert (found.spec.mean, found.spec.std) == ((0.0,), (1.0,))
    assert (found.spec.low, found.spec.high) == ((-4.0,), (4.0,))
    assert [finding for finding in found.findings if "'image'" in finding]


@pytest.mark.parametrize(
    ("options", "figures"),
    [
        ({"bounds": (0.0, 8.0)}, ((4.0,), (2.0,), (0.0,), (8.0,))),
        ({"mean": (3.0,), "std": (0.5,)}, ((3.0,), (0.5,), (1.0,), (5.0,))),
        (
            {"mean": (3.0,), "std": (0.5,), "bounds": (2.0, 9.0)},
            ((3.0,), (0.5,), (2.0,), (9.0,)),
        ),
    ],
)
def test_the_values_of_a_vector_can_be_told(
    options: dict[str, Any], figures: tuple[tuple[float, ...], ...]
) -> None:
    found = report(make_model(("N", 64)), **options)
    spec = found.spec
    assert (spec.mean, spec.std, spec.low, spec.high) == figures
    assert found.findings == ()


def test_bytes_enter_as_they_are() -> None:
    spec = report(make_model((1, 8, 8, 3), kind=TensorProto.UINT8)).spec
    assert (spec.dtype, spec.layout) == ("uint8", Layout.NHWC)
    assert (spec.low, spec.high) == ((0.0,) * 3, (255.0,) * 3)
    np.testing.assert_allclose(spec.normalise(np.ones((1, 8, 8, 3))), 255, rtol=1e-6)


def test_bounds_alone_are_the_black_and_white_of_one_channel() -> None:
    spec = report(make_model((1, 1, 8, 8)), bounds=(-80.0, 0.0)).spec
    for raw, own in ((0.0, -80.0), (1.0, 0.0)):
        np.testing.assert_allclose(spec.normalise(np.full((1, 8, 8, 1), raw)), own, atol=1e-4)


def test_a_vector_beside_a_picture_leaves_the_options_to_the_picture() -> None:
    model = make_model(("N", 3, 8, 8), more=("N", 6))
    picture, vector = describe_inputs(model, mean=(0.5,), std=(0.5,), bounds=(-1.0, 1.0))
    assert picture.spec.low == (-1.0,) * 3
    assert (vector.spec.shape, vector.spec.low, vector.spec.high) == ((6,), (-4.0,), (4.0,))


@dataclass(frozen=True)
class Fault:
    """A model and options that do not go together, and what the message must say."""

    id: str
    model: onnx.ModelProto
    told: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    error: type[EdgeqError] = InputError


FAULTS = [
    Fault(
        "open-axes",
        make_model(("N", 3, "H", "W")),
        ("[?, 3, ?, ?]", "--shape image:1x3x224x224"),
    ),
    Fault("open-nhwc", make_model(("N", None, None, 1)), ("--shape image:1x224x224x1",)),
    Fault("no-rank", make_model(None), ("unknown rank", "--shape image:1x3x224x224")),
    Fault(
        "contradiction",
        make_model(("N", 3, 32, "W")),
        ("image:1x3x64x64 does not fit", "[?, 3, 32, ?]", "--shape image:1x3x32x224"),
        {"shapes": {"image": (1, 3, 64, 64)}},
    ),
    Fault(
        "batch-forgotten",
        make_model(),
        ("image:3x32x32 does not fit", "batch axis first"),
        {"shapes": {"image": (3, 32, 32)}},
    ),
    Fault(
        "zero",
        make_model(("N", 3, "H", 8)),
        ("1x3x0x8", "above 0"),
        {"shapes": {"image": (1, 3, 0, 8)}},
    ),
    Fault(
        "wrong-name",
        make_model(),
        ("'imag'", "did you mean image"),
        {"shapes": {"imag": (1, 3, 8, 8)}},
    ),
    Fault(
        "unknown-preset",
        make_model(),
        ("no preset 'imagnet'", "did you mean imagenet"),
        {"preset": "imagnet"},
    ),
    Fault(
        "preset-channels",
        make_model((1, 1, 8, 8)),
        ("preset cifar10", "for 1 channels"),
        {"preset": "cifar10"},
    ),
    Fault(
        "two-means",
        make_model(),
        ("--mean has the values 0.1, 0.2 for 3", "1 or 3"),
        {"mean": (0.1, 0.2), "std": (1.0,)},
    ),
    Fault("nan-mean", make_model(), ("--mean", "nan"), {"mean": (float("nan"),), "std": (1.0,)}),
    Fault(
        "zero-std",
        make_model(),
        ("--std has the values 0.0", "greater than 0"),
        {"mean": (0.0,), "std": (0.0,)},
    ),
    Fault("mean-alone", make_model(), ("--mean came alone", "--std"), {"mean": (0.5,)}),
    Fault("endless-bounds", make_model(), ("--bounds", "inf"), {"bounds": (0.0, float("inf"))}),
    Fault("crossed-bounds", make_model(), ("below the upper",), {"bounds": (1.0, 0.0)}),
    Fault(
        "two-inputs",
        make_model(more=["N"]),
        ("cannot make: 'length' INT64 [?]",),
        error=ModelError,
    ),
    Fault("doubles", make_model(kind=TensorProto.DOUBLE), ("'image' DOUBLE",), error=ModelError),
    Fault("odd-type", make_model(kind=64), ("'image' type 64",), error=ModelError),
    Fault("scalar", make_model(()), ("'image' is a single number",), error=ModelError),
    Fault("open-sample", make_model(("T",)), ("open axes: [?]", "--shape image:")),
    Fault(
        "two-batches",
        make_model((1, 3, 8, 8), more=("N", 6)),
        ("different batch sizes", "'image' [1, 3, 8, 8], 'length' [?, 6]"),
        error=ModelError,
    ),
    Fault(
        "normalised-bytes",
        make_model(kind=TensorProto.UINT8),
        ("8-bit values", "normalises them itself"),
        {"preset": "imagenet"},
    ),
    Fault(
        "preset-vector",
        make_model(("N", 64)),
        ("--preset imagenet for the input 'image', which is no picture",),
        {"preset": "imagenet"},
    ),
    Fault("vector-mean-alone", make_model(("N", 64)), ("--mean came alone",), {"mean": (1.0,)}),
]


@pytest.mark.parametrize("opset", [11, 13])
def test_a_network_that_makes_its_own_batch_axis_takes_one_sample(opset: int) -> None:
    body = "Unsqueeze<axes=[0]> (t)" if opset < 13 else "Unsqueeze (t, axes)"
    axes = "<int64[1] axes = {0}>" if opset >= 13 else ""
    text = f"g (float[8,8,3] image) => (float[1,3,8,8] y) {axes} {{ t = Transpose<perm=[2,0,1]> (image) y = {body} }}"
    (found,) = describe_inputs(parse(text, opset=opset))
    assert (found.spec.shape, found.spec.batch, found.spec.layout) == ((8, 8, 3), 0, Layout.NHWC)


@pytest.mark.parametrize(
    "body",
    [
        "y = Unsqueeze (image, axes) z = Relu (image)",
        "r = Relu (image) y = Unsqueeze (r, axes)",
        "y = Unsqueeze (image, last)",
        "y = Identity (image)",
        "y = Reshape (image, flat)",
    ],
    ids=["not-every-way", "behind-a-layer", "other-axis", "output", "flattened"],
)
def test_axis_0_is_the_batch_where_the_network_puts_no_axis_in_front_of_it(body: str) -> None:
    text = f"""g (float[2,8,3] image) => (float[1,2,8,3] y)
    <int64[1] axes = {{0}}, int64[1] last = {{3}}, int64[2] flat = {{2,24}}> {{ {body} }}"""
    (found,) = describe_inputs(parse(text))
    assert (found.spec.shape, found.spec.batch) == ((8, 3), 2)


def test_a_reshape_shows_that_axis_0_is_no_batch() -> None:
    text = """g (float[3,8,8] image) => (float[1,3,8,8] y) <int64[4] four = {1,3,8,8}>
    { y = Reshape (image, four) }"""
    (found,) = describe_inputs(parse(text))
    assert (found.spec.shape, found.spec.batch, found.spec.layout) == ((3, 8, 8), 0, Layout.NCHW)


def test_the_open_axis_of_a_sample_is_told_with_shape() -> None:
    (found,) = describe_inputs(make_model(("T",)), shapes={"image": (64,)})
    assert (found.spec.shape, found.spec.batch) == ((64,), 0)


def test_a_batch_axis_of_some_inputs_alone_is_refused() -> None:
    text = """g (float[1,3,8,8] image, float[6] size) => (float[1,3,8,8] y, float[6] z)
    { y = Relu (image) z = Relu (size) }"""
    with pytest.raises(ModelError, match="some inputs have a batch axis") as caught:
        describe_inputs(parse(text))
    assert "'image' [1, 3, 8, 8], 'size' [6]" in caught.value.what


def parse(text: str, *, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_what_does_not_fit_is_told_with_its_mend(fault: Fault) -> None:
    with pytest.raises(fault.error) as caught:
        describe_inputs(fault.model, **fault.options)
    missing = [part for part in fault.told if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def test_a_model_without_inputs_is_refused() -> None:
    model = make_model()
    model.graph.ClearField("input")
    with pytest.raises(ModelError, match="no input"):
        describe_inputs(model)


def test_a_bfloat16_input_is_held_in_float32() -> None:
    assert report(make_model(kind=TensorProto.BFLOAT16)).spec.dtype == "float32"
