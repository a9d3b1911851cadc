"""What the importer cannot convert, found before anything is built and told in one error."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import onnx

from edgeq.core.errors import ModelError
from edgeq.graph.structure import OPSET_MAX, OPSET_MIN
from edgeq.graph.view import GraphView, attribute, node_id
from edgeq.teacher.converters import CONVERTERS, Converter, accepts

_LOOP = "edgeq imports straight graphs; export the model without loops, or unrolled"
_RECURRENT = "recurrent layers are not imported; cut the model before them"
_QUANTIZED = "the model is quantized already; pass the float model"
_RANDOM = "its result is random, so no two runs agree; export the model in eval mode"
_TYPES = "edgeq imports tensors, neither sequences nor optionals nor text"
_DATA = "how much it gives depends on the data; cut the model before it"
_SPECTRUM = "spectra are complex numbers; compute the spectrogram before the model"

# Operators that have no converter for a reason; every other one is just unknown.
REASONS = {
    "If": "its condition is not constant, so there is no one graph to train",
    **dict.fromkeys(("Loop", "Scan"), _LOOP),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _RECURRENT),
    **dict.fromkeys(
        (
            "ConvInteger",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "QLinearConv",
            "QLinearMatMul",
            "QuantizeLinear",
        ),
        _QUANTIZED,
    ),
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "ImageDecoder",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "RegexFullMatch",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
            "StringConcat",
            "StringNormalizer",
            "StringSplit",
            "TfIdfVectorizer",
        ),
        _TYPES,
    ),
    **dict.fromkeys(("NonMaxSuppression", "Unique"), _DATA),
    **dict.fromkeys(("DFT", "MelWeightMatrix", "STFT"), _SPECTRUM),
}


def require_supported(view: GraphView) -> None:
    """Check that every node can be converted.

    Raises:
        ModelError: lists every node that cannot, with the reason; or for an opset that edgeq does not know.
    """
    if not OPSET_MIN <= view.opset <= OPSET_MAX:
        raise ModelError(
            f"the model uses opset {view.opset}",
            why=f"edgeq knows the operators of opsets {OPSET_MIN} to {OPSET_MAX}",
            mend="export it again with opset_version=17, or run onnx.version_converter",
        )
    constants = _constant_tensors(view)
    faults = [
        f"{node.op_type} '{node_id(node)}'"
        + (f" (node '{node.name}')" if node.name else "")
        + f": {fault}"
        for node in view.nodes
        for fault in _faults(view, node, constants)
    ]
    if faults:
        raise ModelError(
            f"{len(faults)} node(s) cannot be imported:\n    " + "\n    ".join(faults),
            why="the teacher must compute exactly what the file says",
            mend="export the model without them, or ask for these operators",
        )


def _constant_tensors(view: GraphView) -> set[str]:
    """Return every tensor that depends on no graph input; "", an absent input, is among them."""
    found = {"", *view.initializers}
    for node in view.nodes:
        if found.issuperset(node.input) and not any(item.HasField("g") for item in node.attribute):
            found.update(node.output)
    return found


def _faults(view: GraphView, node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    if node.domain not in {"", "ai.onnx"}:
        yield f"unknown operator of the domain '{node.domain}'"
        return
    if node.op_type == "Constant":
        return
    if node.op_type not in CONVERTERS:
        yield REASONS.get(node.op_type, "unknown operator")
        return
    entry = CONVERTERS.get(node.op_type)
    yield from _input_faults(node, entry)
    for name, tensor in zip(entry.positional, node.input, strict=False):
        if name in entry.static and tensor not in constants:
            yield f"its input '{tensor}' is not constant, so the shape of its result depends on the data"
    yield from _attribute_faults(node, entry)
    if not entry.returns_tuple:
        for name in node.output[1:]:
            if name in view.outputs or view.consumers(name):
                yield f"its extra output '{name}' is used"


def _input_faults(node: onnx.NodeProto, entry: Converter) -> Iterator[str]:
    given = len(node.input)
    if given > len(entry.positional) and not entry.variadic:
        yield f"{given} inputs, at most {len(entry.positional)} are known"
    for index in range(entry.required):
        name = entry.positional[index]
        is_attribute = any(item.name == name for item in node.attribute)
        if (index >= given or not node.input[index]) and not is_attribute:
            yield f"input {index} is missing"


def _attribute_faults(node: onnx.NodeProto, entry: Converter) -> Iterator[str]:
    for item in node.attribute:
        hint = entry.keywords.get(item.name)
        value = plain(attribute(node, item.name))
        if hint is None:
            yield f"unknown attribute {item.name}"
        elif value is None:
            yield f"attribute {item.name} has an unsupported type"
        elif typing.get_origin(hint) is typing.Literal and not accepts(hint, value):
            known = ", ".join(str(choice) for choice in typing.get_args(hint))
            yield f"attribute {item.name} is {value}, known: {known}"


def plain(value: object) -> object:
    """Return an attribute's value as plain Python, or None where it has no such form.

    A tensor of one number becomes the pair (number, ONNX element type).
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, onnx.TensorProto):
        array = onnx.numpy_helper.to_array(value)
        return (array.reshape(-1)[0].item(), value.data_type) if array.size == 1 else None
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return tuple(value)
    return None
