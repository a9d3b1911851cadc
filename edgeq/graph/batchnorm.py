"""BatchNormalization: the table of its statistics, and folding it into the layer before it.

Entries: `read_bn_table` (before folding: the table names tensors that folding removes) and `fold_batchnorm`. Both look
at the main graph only; nodes inside If, Loop and Scan are left alone.
"""

from __future__ import annotations

import math

import onnx

from edgeq.core.collector import collector_paused
from edgeq.core.errors import ModelError
from edgeq.core.specs import BNEntry, BNTable
from edgeq.graph.bn_parameters import FoldJob, fold_products, read_parameters
from edgeq.graph.findings import listed
from edgeq.graph.initializers import add_initializer
from edgeq.graph.passes import PassResult
from edgeq.graph.structure import names_read_inside, walk_graphs
from edgeq.graph.unread import remove_unread
from edgeq.graph.view import GraphView, attribute, node_id, unique_name

_FLOAT_KINDS = "fV"  # numpy's letters; V is bfloat16
_FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@collector_paused()
def read_bn_table(model: onnx.ModelProto) -> BNTable:
    """Return the running statistics of every BatchNormalization whose parameters are constant, in running order.

    One that reads a constant is left out: no input moves what it sees.

    Raises:
        ModelError: if a node is in training mode, or its parameters are no vectors of one length.
    """
    view = GraphView(model)
    return BNTable(
        entries=tuple(
            BNEntry(
                tensor=node.input[0],
                node=node_id(node),
                mean=tuple(found.mean.tolist()),
                var=tuple(found.var.tolist()),
                eps=found.eps,
                source="node",
            )
            for node in _inference_nodes(view)
            if view.constant_root(node.input[0]) is None
            and (found := read_parameters(view, node)) is not None
        )
    )


@collector_paused()
def fold_batchnorm(model: onnx.ModelProto) -> PassResult:
    """Fold every BatchNormalization into the layer before it, where that leaves the outputs as they were.

    1. The layer is a Conv, ConvTranspose, Gemm or two-dimensional MatMul with constant weight and bias, and its
       output has no other reader and is no graph output. It takes over the node's output name; the node disappears.
    2. New initializers `<weight>/folded` and `<bias>/folded` (or `<weight>/folded_bias`) hold the products, computed in
       float64 and stored in the weight's own type. The old ones go if nothing else reads them.
    3. A MatMul becomes a Gemm, because it has no place for a bias; a Gemm's `beta` moves into its bias.
    4. Every other node stays and is told in `findings`.

    Everything else keeps its bytes and its order; `model` is not modified; folding twice is folding once.

    Raises:
        ModelError: if a node is in training mode, or parameters and weight do not fit each other.
        NumericsError: if a product is not finite.
    """
    folded, touched = model, []
    jobs, findings = _examine_all(model)
    while jobs:  # a chain of two such nodes takes a second round
        if folded is model:
            folded = onnx.ModelProto()
            folded.CopyFrom(model)
        touched += _fold_round(folded)
        jobs, findings = _examine_all(folded)
    return PassResult(
        model=folded,
        changed=folded is not model,
        touched=tuple(dict.fromkeys(touched)),
        findings=tuple(findings),
    )


def _inference_nodes(view: GraphView) -> list[onnx.NodeProto]:
    """Return the nodes in running order; raise if any of them computes batch statistics."""
    nodes = [node for node in view.nodes if node.op_type == "BatchNormalization"]
    read = names_read_inside(view.model.graph) | set(view.outputs)
    training = [
        f"'{node_id(node)}'"
        for node in nodes
        if attribute(node, "training_mode", 0)
        or any(name and (name in read or view.consumers(name)) for name in node.output[1:])
    ]
    if training:
        raise ModelError(
            f"BatchNormalization in training mode: {listed(training)}",
            why="such a node normalises by the batch at hand, so an answer depends on its neighbours in the batch",
            mend="call model.eval() before export; torch.onnx.export's training= must not be TRAINING",
        )
    return nodes


def _examine_all(model: onnx.ModelProto) -> tuple[list[FoldJob], list[str]]:
    """Return what can be folded now, and a sentence for each node that cannot."""
    view = GraphView(model)
    read = names_read_inside(model.graph) | set(view.outputs)
    ranks = _Ranks(model)
    jobs, findings = [], []
    for node in _inference_nodes(view):
        found = _examine(view, read, ranks, node)
        if isinstance(found, FoldJob):
            jobs.append(found)
        else:
            findings.append(f"BatchNormalization '{node_id(node)}' stays: {found}")
    return jobs, findings


def _examine(view: GraphView, read: set[str], ranks: _Ranks, node: onnx.NodeProto) -> FoldJob | str:
    """Return the job, or the reason why there is none; `read`: names that others than main-graph nodes read."""
    parameters = read_parameters(view, node)
    if parameters is None:
        return "its parameters are computed, not constant"
    tensor = node.input[0]
    layer = view.producer(tensor)
    if layer is None or layer.op_type not in _FOLDABLE:
        origin = "a graph input" if layer is None else f"the output of {layer.op_type}"
        return f"no layer with weights is before it; '{tensor}' is {origin}"
    if len(view.consumers(tensor)) > 1 or tensor in read:
        return f"'{tensor}', the output of {layer.op_type}, is read elsewhere too"
    weight = view.constant(layer.input[1])
    bias_name = layer.input[2] if len(layer.input) > 2 else ""
    bias = view.constant(bias_name) if bias_name else None
    if weight is None or (bias_name and bias is None):
        return f"weight or bias of {layer.op_type} '{tensor}' is computed, not constant"
    if any(item is not None and item.dtype.kind not in _FLOAT_KINDS for item in (weight, bias)):
        return f"weight or bias of {layer.op_type} '{tensor}' holds no floats"
    if layer.op_type == "Gemm" and bias is not None and math.prod(bias.shape[:-1]) != 1:
        return f"the bias of Gemm '{tensor}' differs from row to row"
    if layer.op_type == "MatMul" and (weight.ndim != 2 or ranks.of(tensor) != 2):
        return f"MatMul '{tensor}' is not known to be two-dimensional"
    return FoldJob(node=node, layer=layer, parameters=parameters, weight=weight, bias=bias)


class _Ranks:
    """The ranks of a model's tensors; shapes are inferred once, and only if a rank is asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._view: GraphView | None = None

    def of(self, tensor: str) -> int | None:
        """Return the rank of `tensor`, None if it is unknown."""
        if self._view is None:
            inferred = onnx.shape_inference.infer_shapes(self._model, data_prop=True)
            self._view = GraphView(inferred)
        shape = self._view.shape(tensor)
        return None if shape is None else len(shape)


def _fold_round(model: onnx.ModelProto) -> list[str]:
    """Fold every job of `model` in place; return the names that came, changed or went."""
    view = GraphView(model)
    used = view.names() | {
        name
        for graph in walk_graphs(model.graph)
        for name in [
            *(item.name for item in graph.initializer),
            *(name for node in graph.node for name in node.output),
        ]
    }
    touched: list[str] = []
    stale: list[str] = []
    done: set[str] = set()
    for job in _examine_all(model)[0]:
        old, result = list(job.layer.input), job.node.output[0]
        stale += [job.node.input[0], *_origins(view, [*old[1:], *job.node.input[1:]])]
        touched += [result, *_rewrite(model, view, job, used)]
        done.add(result)
    # The layer now has the node's output name too, so the operator tells them apart.
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if node.op_type == "BatchNormalization" and node.output[0] in done:
            del model.graph.node[index]
    return touched + remove_unread(model.graph, stale)


def _rewrite(
    model: onnx.ModelProto, view: GraphView, job: FoldJob, used: set[str]
) -> tuple[str, str]:
    """Give the layer its new weight, bias and output name; return the names of the first two."""
    layer, products = job.layer, fold_products(job)
    weight = view.constant_root(layer.input[1])
    bias = view.constant_root(layer.input[2]) if job.bias is not None else None
    names = (
        unique_name(f"{weight}/folded", used),
        unique_name(f"{bias}/folded" if bias else f"{weight}/folded_bias", used),
    )
    for name, values in zip(names, products, strict=True):
        add_initializer(model, name, values)
    layer.input[:] = [layer.input[0], *names]
    layer.output[0] = job.node.output[0]
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"
    for index in reversed(range(len(layer.attribute))):
        if layer.op_type == "Gemm" and layer.attribute[index].name == "beta":
            del layer.attribute[index]
    return names


def _origins(view: GraphView, tensors: list[str]) -> list[str]:
    """Return constant tensors with the ones they come from through Identity; "" (left out) has none."""
    found = []
    for tensor in filter(None, tensors):
        found.append(tensor)
        while found[-1] != view.constant_root(tensor):
            producer = view.producer(found[-1])
            assert producer is not None  # constant_root came this way
            found.append(producer.input[0])
    return found
