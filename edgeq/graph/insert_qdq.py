"""Write a placement plan and its numbers as Q/DQ nodes into the user's own graph.

Main entry: `insert_qdq`. Names, inputs, outputs, metadata and every node and initializer that the plan does not concern
stay as they are; equalized channels leave a note in the metadata (`rescaled`). It decides nothing: places come from
`QuantPlan`, numbers from `QuantizedValues`.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeq.core.errors import EdgeqBug, ModelError
from edgeq.core.numerics import accumulator_scale, bias_codes, dequantize
from edgeq.core.plan import Decision, DerivedRange, Grid, QuantPlan, Role, SharedRange, Site
from edgeq.core.quantized import QuantizedValues
from edgeq.core.specs import GraphFlavour, TargetCard
from edgeq.graph.codes import codes_name
from edgeq.graph.fit_target import fit_target
from edgeq.graph.integer_forms import fit_kernels
from edgeq.graph.passes import PassResult
from edgeq.graph.rescaled import mark_rescaled
from edgeq.graph.unread import names_read, remove_unread
from edgeq.graph.view import GraphView, node_id, unique_name

# Before opset 13 they work on all axes from one on.
_FLATTENING = frozenset({"Hardmax", "LogSoftmax", "Softmax"})


def insert_qdq(
    model: onnx.ModelProto, plan: QuantPlan, values: QuantizedValues, *, card: TargetCard
) -> PassResult:
    """Return `model` with the Q/DQ nodes of `plan`; the input is not changed.

    1. An activation gets one pair, read by all its sites; grids narrower than INT8 get a Clip in front.
    2. A weight becomes int8 codes -> DequantizeLinear, or float -> Q -> DQ where the target wants that.
    3. Tensors with a shared range read the owner's scale, zero point and clip bounds.
    4. Trained float tensors (biases) take the place of the old ones.
    5. For ONNX Runtime's CPU kernels codes of activations travel in UINT8 (a signed grid with zero point 128), biases
       that the plan derives become int32 codes -> DequantizeLinear, and `fit_kernels` does the rest.
    6. Left alone: everything else, and readers that are no site of the plan.

    Args:
        model: the graph that the plan was made for (BatchNorm folded).
        plan: where.
        values: scales, codes and trained floats for every decision.
        card: limits of the target (opset, IR version, form of the weights).

    Raises:
        ModelError: if the graph has Q/DQ nodes already.
        TargetError: if its opset is above what the target parses.
        NumericsError: if a scale or code is missing or illegal.
    """
    _require_float(model)
    values.require_complete(plan)
    fitted, findings = fit_target(model, card=card)
    writer = _Writer(fitted, values, card=card)
    for decision in plan.quantized():
        writer.add(decision)
    biases = list(plan.derived())
    for name, owner, site in biases:
        writer.add_bias(name, owner, site)
    sites = {decision.tensor: decision.sites for decision in plan.decisions}
    for name in sorted(values.floats.keys() - {name for name, _, _ in biases}):
        writer.replace_float(name, sites.get(name, ()))
    written = writer.finish()
    if card.flavour is GraphFlavour.ORT_CPU:
        fit_kernels(written)
    mark_rescaled(written, values.channel_factors)
    return PassResult(
        model=written,
        changed=bool(writer.touched),
        touched=tuple(writer.touched),
        findings=tuple(findings),
    )


def _require_float(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} or "QLinear" in node.op_type:
            raise ModelError(
                f"the model is quantized already: it has a {node.op_type} node",
                why="Q/DQ nodes are written once, into a float model",
                mend="start from the float model",
                node=node_id(node),
            )


class _Writer:
    """Collects new nodes and initializers, then rebuilds the node list once.

    Attributes:
        touched: tensors that were quantized, replaced or removed.
    """

    def __init__(
        self, model: onnx.ModelProto, values: QuantizedValues, *, card: TargetCard
    ) -> None:
        self.touched: list[str] = []
        self._model = model
        self._view = GraphView(model)
        self._values = values
        self._prequantized = card.prequantized_weights
        self._in_uint8 = card.flavour is GraphFlavour.ORT_CPU
        self._used = self._view.names() | names_read(model.graph)
        self._used |= {item.name for item in model.graph.value_info}
        self._nodes = {node_id(node): node for node in self._view.nodes}
        self._order = {name: index for index, name in enumerate(self._nodes)}
        self._before: dict[str, list[onnx.NodeProto]] = {}  # by the id of the reading node
        self._after: dict[str, list[onnx.NodeProto]] = {}  # by the tensor that is quantized
        self._parameters: dict[str, str] = {}
        self._orphans: set[str] = set()

    def add(self, decision: Decision) -> None:
        """Make the nodes of one quantized decision and point its sites at them."""
        if decision.role is Role.WEIGHT:
            nodes = self._weight_nodes(decision)
            first = min((site.node for site in decision.sites), key=self._order.__getitem__)
            self._before.setdefault(first, []).extend(nodes)
        else:
            nodes = self._activation_nodes(decision)
            self._after[decision.tensor] = nodes
        self._rewire(decision.sites, nodes[-1].output[0])
        self.touched.append(decision.tensor)

    def add_bias(self, name: str, owner: DerivedRange, site: Site) -> None:
        """Make an INT32 bias in the unit of its layer's accumulator, and let the layer read it."""
        old = self._view.constant(name)
        value = self._values.floats.get(name, old)
        if old is None or value is None or old.shape != value.shape:
            msg = f"trained values do not fit the bias '{name}'"
            raise EdgeqBug(msg)
        scales = self._values.scales[owner.activation], self._values.scales[owner.weight]
        codes = bias_codes(np.asarray(value, np.float32), *scales)
        scale = accumulator_scale(*scales)
        names = [
            self._add_initializer(f"{name}/codes", codes),
            self._parameter(f"{name}/scale", scale),
            self._parameter(f"{name}/zero_point", np.zeros(scale.shape, np.int32)),
        ]
        axis = {"axis": 0} if scale.ndim else {}
        node = self._node("DequantizeLinear", names, f"{name}/dq", **axis)
        self._before.setdefault(site.node, []).append(node)
        self._rewire((site,), node.output[0])
        self.touched.append(name)

    def replace_float(self, name: str, sites: tuple[Site, ...]) -> None:
        """Put the trained values of `name` in place of the old ones.

        An initializer that only `sites` read keeps its name. Otherwise (a Constant node, an Identity on the way,
        another reader) the sites read a new initializer. Without sites, every reader gets the new values.
        """
        value = self._values.floats[name]
        old = self._view.constant(name)
        if old is None or old.shape != value.shape:
            msg = f"trained values of shape {value.shape} do not fit the tensor '{name}'"
            raise EdgeqBug(msg)
        readers = {(node_id(node), index) for node, index in self._view.consumers(name)}
        places = {(site.node, site.index) for site in sites} or readers
        if name in self._view.initializers and readers == places:
            self._view.initializers[name].CopyFrom(_initializer(name, value))
        else:
            fresh = self._add_initializer(f"{name}/trained", value)
            for node, index in sorted(places):
                self._read_instead(node, index, fresh)
        self.touched.append(name)

    def finish(self) -> onnx.ModelProto:
        """Return the model with the new nodes in topological order and without constants that nobody reads."""
        graph = self._model.graph
        nodes = [new for name in self._view.inputs for new in self._after.pop(name, [])]
        for node in self._view.nodes:
            nodes += self._before.get(node_id(node), [])
            nodes.append(node)
            nodes += [new for name in node.output for new in self._after.pop(name, [])]
        if self._after:
            msg = f"the plan quantizes tensors that the graph does not make: {sorted(self._after)}"
            raise EdgeqBug(msg)
        copies = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        self.touched += remove_unread(graph, self._orphans)
        return self._model

    def _activation_nodes(self, decision: Decision) -> list[onnx.NodeProto]:
        tensor, grid = decision.tensor, decision.grid
        assert grid is not None
        owner = self._owner(decision)
        scale = self._scale(decision, owner)
        parameters = self._grid(owner, scale, self._zero_point(grid))
        nodes = []
        source = tensor
        if grid.needs_clip:
            bounds = [
                self._parameter(f"{owner}/{side}", np.float32(code) * scale)
                for side, code in (("low", grid.low), ("high", grid.high))
            ]
            nodes.append(self._node("Clip", [source, *bounds], f"{tensor}/clip"))
            source = nodes[-1].output[0]
        nodes.append(self._node("QuantizeLinear", [source, *parameters], codes_name(tensor)))
        quantized = nodes[-1].output[0]
        nodes.append(self._node("DequantizeLinear", [quantized, *parameters], f"{tensor}/dq"))
        return nodes

    def _weight_nodes(self, decision: Decision) -> list[onnx.NodeProto]:
        tensor, grid = decision.tensor, decision.grid
        assert grid is not None
        scale, codes = self._scale(decision, tensor), self._values.codes[tensor]
        old = self._view.constant(tensor)
        if old is None or old.shape != codes.shape or codes.dtype != np.int8:
            msg = f"codes of shape {codes.shape}, {codes.dtype} do not fit the weight '{tensor}'"
            raise EdgeqBug(msg)
        axis = {} if grid.axis is None else {"axis": grid.axis}
        parameters = self._grid(tensor, scale, np.zeros(scale.shape, np.int8))
        nodes = []
        if self._prequantized:
            source = self._add_initializer(f"{tensor}/codes", codes)
        else:
            floats = dequantize(codes, scale, axis=grid.axis or 0)
            stored = self._add_initializer(f"{tensor}/values", floats)
            nodes.append(self._node("QuantizeLinear", [stored, *parameters], f"{tensor}/q", **axis))
            source = nodes[-1].output[0]
        nodes.append(self._node("DequantizeLinear", [source, *parameters], f"{tensor}/dq", **axis))
        return nodes

    def _owner(self, decision: Decision) -> str:
        owner = decision.owner
        return owner.with_tensor if isinstance(owner, SharedRange) else decision.tensor

    def _scale(self, decision: Decision, owner: str) -> NDArray[np.float32]:
        """Return the scale of a decision, proved to have the right shape and the owner's bits."""
        scale = np.asarray(self._values.scales[decision.tensor])
        assert decision.grid is not None
        axis = decision.grid.axis
        shape = () if axis is None else (self._values.codes[decision.tensor].shape[axis],)
        same = scale.tobytes() == np.asarray(self._values.scales[owner]).tobytes()
        if scale.shape != shape or scale.dtype != np.float32 or not same:
            msg = f"the scale of '{decision.tensor}' is no float32 of shape {shape} with the bits of '{owner}'"
            raise EdgeqBug(msg)
        return scale

    def _zero_point(self, grid: Grid) -> NDArray[np.generic]:
        """Return the zero point of an activation in its container; code 0 of a signed grid is 128 in UINT8."""
        if self._in_uint8:
            return np.array(128 if grid.signed else 0, np.uint8)
        if grid.high > np.iinfo(np.int8).max:
            msg = f"the grid {grid} does not fit INT8"
            raise EdgeqBug(msg)
        return np.array(0, np.int8)

    def _grid(
        self, owner: str, scale: NDArray[np.float32], zero_point: NDArray[np.generic]
    ) -> list[str]:
        """Return the names of the scale and zero point initializers of `owner`."""
        return [
            self._parameter(f"{owner}/scale", scale),
            self._parameter(f"{owner}/zero_point", zero_point),
        ]

    def _parameter(self, wish: str, value: NDArray[np.generic]) -> str:
        """Return the initializer made for `wish`, made once."""
        if wish not in self._parameters:
            self._parameters[wish] = self._add_initializer(wish, value)
        return self._parameters[wish]

    def _add_initializer(self, wish: str, value: NDArray[np.generic]) -> str:
        name = unique_name(wish, self._used)
        self._model.graph.initializer.append(_initializer(name, value))
        return name

    def _node(self, op: str, inputs: list[str], wish: str, **attributes: int) -> onnx.NodeProto:
        name = unique_name(wish, self._used)
        node: onnx.NodeProto = helper.make_node(op, inputs, [name], name=name)
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in attributes)
        return node

    def _rewire(self, sites: tuple[Site, ...], tensor: str) -> None:
        for site in sites:
            self._read_instead(self._reader(site), site.index, tensor)

    def _reader(self, site: Site) -> str:
        """Return the node that now reads at `site`.

        ONNX's converter writes a Softmax of several axes (before opset 13) as Flatten -> Softmax -> Reshape, and the
        last one has the name of the output.
        """
        node = self._nodes.get(site.node)
        if node is None or node.op_type != "Reshape" or site.op_type not in _FLATTENING:
            return site.node
        inner = self._view.producer(node.input[0])
        assert inner is not None
        flatten = self._view.producer(inner.input[0])
        assert flatten is not None
        return node_id(flatten)

    def _read_instead(self, node: str, index: int, tensor: str) -> None:
        """Let input `index` of a node read `tensor`; constants on the old way may have lost their last reader."""
        if node not in self._nodes:
            msg = f"the plan names the node '{node}', which the graph does not have"
            raise EdgeqBug(msg)
        old = self._nodes[node].input[index]
        while self._view.constant_root(old) is not None:
            self._orphans.add(old)
            maker = self._view.producer(old)
            if old in self._view.initializers or maker is None or maker.op_type != "Identity":
                break
            old = maker.input[0]
        self._nodes[node].input[index] = tensor


def _initializer(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
