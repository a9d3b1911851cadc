"""The values that pass between rooms. Frozen, validated when made, with a digest and a stable JSON form.

Shape letters: N samples, C channels, H, W. The plan of placement has its own file, `core.plan`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import InputError
from edgeq.core.serial import Spec


class Effort(enum.Enum):
    """How much compute a build may spend."""

    QUICK = "quick"
    STANDARD = "standard"
    MAX = "max"


class Layout(enum.Enum):
    """Where the channels of an image input are."""

    NCHW = "nchw"
    NHWC = "nhwc"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec(Spec):
    """One input of the model and how raw data become what it expects.

    A raw pixel p in 0..1 (8-bit value / 255) enters as (p - mean) / std, channel by channel, and is then clipped
    to `low`..`high` (the legal box in the model's own unit).

    Attributes:
        shape: one sample, without the batch axis, all > 0.
        batch: fixed batch size of the file, None where the batch axis is dynamic, 0 where the file takes one sample
            and has no such axis.
        dtype: numpy name of the element type.
        mean, std: [C], in units of raw 0..1 data; empty where the input is no picture.
        low, high: [C] or [1], the legal box in the model's own (normalised) unit.
    """

    name: str
    shape: tuple[int, ...]
    batch: int | None
    dtype: str
    layout: Layout
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(size <= 0 for size in self.shape):
            raise InputError(
                f"input '{self.name}' has the shape {list(self.shape)}",
                why="every axis but the batch needs a size greater than 0",
                mend=f"pass --shape {self.name}:1x3x224x224 (with your sizes)",
            )
        if any(value <= 0 or not np.isfinite(value) for value in self.std):
            raise InputError(
                f"input '{self.name}' has the standard deviation {list(self.std)}",
                why="pixels are divided by it, so it must be greater than 0",
                mend="pass --std with one positive number a channel",
            )
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise InputError(
                f"input '{self.name}' has the bounds {list(self.low)} .. {list(self.high)}",
                why="the lower bound of every channel must be below the upper one",
                mend="pass --bounds LOW,HIGH",
            )

    @property
    def channels(self) -> int:
        """Return the number of channels of a picture input."""
        return self.shape[-1] if self.layout is Layout.NHWC else self.shape[0]

    def normalise(self, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return pictures as the model takes them.

        Args:
            pixels: [N, H, W, C], raw values in 0..1.

        Returns:
            [N, *shape], float32, in the model's unit and layout.
        """
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        x = (np.asarray(pixels, np.float32) - mean) / std
        return np.ascontiguousarray(x if self.layout is Layout.NHWC else x.transpose(0, 3, 1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class BNEntry(Spec):
    """The statistics that one tensor had over the training data.

    Attributes:
        tensor: ONNX name of the tensor entering the BatchNormalization (channels on axis 1).
        node: the BatchNormalization node, by its first output.
        mean, var: [C], running statistics.
        eps: what the node adds to the variance.
        source: where the figures come from: "node" (the file), later "teacher" or "estimate".
    """

    tensor: str
    node: str
    mean: tuple[float, ...]
    var: tuple[float, ...]
    eps: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BNTable(Spec):
    """All entries, in the order in which the graph runs."""

    entries: tuple[BNEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BitSpec(Spec):
    """Widths of weights and activations.

    Attributes:
        weights, activations: 2..8 bits.
        first_last_same: if false the first and the last layer have 8 bits: their weights and inputs, and the output of
            the first; and so have shortcuts that only an Add reads.
    """

    weights: int
    activations: int
    first_last_same: bool = False

    _PATTERN: ClassVar[re.Pattern[str]] = re.compile(r"w([2-8])a([2-8])")

    def __post_init__(self) -> None:
        for bits in (self.weights, self.activations):
            if not 2 <= bits <= 8:
                raise InputError(
                    f"a width of {bits} bits",
                    why="weights and activations have 2 to 8 bits",
                    mend="pass --bits wNaM, for instance --bits w4a8",
                )

    @classmethod
    def parse(cls, text: str, *, first_last_same: bool = False) -> BitSpec:
        """Return the widths that `text` names, for instance "w4a8".

        Raises:
            InputError: if `text` has another form.
        """
        match = cls._PATTERN.fullmatch(text.strip().lower())
        if text.strip().lower() in {"w4a16", "w4a32"}:
            raise InputError(
                f"--bits '{text}' leaves the activations in float",
                why="a build trains both; weights alone need neither samples nor training and have a verb of their own",
                mend="edgeq weight-only MODEL --target TARGET",
            )
        if match is None:
            raise InputError(
                f"--bits '{text}' is not understood",
                why="widths are written wNaM, N and M from 2 to 8",
                mend="pass for instance --bits w8a8, w4a8 or w4a4",
            )
        return cls(
            weights=int(match[1]), activations=int(match[2]), first_last_same=first_last_same
        )

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"


class GraphFlavour(enum.Enum):
    """How a graph is written for its runtime: the containers of codes, and the types of what is not quantized."""

    PLAIN = "plain"  # no Q/DQ: the chip has no INT8; precision flags choose FP16
    FP32_TYPED = "fp32-typed"  # Q/DQ in an FP32 graph; precision flags choose FP16 for the rest
    FP16_TYPED = "fp16-typed"  # Q/DQ in an FP16 graph; strong typing, every type as written
    ORT_CPU = "ort-cpu"  # UINT8 activations, INT8 weights, INT32 biases: what ONNX Runtime's CPU kernels take

    @property
    def words(self) -> str:
        """Return what the flavour is, in words."""
        return _FLAVOUR_WORDS[self]


_FLAVOUR_WORDS = {
    GraphFlavour.PLAIN: "plain, without Q/DQ",
    GraphFlavour.FP32_TYPED: "fp32-typed, Q/DQ in an FP32 graph",
    GraphFlavour.FP16_TYPED: "fp16-typed, Q/DQ in an FP16 graph",
    GraphFlavour.ORT_CPU: "ort-cpu, Q/DQ in UINT8 and INT8 for ONNX Runtime's CPU kernels",
}


class NumberFormat(enum.Enum):
    """Formats in which a target's runtime computes, or stores weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4_WEIGHTS = "int4-weights"  # weight-only, of MatMul and Gemm
    FP8 = "fp8"
    MXFP8 = "mxfp8"  # MatMul and Gemm
    NVFP4 = "nvfp4"  # MatMul and Gemm


class Evidence(enum.Enum):
    """How a fact on a target is known, strongest first."""

    EXPERIMENT = "experiment"  # found by running the named version
    BINARY = "binary"  # enumerated from the shipped Python bindings
    SOURCE = "source"  # read in source code
    DOCUMENTATION = "documentation"  # read in the vendor's documentation
    INFERRED = "inferred"  # follows from other facts
    RECALLED = "recalled"  # a data sheet from memory, not read again; good for estimates only

    @property
    def is_verified(self) -> bool:
        """Return true if the fact was read or run, false if it was inferred or remembered."""
        return self not in {Evidence.INFERRED, Evidence.RECALLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Spec):
    """Where facts of a target card come from.

    Attributes:
        facts: names of the card's fields.
        evidence: how they are known.
        text: the place, and what was not tried.
    """

    facts: tuple[str, ...]
    evidence: Evidence
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCard(Spec):
    """The facts of one target: a chip plus its TensorRT version.

    Attributes:
        name: what --target takes.
        title: what a person calls it.
        runtime: "tensorrt" or "onnxruntime".
        runtime_version: version of that runtime, for instance "10.3".
        stack: what ships it, for instance "JetPack 6.1 / 6.2".
        compute_capability: CUDA compute capability, or "" for a CPU.
        opset_min, opset_max, ir_max: limits of its ONNX parser.
        flavour: the graph that the stack is best served with.
        weak_typing: true where precision flags choose the types of what is not quantized.
        prequantized_weights: true where an INT8 initializer may feed DequantizeLinear directly.
        formats: number formats that run.
        dla_cores: DLA cores that this stack can use.
        dla_int8_tops: of these cores together, dense.
        dla: how DLA is used there, or why it is not.
        memory_gb, bandwidth_gb_s, int8_tops, fp16_tops: of the largest module of the name; 0 where not known.
        notes: what a user should know.
        sources: where each fact comes from and whether it was verified.
    """

    name: str
    title: str
    runtime: str
    runtime_version: str
    stack: str
    compute_capability: str
    opset_min: int
    opset_max: int
    ir_max: int
    flavour: GraphFlavour
    weak_typing: bool
    prequantized_weights: bool
    formats: tuple[NumberFormat, ...]
    dla_cores: int
    dla_int8_tops: float
    dla: str
    memory_gb: float
    bandwidth_gb_s: float
    int8_tops: float
    fp16_tops: float
    notes: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def has_int8(self) -> bool:
        """Return true if Q/DQ nodes become INT8 arithmetic there."""
        return NumberFormat.INT8 in self.formats
