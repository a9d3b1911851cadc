"""What the engine builder must know of a Q/DQ file: which layers are meant to run in INT8, and facts for the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.board.inspector import MeantNode
from edgeq.core.errors import InputError, ModelError
from edgeq.core.serial import Spec

_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts(Spec):
    """The facts of one file.

    Attributes:
        names: of all nodes of the main graph, in order, as TensorRT calls them.
        meant: nodes meant to run in INT8, in order.
        opset, ir_version: of the file.
        flavour: "fp16-typed" if its scales are FP16, else "fp32-typed".
    """

    names: tuple[str, ...]
    meant: tuple[MeantNode, ...]
    opset: int
    ir_version: int
    flavour: str


def read_facts(path: Path) -> ModelFacts:
    """Return the facts of the ONNX file at `path`; weights that lie beside it are not read.

    Raises:
        InputError: if there is no file to read.
        ModelError: if it is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if path.exists() and not path.is_file():  # a device or a pipe may never end
        raise InputError(
            "the model is no ordinary file",
            why="an engine is built from an ONNX file",
            mend="pass the path of the model.qdq.onnx of a build",
            path=path,
        )
    try:
        # By its suffix alone onnx would take "model.json" for another format.
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise InputError(
            f"the model cannot be read: {error.strerror}",
            why="an engine is built from an ONNX file",
            mend="pass the path of the model.qdq.onnx of a build",
            path=path,
        ) from error
    except DecodeError as error:
        raise _not_onnx(f"its bytes do not decode: {error}", path) from error
    if not model.graph.node:
        raise _not_onnx("it has no nodes", path)
    return describe(model)


def describe(model: Any) -> ModelFacts:
    """Return the facts of an ONNX model in memory."""
    opset = max(
        (item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), default=0
    )
    return ModelFacts(
        names=tuple(_trt_name(node) for node in model.graph.node),
        meant=_find_meant(model.graph),
        opset=opset,
        ir_version=model.ir_version,
        flavour="fp16-typed" if _has_half_scales(model.graph) else "fp32-typed",
    )


def _not_onnx(what: str, path: Path) -> ModelError:
    return ModelError(
        f"this is no ONNX model: {what}",
        why="an engine is built from an ONNX file",
        mend="pass the model.qdq.onnx of a build",
        path=path,
    )


def _trt_name(node: Any) -> str:
    return str(node.name) or (f"node_of_{node.output[0]}" if node.output else "")


def _find_meant(graph: Any) -> tuple[MeantNode, ...]:
    producers = {name: node for node in graph.node for name in node.output}
    others = _other_than_int8(graph)

    def is_int8(tensor: str) -> bool:
        node = producers.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        return not others & {node.input[0], *node.input[2:]}  # the values, and their zero point

    return tuple(
        MeantNode(name=_trt_name(node), operator=node.op_type)
        for node in graph.node
        if node.op_type in _PRODUCTS and all(is_int8(name) for name in node.input[:2])
    )


def _other_than_int8(graph: Any) -> set[str]:
    """Return the initializers that are no INT8: weights of weight-only INT4, zero points of FP8 and UINT8."""
    from onnx import TensorProto

    return {item.name for item in graph.initializer if item.data_type != TensorProto.INT8}


def _has_half_scales(graph: Any) -> bool:
    from onnx import TensorProto

    scales = {
        node.input[1]
        for node in graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    }
    return any(
        item.name in scales and item.data_type == TensorProto.FLOAT16 for item in graph.initializer
    )
