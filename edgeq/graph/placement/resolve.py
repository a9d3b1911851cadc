"""Join the wishes of all nodes into one decision a tensor: sites, width, sign, and whose scale it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeq.core.plan import Decision, FixedRange, Grid, OwnRange, Role, SharedRange
from edgeq.core.specs import BitSpec, GraphFlavour, InputSpec, Layout
from edgeq.graph.placement.flow import (
    boundary_layers,
    made_by,
    moved_from,
    never_negative,
    upper_bound,
    weighted_readers,
)
from edgeq.graph.placement.rule import PlacementView, Wish
from edgeq.graph.view import node_id

_WIDE = 8


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the resolution needs to know about the whole graph."""

    bits: BitSpec
    first: frozenset[str]
    last: frozenset[str]
    made_by_first: frozenset[str]
    never_negative: frozenset[str]
    picture_amax: dict[str, float]
    on_integers: (
        bool  # of ONNX Runtime: UINT8 containers, and every operator between the layers quantized
    )


def resolve(
    view: PlacementView,
    wishes: Sequence[Wish],
    *,
    bits: BitSpec,
    inputs: Sequence[InputSpec],
    flavour: GraphFlavour = GraphFlavour.FP32_TYPED,
) -> tuple[Decision, ...]:
    """Return one decision a tensor, in the order in which the graph makes the tensors.

    Args:
        view: the graph.
        wishes: of all rules, in file order.
        bits: the widths that were asked for.
        inputs: the model's inputs; pictures among them have a range known beforehand.
        flavour: of the graph, which tells what containers codes have.
    """
    first, last = boundary_layers(view)
    facts = _Facts(
        bits,
        first,
        last,
        made_by(view, first),
        never_negative(view),
        _picture_amax(inputs),
        flavour is GraphFlavour.ORT_CPU,
    )
    by_tensor: dict[str, list[Wish]] = {}
    for wish in wishes:
        by_tensor.setdefault(wish.tensor, []).append(wish)
    decisions = [_leave(group) for group in by_tensor.values() if not _quantizes(group)]
    activations = {}
    for group in by_tensor.values():
        if _quantizes(group) and group[0].role is Role.WEIGHT:
            decisions.append(_decide_weight(group, facts))
        elif _quantizes(group):
            activations[group[0].tensor] = group
    for members in _families(view, activations):
        decisions += _decide_family(view, {name: activations[name] for name in members}, facts)
    return tuple(sorted(decisions, key=lambda decision: _position(view, decision)))


def _quantizes(group: list[Wish]) -> bool:
    return any(wish.quantize for wish in group)


def _picture_amax(inputs: Sequence[InputSpec]) -> dict[str, float]:
    return {
        spec.name: max(abs(value) for value in (*spec.low, *spec.high))
        for spec in inputs
        if spec.layout is not Layout.OTHER and spec.low and spec.high
    }


def _leave(group: list[Wish]) -> Decision:
    return Decision(
        tensor=group[0].tensor,
        role=group[0].role,
        grid=None,
        owner=group[0].derived if len(group) == 1 else None,
        sites=tuple(wish.site for wish in group),
        rule=group[0].rule,
        reason=_join(wish.reason for wish in group),
    )


def _decide_weight(group: list[Wish], facts: _Facts) -> Decision:
    chosen = [wish for wish in group if wish.quantize]
    width, why = _choose_bits({wish.site.node for wish in chosen}, facts, asked=facts.bits.weights)
    axes = {wish.axis for wish in chosen}
    axis = axes.pop() if len(axes) == 1 else None
    mixed = "its readers disagree on the channel axis, so one scale a tensor"
    return Decision(
        tensor=chosen[0].tensor,
        role=Role.WEIGHT,
        # -128 is left out as TensorRT's implicit mode and the CPU's kernels have it; a code of a coarse grid is dear.
        grid=Grid(bits=width, narrow=width == _WIDE, axis=axis),
        owner=OwnRange(),
        sites=tuple(wish.site for wish in chosen),
        rule=chosen[0].rule,
        reason=_join([*(wish.reason for wish in chosen), why, mixed if axes else ""]),
    )


def _families(view: PlacementView, activations: dict[str, list[Wish]]) -> list[list[str]]:
    """Return the quantized tensors grouped by shared scale; members and groups in graph order."""
    parent = {name: name for name in activations}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for name, group in activations.items():
        for partner in (p for wish in group if wish.quantize for p in wish.shares):
            if partner in parent:
                parent[root(partner)] = root(name)
    families: dict[str, list[str]] = {}
    for name in sorted(activations, key=lambda tensor: _tensor_position(view, tensor)):
        families.setdefault(root(name), []).append(name)
    return list(families.values())


def _decide_family(
    view: PlacementView, family: dict[str, list[Wish]], facts: _Facts
) -> list[Decision]:
    """Return the decisions on tensors that have one scale; the one made first owns it."""
    owner, *others = family
    amax = _known_amax(view, list(family), facts)
    grid, why = _choose_grid(view, family, facts, is_picture=amax is not None)
    own: OwnRange | FixedRange = OwnRange(limit=_known_limit(view, list(family), facts))
    if amax is not None:
        own = FixedRange(amax=amax)
    decisions = [_decide(family[owner], grid, own, why, is_input=owner in view.inputs)]
    for name in others:
        shared = SharedRange(with_tensor=owner)
        decisions.append(
            _decide(family[name], grid, shared, f"shares the scale of '{owner}'; {why}")
        )
    return decisions


def _decide(
    group: list[Wish],
    grid: Grid,
    owner: OwnRange | SharedRange | FixedRange,
    why: str,
    *,
    is_input: bool = False,
) -> Decision:
    chosen = [wish for wish in group if wish.quantize]
    fixed = "its range is known from the preprocessing" if isinstance(owner, FixedRange) else ""
    rest = [wish for wish in group if not wish.quantize]
    return Decision(
        tensor=chosen[0].tensor,
        role=Role.ACTIVATION,
        grid=grid,
        owner=owner,
        sites=tuple(wish.site for wish in chosen),
        rule="network input" if is_input else chosen[0].rule,
        reason=_join([*(w.reason for w in chosen), fixed, why, *(w.reason for w in rest)]),
    )


def _known_amax(view: PlacementView, family: list[str], facts: _Facts) -> float | None:
    """Return the largest picture value if every member is one picture input, or that input moved; else None."""
    sources = {[name, *moved_from(view, name)][-1] for name in family}
    return facts.picture_amax.get(sources.pop()) if len(sources) == 1 else None


def _known_limit(view: PlacementView, family: list[str], facts: _Facts) -> float | None:
    """Return what no value of the family exceeds, where ONNX Runtime drops a Clip that the codes make needless."""
    limits = [upper_bound(view, name) for name in family] if facts.on_integers else [None]
    known = [limit for limit in limits if limit is not None and limit > 0]
    is_safe = len(known) == len(limits) and facts.never_negative.issuperset(family)
    return max(known) if is_safe else None


def _choose_grid(
    view: PlacementView, family: dict[str, list[Wish]], facts: _Facts, *, is_picture: bool
) -> tuple[Grid, str]:
    sites = [wish.site for group in family.values() for wish in group if wish.quantize]
    readers = weighted_readers(view, [view.nodes[view.order[site.node]] for site in sites])
    width, why = _choose_bits(readers, facts, asked=facts.bits.activations)
    if width != _WIDE:
        may_widen = not facts.bits.first_last_same
        adds_alone = all(site.op_type == "Add" for site in sites)
        if is_picture:
            width, why = _WIDE, "8 bits: pictures have 8 bits"
        elif not readers and (facts.on_integers or (may_widen and adds_alone)):
            width, why = _WIDE, "8 bits: no layer with weights reads it"
        elif may_widen and facts.made_by_first.issuperset(family):
            # The policy of BRECQ and Genie: what the first layer takes and what it makes have 8 bits.
            width, why = _WIDE, "8 bits: the first layer makes it"
    if width == _WIDE and not facts.on_integers:
        return Grid(bits=width), why
    unsigned = not is_picture and all(name in facts.never_negative for name in family)
    sign = "never negative" if unsigned else "may be negative"
    return Grid(bits=width, signed=not unsigned), _join([why, sign])


def _choose_bits(readers: set[str], facts: _Facts, *, asked: int) -> tuple[int, str]:
    """Return the width that suits the weighted nodes `readers`, and why where it is not the plain one."""
    boundary = facts.first | facts.last
    if facts.bits.first_last_same or asked == _WIDE or not readers & boundary:
        return asked, ""
    if readers <= boundary:
        place = " and ".join(
            word
            for word, nodes in (("first", facts.first), ("last", facts.last))
            if readers & nodes
        )
        return _WIDE, f"8 bits: {place} layer"
    return asked, f"{asked} bits: not only the first or last layer reads it"


def _join(parts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _tensor_position(view: PlacementView, tensor: str) -> tuple[int, int, int]:
    node = view.producer(tensor)
    if node is None:
        return (-1, 0, view.inputs.index(tensor) if tensor in view.inputs else 0)
    return (view.order[node_id(node)], 1, list(node.output).index(tensor))


def _position(view: PlacementView, decision: Decision) -> tuple[int, int, int]:
    """Return the sort key: weights and biases stand before the node that reads them first."""
    if decision.role is Role.WEIGHT:
        return min((view.order[site.node], 0, site.index) for site in decision.sites)
    return _tensor_position(view, decision.tensor)
