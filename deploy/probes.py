"""Tiny ONNX files that ask a board what the documents leave open.

These are the points of deployment/tensorrt.md 10, and facts of target cards that were inferred. `write_probes` writes
the files for a bundle, or for `edgeq device-check`; `deploy.board.device_check` hands each to TensorRT.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from deploy.engine.model_facts import describe
from edgeq.core.files import write_bytes, write_json
from edgeq.core.specs import TargetCard

INDEX = "probes.json"
# Facts of a card that the probes can find; how each is found is in deploy/board/device_check.py.
FACTS = (
    "runtime_version",
    "compute_capability",
    "opset_max",
    "ir_max",
    "prequantized_weights",
    "formats",
    "dla_cores",
)
_OPSETS = range(13, 25)
_IRS = range(8, 14)
_BLOCKS = (16, 32, 64, 128)

_CONV = """<ir_version: 8, opset_import: ["" : {opset}]>
probe ({kind}[1,16,8,8] x) => ({kind}[1,16,8,8] y) {{
  {lines}
}}"""
_TENSOR = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)"
_STORED = "w_d = DequantizeLinear <axis = 0> (w, ws, wz)"
_PRODUCT = "[conv] y = Conv <pads = [1, 1, 1, 1]> (d, w_d)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question.

    Attributes:
        name: what the report calls it; also the file's name.
        asks: the question.
        model: the answer is whether TensorRT takes it.
        builds: also build the engine, and see whether its product runs in INT8.
        is_strong: with strong typing.
    """

    name: str
    asks: str
    model: onnx.ModelProto
    builds: bool = False
    is_strong: bool = False


def write_probes(folder: Path, card: TargetCard | None) -> None:
    """Write every probe, and the index with the facts of `card` that they can find, to `folder`."""
    probes = list(make_probes())
    for probe in probes:
        write_bytes(
            folder / f"{probe.name}.onnx", probe.model.SerializeToString(deterministic=True)
        )
    write_json(
        folder / INDEX,
        {
            "card": None if card is None else _facts(card),
            "probes": [_entry(item) for item in probes],
        },
    )


def make_probes() -> Iterator[Probe]:
    """Yield every probe, in the order of asking."""
    yield Probe(
        name="int8-conv",
        asks="does a convolution with stored INT8 weights run in INT8?",
        model=_conv(_TENSOR, _STORED, _PRODUCT),
        builds=True,
    )
    yield Probe(
        name="float-weights",
        asks="does a convolution whose float weights pass Q and DQ run in INT8?",
        model=_conv(
            _TENSOR,
            "w_q = QuantizeLinear <axis = 0> (wf, ws, wz)  w_d = DequantizeLinear <axis = 0> (w_q, ws, wz)",
            _PRODUCT,
        ),
        builds=True,
    )
    yield Probe(
        name="no-zero-point",
        asks="may Q and DQ lack the zero point?",
        model=_conv(_TENSOR.replace(", z)", ")"), _STORED.replace(", wz)", ")"), _PRODUCT),
    )
    yield Probe(
        name="no-axis",
        asks="may scales of channels lack the axis?",
        model=_conv(_TENSOR, _STORED.replace(" <axis = 0>", ""), _PRODUCT),
    )
    yield Probe(
        name="uint8",
        asks="is UINT8 taken?",
        model=_conv(_TENSOR.replace("z)", "zu)"), _STORED, _PRODUCT),
    )
    yield Probe(
        name="fp16-typed",
        asks="does a graph typed in FP16 with strong typing run in INT8?",
        model=_conv(_TENSOR, _STORED, _PRODUCT, kind="float16", opset=19),
        builds=True,
        is_strong=True,
    )
    for block in _BLOCKS:
        yield Probe(
            name=f"int4-block-{block}",
            asks=f"do INT4 weights with blocks of {block} build?",
            model=_int4(block),
            builds=True,
        )
    yield Probe(name="fp8", asks="does FP8 build?", model=_fp8(), builds=True)
    for opset in _OPSETS:
        model = _conv("y = Relu (x)", opset=opset)
        yield Probe(name=f"opset-{opset}", asks=f"is opset {opset} taken?", model=model)
    for version in _IRS:
        model = _conv("y = Relu (x)", opset=13)
        model.ir_version = version
        yield Probe(name=f"ir-{version}", asks=f"is IR version {version} taken?", model=model)


def _conv(*lines: str, kind: str = "float", opset: int = 17) -> onnx.ModelProto:
    text = _CONV.format(opset=opset, kind=kind, lines="\n  ".join(lines))
    model = parser.parse_model(text)
    real = np.float16 if kind == "float16" else np.float32
    weights = np.random.default_rng(0).integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
    values: dict[str, Any] = {
        "s": real(0.02),
        "z": np.int8(0),
        "zu": np.uint8(128),
        "w": weights,
        "wf": (0.01 * weights).astype(real),
        "ws": np.full(16, 0.01, real),
        "wz": np.zeros(16, np.int8),
    }
    return _with(model, [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()])


def _int4(block: int) -> onnx.ModelProto:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    probe (float[4,256] x) => (float[4,32] y) {{
      w_d = DequantizeLinear <axis = 0, block_size = {block}> (w, s)
      [matmul] y = MatMul (x, w_d)
    }}"""
    scales = np.full((256 // block, 32), 0.01, np.float32)
    weights = helper.make_tensor("w", TensorProto.INT4, (256, 32), np.tile([1, -2, 3, -4], 2048))
    return _with(parser.parse_model(text), [weights, numpy_helper.from_array(scales, "s")])


def _fp8() -> onnx.ModelProto:
    text = """<ir_version: 9, opset_import: ["" : 19]>
    probe (float[16,32] x) => (float[16,32] y) {
      q = QuantizeLinear (x, s, z)
      d = DequantizeLinear (q, s, z)
      w_d = DequantizeLinear (w, s, z)
      [matmul] y = MatMul (d, w_d)
    }"""
    kind = TensorProto.FLOAT8E4M3FN
    tensors = [
        numpy_helper.from_array(np.asarray(0.02, np.float32), "s"),
        helper.make_tensor("z", kind, (), [0.0]),
        helper.make_tensor("w", kind, (32, 32), np.tile([1.0, -2.0], 512)),
    ]
    return _with(parser.parse_model(text), tensors)


def _with(model: onnx.ModelProto, tensors: list[TensorProto]) -> onnx.ModelProto:
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(item for item in tensors if item.name in used)
    return model


def _entry(probe: Probe) -> dict[str, Any]:
    facts = describe(probe.model)
    return {
        "name": probe.name,
        "asks": probe.asks,
        "builds": probe.builds,
        "is_strong": probe.is_strong,
        "names": list(facts.names),
        "meant": [list(item) for item in facts.meant],
    }


def _facts(card: TargetCard) -> dict[str, Any]:
    evidence = {fact: item.evidence.value for item in card.sources for fact in item.facts}
    plain = card.to_dict()
    facts = {name: {"card": plain[name], "evidence": evidence.get(name, "")} for name in FACTS}
    return {"name": card.name, "stack": card.stack, "weak_typing": card.weak_typing, "facts": facts}
