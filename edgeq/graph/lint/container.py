"""Checks of the file as a whole: versions, operators, names, shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

from edgeq.core.specs import NumberFormat, TargetCard
from edgeq.graph.lint.check import DQ, LintView, Q, Severity, lint_check
from edgeq.graph.pack_weights import PACKED_OPSET
from edgeq.graph.structure import DEFAULT_DOMAINS, walk_graphs
from edgeq.graph.view import node_id

_UNSUPPORTED = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
EXTERNAL_DATA = "model.external-data"


@lint_check(
    "model.opset",
    everywhere=True,
    why="the target's parser knows these opsets only",
    mend="export the model again with an opset that the target takes",
)
def check_opset(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find an opset outside the target's range."""
    if not card.opset_min <= view.opset <= card.opset_max and not _is_for_int4(view, card):
        yield (
            "",
            f"opset {view.opset} is not in {card.opset_min}..{card.opset_max}, which '{card.name}' takes",
        )


@lint_check(
    "model.opset-int4",
    severity=Severity.WARNING,
    why="INT4 came with opset 21; the parser has it, but documents lower opsets only, and it was not tried on a device",
    mend="build it on the board and see; the float model is what to fall back on",
)
def check_opset_of_int4(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find an opset above the target's that INT4 weights need."""
    if view.opset > card.opset_max and _is_for_int4(view, card):
        yield (
            "",
            f"opset {view.opset} for INT4 weights; '{card.name}' documents up to {card.opset_max}",
        )


def _is_for_int4(view: LintView, card: TargetCard) -> bool:
    """Return true if the opset is the one that came with INT4, and the target takes INT4 weights, which are there."""
    return (
        view.opset == PACKED_OPSET
        and NumberFormat.INT4_WEIGHTS in card.formats
        and any(item.data_type == onnx.TensorProto.INT4 for item in view.initializers.values())
    )


@lint_check(
    "model.ir-version",
    everywhere=True,
    why="the target's onnx library refuses newer files",
    mend="set a lower ir_version; the Q/DQ nodes do not need a newer one",
)
def check_ir_version(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find an IR version above the target's."""
    if view.model.ir_version > card.ir_max:
        yield (
            "",
            f"IR version {view.model.ir_version} is above {card.ir_max}, the newest for '{card.name}'",
        )


@lint_check(
    "model.domain",
    why="the target's parser knows ONNX's own operators",
    mend="replace the operator by standard ones before quantizing",
)
def check_domains(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find operators of other domains than ONNX's own."""
    for node in _all_nodes(view):
        if node.domain not in DEFAULT_DOMAINS:
            yield node_id(node), f"operator {node.op_type} of the domain '{node.domain}'"


@lint_check(
    "model.operator",
    why="TensorRT takes Q/DQ nodes around float operators, not operators on integers",
    mend="write the model in Q/DQ form",
)
def check_operators(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find the integer operators that TensorRT does not have."""
    for node in _all_nodes(view):
        if node.domain in DEFAULT_DOMAINS and node.op_type in _UNSUPPORTED:
            yield node_id(node), f"operator {node.op_type}"


def _all_nodes(view: LintView) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of the graphs inside If, Loop and Scan too."""
    return (node for graph in walk_graphs(view.model.graph) for node in graph.node)


@lint_check(
    "model.inner-graph",
    everywhere=True,
    severity=Severity.WARNING,
    why="the checks of Q and DQ nodes look at the main graph alone, so what is wrong with these is not found",
    mend="fix the condition of an If before export; else hold these nodes against the rules by hand",
)
def check_inner_graphs(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find Q and DQ nodes in the graphs inside If, Loop and Scan."""
    for graph in walk_graphs(view.model.graph):
        nodes = [node for node in graph.node if node.op_type in {Q, DQ}]
        if nodes and graph is not view.model.graph:
            first = node_id(nodes[0])
            yield first, f"{len(nodes)} Q/DQ nodes in the inner graph '{graph.name}'"


@lint_check(
    "model.checker",
    everywhere=True,
    why="a file that ONNX's own checker refuses is refused or misread by every runtime",
    mend="export the model again; if edgeq wrote it, report this",
)
def check_onnx(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find what onnx.checker and strict shape inference find."""
    try:
        onnx.checker.check_model(view.original, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield "", str(error).strip().splitlines()[0]


@lint_check(
    "model.shapes",
    why="TensorRT needs the type and the number of axes of every tensor",
    mend="run shape inference with fixed input shapes, or replace the operator that hides the shape",
)
def check_shapes(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find tensors of unknown type or rank."""
    for node in view.nodes:
        for name in filter(None, node.output):
            if view.constant_root(name) is not None:
                continue
            if view.shape(name) is None or not view.element_type(name):
                yield node_id(node), f"tensor '{name}' has an unknown type or number of axes"


@lint_check(
    "model.dynamic-shape",
    severity=Severity.WARNING,
    why="an engine for a changing size needs an optimization profile with least, usual and largest size",
    mend="fix the size with --shape, or give trtexec --minShapes, --optShapes and --maxShapes",
)
def check_dynamic_shapes(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find model inputs with a dynamic axis behind the batch axis."""
    for name in view.inputs:
        if any(size is None or size <= 0 for size in (view.shape(name) or ())[1:]):
            yield name, f"input '{name}' has a dynamic axis behind the batch axis"


@lint_check(
    "model.duplicate-name",
    everywhere=True,
    why="TensorRT names layers after nodes and tensors, and layer reports become ambiguous",
    mend="rename one of them",
)
def check_duplicate_names(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find node names and tensor names that occur twice."""
    nodes = Counter(node.name for node in view.nodes if node.name)
    tensors = Counter(
        [name for node in view.nodes for name in node.output if name]
        + [item.name for item in view.model.graph.initializer]
        + view.inputs
    )
    for kind, counts in (("node", nodes), ("tensor", tensors)):
        for name, count in counts.items():
            if count > 1:
                yield name, f"{count} {kind}s are called '{name}'"


@lint_check(
    EXTERNAL_DATA,
    everywhere=True,
    why="scales and weights cannot be checked without their values",
    mend="load the model with its external data and check it again",
)
def check_external_data(view: LintView, card: TargetCard) -> Iterator[tuple[str, str]]:
    """Find initializers whose data are in another file and were not loaded; no other check runs then."""
    names = [
        item.name
        for item in view.model.graph.initializer
        if item.data_location == onnx.TensorProto.EXTERNAL
    ]
    if names:
        yield names[0], f"the data of {len(names)} initializers were not loaded"
