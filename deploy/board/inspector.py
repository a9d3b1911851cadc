"""Reads what TensorRT's engine inspector tells, and finds which layers really run in INT8.

The JSON of TensorRT 8.x and 10.x has `Bindings` (names) and one field `Format/Datatype` a tensor; that of 11.x has
`I/O Tensors` (objects) and the field split in two (deployment/tensorrt.md 4.2). `Metadata` names the ONNX nodes of a
layer, "[ONNX Layer: name]" each, with a control character between; where it is absent a layer's name is its nodes'
names joined by " + ". A layer counts as INT8 if an input of it is.
"""

import json
import re
from typing import Any, Mapping, NamedTuple, Sequence, Tuple

from edgeq.core.errors import BuildError

_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s\[]|$)")
_INT8 = re.compile(r"\bint8\b", re.IGNORECASE)
# Layers that move data: they may name a node of the file, and say nothing about the type it runs in.
_MOVING = {"Reformat", "NoOp", "Constant", "Shuffle", "Signal", "Wait"}
_STANDALONE = {"Quantize", "Dequantize", "Scale"}
# A region that one compiled kernel runs shows the types at its border only.
_OPAQUE = re.compile(r"myelin|foreignnode", re.IGNORECASE)


class MeantNode(NamedTuple):
    """A node whose two factors are dequantized INT8, so that TensorRT should run it in INT8.

    Attributes:
        name: as TensorRT calls it: the node's name, or "node_of_" and its first output where it has none
            (onnx-tensorrt, getNodeName).
        operator: its operator.
    """

    name: str
    operator: str


class EngineLayer(NamedTuple):
    """One layer of an engine.

    Attributes:
        name, kind: as TensorRT calls them.
        nodes: the ONNX nodes in it.
        inputs, outputs: types of its tensors, in TensorRT's words; a word is empty where none is told.
    """

    name: str
    kind: str
    nodes: Tuple[str, ...]
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]


class EngineLayers(NamedTuple):
    """All layers of an engine, and its inputs and outputs by name."""

    layers: Tuple[EngineLayer, ...]
    tensors: Tuple[str, ...]


class Int8Report(NamedTuple):
    """What became of the layers that were meant to run in INT8.

    Attributes:
        int8: nodes that do.
        missed: one sentence for each node that does not.
        unknown: one sentence for each node of which the engine does not tell.
        layers: number of layers in the engine.
        reformats: layers that only change type or layout.
        standalone: Q/DQ that were fused into nothing.
    """

    int8: Tuple[str, ...]
    missed: Tuple[str, ...]
    unknown: Tuple[str, ...]
    layers: int
    reformats: int
    standalone: int


def read_layers(text: str) -> EngineLayers:
    """Return the layers in the inspector's JSON, of TensorRT 8.5 to 11.4.

    Raises:
        BuildError: if it has another form.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _unread(f"it is no JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("Layers"), list):
        raise _unread("it has no list 'Layers'")
    tensors = data.get("I/O Tensors", data.get("Bindings"))
    if not isinstance(tensors, list):
        raise _unread("it has neither 'Bindings' nor 'I/O Tensors'")
    return EngineLayers(
        layers=tuple(_read_layer(item) for item in data["Layers"]),
        tensors=tuple(
            str(item["Name"]) if isinstance(item, dict) else str(item) for item in tensors
        ),
    )


def judge_int8(found: EngineLayers, meant: Sequence[MeantNode]) -> Int8Report:
    """Return which of the nodes that were meant to run in INT8 do."""
    int8, missed, unknown = [], [], []
    for node in meant:
        layers = [
            item for item in found.layers if node.name in item.nodes and item.kind not in _MOVING
        ]
        label = f"{node.operator} '{node.name}'"
        if not layers:
            unknown.append(f"{label}: no layer of the engine names it")
        elif any(_is_opaque(item) for item in layers):
            unknown.append(f"{label}: inside '{layers[0].name}', which shows no types")
        elif not any(word for item in layers for word in item.inputs):
            unknown.append(f"{label}: layer '{layers[0].name}' tells no types")
        elif all(any(_INT8.search(word) for word in item.inputs) for item in layers):
            int8.append(node.name)
        else:
            missed.append(f"{label}: layer '{layers[0].name}' takes {_words(layers)}")
    kinds = [item.kind for item in found.layers]
    return Int8Report(
        int8=tuple(int8),
        missed=tuple(missed),
        unknown=tuple(unknown),
        layers=len(kinds),
        reformats=kinds.count("Reformat"),
        standalone=sum(kind in _STANDALONE for kind in kinds),
    )


def _read_layer(item: Any) -> EngineLayer:
    if isinstance(item, str):  # an engine built without detailed verbosity
        item = {"Name": item}
    if not isinstance(item, dict):
        raise _unread("a layer is neither an object nor a name")
    name = str(item.get("Name", ""))
    nodes = _ONNX_LAYER.findall(str(item.get("Metadata", ""))) or name.split(" + ")
    return EngineLayer(
        name=name,
        kind=str(item.get("LayerType", "")),
        nodes=tuple(nodes),
        inputs=_read_types(item.get("Inputs", [])),
        outputs=_read_types(item.get("Outputs", [])),
    )


def _read_types(tensors: Sequence[Mapping[str, Any]]) -> Tuple[str, ...]:
    return tuple(_read_type(item) for item in tensors)


def _read_type(tensor: Mapping[str, Any]) -> str:
    """Return the words on a tensor's type; the documents write the split field in two ways."""
    keys = {key.lower(): str(value) for key, value in tensor.items()}
    for key in ("datatype", "format/datatype", "format"):
        if keys.get(key):
            return "" if keys[key].startswith("N/A") else keys[key]
    return ""


def _is_opaque(layer: EngineLayer) -> bool:
    return bool(_OPAQUE.search(layer.kind) or _OPAQUE.search(layer.name))


def _words(layers: Sequence[EngineLayer]) -> str:
    return ", ".join(dict.fromkeys(word for item in layers for word in item.inputs if word))


def _unread(what: str) -> BuildError:
    return BuildError(
        f"TensorRT's layer information cannot be read: {what}",
        why="which layers run in INT8 is told there; edgeq knows the forms of TensorRT 8.5 to 11.4",
        mend="report this with the TensorRT version; `trtexec --exportLayerInfo=layers.json` writes the same",
    )
