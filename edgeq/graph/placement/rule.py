"""What a placement rule is: a named function from a node to wishes about the tensors that it reads.

A rule looks at one node and says, for each input that matters to it, whether that input should be read quantized, and
why. `resolve` joins the wishes of all nodes into one decision a tensor. Rules run from the last node to the first, so
a rule may ask the view which places *after* its node read quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx

from edgeq.core.plan import DerivedRange, Role, Site
from edgeq.core.registry import Registry
from edgeq.core.specs import TargetCard
from edgeq.graph.view import GraphView, node_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one rule wants for one input of one node.

    Attributes:
        tensor: ONNX name; for a weight the initializer or Constant output behind any Identity.
        site: the input that the wish is about.
        quantize: false to leave it in float.
        rule: name of the rule.
        reason: in words.
        role: activation or weight.
        axis: channel axis of a weight.
        shares: tensors with which it must have one scale, as far as they are quantized.
        derived: where the scale of an INT32 bias comes from.
    """

    tensor: str
    site: Site
    quantize: bool
    rule: str
    reason: str
    role: Role = Role.ACTIVATION
    axis: int | None = None
    shares: tuple[str, ...] = ()
    derived: DerivedRange | None = None


class PlacementView(GraphView):
    """A `GraphView` that also knows what is decided on the nodes behind the one being looked at.

    Attributes:
        order: position of every node in the file, by node id.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.order = {node_id(node): index for index, node in enumerate(self.nodes)}
        self._quantized: set[tuple[str, int]] = set()

    def record(self, wishes: Iterable[Wish]) -> None:
        """Note which sites will read quantized values."""
        self._quantized.update((w.site.node, w.site.index) for w in wishes if w.quantize)

    def reads_quantized(self, node: onnx.NodeProto, index: int) -> bool:
        """Return true if a rule wants input `index` of `node` quantized."""
        return (node_id(node), index) in self._quantized

    def is_float(self, tensor: str) -> bool:
        """Return true if `tensor` is known to be float32 (shape arithmetic is not)."""
        return self.element_type(tensor) == onnx.TensorProto.FLOAT


RuleFunction = Callable[[PlacementView, onnx.NodeProto, TargetCard], list[Wish]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A registered rule.

    Attributes:
        ops: the operators it looks at; none means all.
        apply: the function.
        runtime: for which it places.
    """

    name: str
    ops: tuple[str, ...]
    apply: RuleFunction
    runtime: str

    def holds_for(self, node: onnx.NodeProto, card: TargetCard) -> bool:
        """Return true if the rule looks at `node` on the target `card`."""
        return self.runtime == card.runtime and (not self.ops or node.op_type in self.ops)


RULES: Registry[Rule] = Registry("placement rule")


def placement_rule(
    name: str, *ops: str, runtime: str = "tensorrt"
) -> Callable[[RuleFunction], RuleFunction]:
    """Return a decorator that files a rule under `name` for the operators `ops` (none: all) of a runtime."""

    def add(function: RuleFunction) -> RuleFunction:
        RULES.register(name)(Rule(name=name, ops=ops, apply=function, runtime=runtime))
        return function

    return add


def apply_rules(view: PlacementView, node: onnx.NodeProto, card: TargetCard) -> list[Wish]:
    """Return what all rules for the operator of `node` wish."""
    rules = [RULES.get(name) for name in RULES]
    return [
        wish
        for rule in rules
        if rule.holds_for(node, card)
        for wish in rule.apply(view, node, card)
    ]


def site_of(node: onnx.NodeProto, index: int) -> Site:
    """Return the site that is input `index` of `node`."""
    return Site(node=node_id(node), index=index, op_type=node.op_type)


def label(node: onnx.NodeProto) -> str:
    """Return how reasons call `node`: operator and name."""
    return f"{node.op_type} '{node.name or node_id(node)}'"
