"""The plan of placement: for every tensor its grid, its owner, and the reason in words.

One `QuantPlan` is made for a model and a target; the student's fake quantizers, the Q/DQ nodes, the lint and
`edgeq explain` all read it. A node is known by the name of its first output, which ONNX guarantees to be unique
(node names may be empty or repeated).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from edgeq.core.errors import EdgeqBug
from edgeq.core.numerics import code_range
from edgeq.core.serial import Spec


class Role(enum.Enum):
    """What a quantized tensor is."""

    ACTIVATION = "activation"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Spec):
    """The integer codes that a tensor may take. Zero point 0; at most 8 bits in a container of 8 bits.

    Attributes:
        bits: 2..8.
        signed: false for tensors that are never negative (0..2^bits-1); 8 bits unsigned need a UINT8 container.
        narrow: true leaves the lowest signed code unused (weights of 8 bits).
        axis: channel axis of a per-channel scale, or None for one scale a tensor.
    """

    bits: int
    signed: bool = True
    narrow: bool = False
    axis: int | None = None

    def __post_init__(self) -> None:
        code_range(self.bits, signed=self.signed, narrow=self.narrow)

    @property
    def low(self) -> int:
        """Return the lowest code."""
        return code_range(self.bits, signed=self.signed, narrow=self.narrow)[0]

    @property
    def high(self) -> int:
        """Return the highest code."""
        return code_range(self.bits, signed=self.signed, narrow=self.narrow)[1]

    @property
    def needs_clip(self) -> bool:
        """Return true if QuantizeLinear's own saturation is wider than the grid."""
        return (self.low, self.high) not in {(-128, 127), (0, 255)}

    def __str__(self) -> str:
        where = "tensor" if self.axis is None else f"channel {self.axis}"
        return f"{'int' if self.signed else 'uint'}{self.bits} {self.low}..{self.high} per {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRange(Spec):
    """The tensor has a scale of its own.

    Attributes:
        limit: the highest code stands for at most this value, above which no value of the tensor lies; or None.
    """

    kind: ClassVar[str] = "own"
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRange(Spec):
    """The tensor uses the scale of `with_tensor`, bit for bit."""

    kind: ClassVar[str] = "shared"
    with_tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRange(Spec):
    """The range is known beforehand, from the preprocessing: codes cover -amax..amax."""

    kind: ClassVar[str] = "fixed"
    amax: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedRange(Spec):
    """The scale is the product of two others: an INT32 bias, in the unit of the layer's accumulator.

    Attributes:
        activation, weight: the two quantized operands of the layer, by tensor.
    """

    kind: ClassVar[str] = "derived"
    activation: str
    weight: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Spec):
    """One input of one node.

    Attributes:
        node: the node, by its first output.
        index: position in the node's inputs.
        op_type: of the node, for people.
    """

    node: str
    index: int
    op_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Spec):
    """What happens to one tensor and why.

    Attributes:
        tensor: ONNX name; each tensor has at most one decision.
        role: activation or weight.
        grid: None leaves the tensor in float, or makes it an INT32 bias (`owner` is a DerivedRange then).
        owner: whose scale it has; None if it stays float.
        sites: the node inputs that read the quantized value; other consumers read the float tensor.
        rule: name of the placement rule.
        reason: in words.
    """

    tensor: str
    role: Role
    grid: Grid | None
    owner: OwnRange | SharedRange | FixedRange | DerivedRange | None
    sites: tuple[Site, ...]
    rule: str
    reason: str

    def __post_init__(self) -> None:
        if (self.grid is None) != (self.owner is None or isinstance(self.owner, DerivedRange)):
            msg = f"decision on '{self.tensor}': grid and owner must both be given or both be None"
            raise EdgeqBug(msg)
        if self.grid is not None and not self.sites:
            msg = f"decision on '{self.tensor}' quantizes it for nobody"
            raise EdgeqBug(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan(Spec):
    """All decisions, in the order in which the graph makes the tensors.

    Attributes:
        target: name of the target card.
        bits: for instance "w4a8".
        decisions: at most one a tensor; the tensor of a SharedRange has an earlier quantized decision with OwnRange
            or FixedRange and the same grid.
    """

    target: str
    bits: str
    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        owned: dict[str, Grid | None] = {}
        for decision in self.decisions:
            if decision.tensor in seen:
                msg = f"two decisions on '{decision.tensor}'"
                raise EdgeqBug(msg)
            seen.add(decision.tensor)
            owner = decision.owner
            if not isinstance(owner, SharedRange):
                owned[decision.tensor] = decision.grid
            elif owned.get(owner.with_tensor) != decision.grid:
                msg = f"'{decision.tensor}' shares the range of '{owner.with_tensor}', which owns no such grid"
                raise EdgeqBug(msg)

    def quantized(self, role: Role | None = None) -> Iterator[Decision]:
        """Yield the decisions that quantize, of one role or of both."""
        for decision in self.decisions:
            if decision.grid is not None and role in (None, decision.role):
                yield decision

    def derived(self) -> Iterator[tuple[str, DerivedRange, Site]]:
        """Yield the INT32 biases: tensor, where its scale comes from, and the one input that reads it."""
        for decision in self.decisions:
            if isinstance(decision.owner, DerivedRange):
                (site,) = decision.sites
                yield decision.tensor, decision.owner, site

    def owner_of(self, tensor: str) -> str:
        """Return the tensor whose scale `tensor` uses: itself, or the one it shares with."""
        for decision in self.decisions:
            if decision.tensor == tensor:
                return (
                    decision.owner.with_tensor
                    if isinstance(decision.owner, SharedRange)
                    else tensor
                )
        msg = f"no decision on '{tensor}'"
        raise EdgeqBug(msg)
