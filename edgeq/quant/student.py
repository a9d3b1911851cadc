"""The student: the teacher's graph with the plan's fake quantizers in it.

Each quantized tensor gets one quantizer node behind the fx node that makes it, and exactly the sites of its decision
read it; so simulation, Q/DQ file and engine quantize the same edges.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgeq.core.errors import EdgeqBug, NumericsError
from edgeq.core.numerics import (
    accumulator_scale,
    bias_codes,
    choose_scale,
    dequantize,
    quantize,
)
from edgeq.core.plan import Decision, FixedRange, Grid, OwnRange, QuantPlan, Role, SharedRange
from edgeq.core.quantized import QuantizedValues
from edgeq.core.recipes import RangesSpec
from edgeq.graph.placement.flow import SHAPE_READERS
from edgeq.quant.fake_quant import FakeQuantizer
from edgeq.quant.initialisers import choose_range
from edgeq.quant.ranges import ValueSample
from edgeq.teacher.teacher import Teacher, place_behind, with_outputs

# Half of what INT32 holds: the products are added to it.
LARGEST_BIAS_CODE = 1 << 30

# The ranges of the default recipe.
SEARCHED = RangesSpec()

# Values of each tensor and batch that the range search sees.
VALUES_PER_BATCH = 1 << 14


class Student:
    """A trainable copy of the teacher under a plan.

    Attributes:
        teacher: the copy itself, quantizers inside; `with_outputs` works on it.
        plan: what is quantized.
        quantizers: by owner tensor.
        channel_factors: of an equalized teacher; see `QuantizedValues`.
    """

    def __init__(self, teacher: Teacher, plan: QuantPlan, scales: Mapping[str, Tensor]) -> None:
        """Insert quantizers with the given `scales`, one an owner tensor, [] or [C]."""
        self.teacher = teacher.copy()
        self.plan = plan
        self.channel_factors: dict[str, NDArray[np.float32]] = {}
        device = self.teacher.device
        self.quantizers = self._make_quantizers(scales)
        self._calls: dict[str, fx.Node] = {}
        self._attributes = {tensor: name for name, tensor in self.teacher.binding.items()}
        self._insert()
        self.teacher.module.to(device)

    @classmethod
    def from_values(cls, teacher: Teacher, plan: QuantPlan, values: QuantizedValues) -> Student:
        """Return a student that computes what `values` describe: dequantized weights, trained scales and biases."""
        student = cls(
            teacher, plan, {name: torch.from_numpy(scale) for name, scale in values.scales.items()}
        )
        with torch.no_grad():
            for tensor, weight in student.weights().items():
                axis = require_grid(student._decision(tensor)).axis or 0
                restored = dequantize(values.codes[tensor], values.scales[tensor], axis=axis)
                weight.copy_(torch.from_numpy(restored))
            for tensor, (bias, _) in student.biases().items():
                bias.copy_(torch.from_numpy(values.floats[tensor]))
        return student

    def _make_quantizers(self, scales: Mapping[str, Tensor]) -> dict[str, FakeQuantizer]:
        parameters = {tensor: name for name, tensor in self.teacher.binding.items()}
        quantizers = {}
        for decision in self.plan.quantized():
            if isinstance(decision.owner, SharedRange):
                continue
            ndim = 0
            if decision.role is Role.WEIGHT:
                ndim = self.teacher.module.get_parameter(parameters[decision.tensor]).ndim
            quantizers[decision.tensor] = FakeQuantizer(
                require_grid(decision), scales[decision.tensor], ndim=ndim, limit=limit_of(decision)
            )
        return quantizers

    def _decision(self, tensor: str) -> Decision:
        return next(decision for decision in self.plan.decisions if decision.tensor == tensor)

    def _insert(self) -> None:
        module = self.teacher.module
        graph = module.graph
        nodes = {node.name: node for node in graph.nodes}
        by_onnx = {node.meta["onnx_node"]: node for node in graph.nodes if "onnx_node" in node.meta}
        names = {}
        for index, (owner, quantizer) in enumerate(self.quantizers.items()):
            names[owner] = f"quantizer_{index}"
            module.add_submodule(names[owner], quantizer)
        for decision in self.plan.quantized():
            source = nodes[self.teacher.fx_node_of[decision.tensor]]
            with graph.inserting_after(place_behind(source)):
                call = graph.call_module(names[self.plan.owner_of(decision.tensor)], (source,))
            for site in decision.sites:
                if site.op_type in SHAPE_READERS:
                    continue  # the same shape with and without quantizer; most are folded at import
                reader = by_onnx.get(site.node)
                if reader is None or reader.args[site.index] is not source:
                    msg = f"site {site} of '{decision.tensor}' is not in the teacher's graph"
                    raise EdgeqBug(msg)
                reader.update_arg(site.index, call)
            self._calls[decision.tensor] = call
            if decision.role is Role.WEIGHT:
                self._keep_for_others(source, call)
        graph.lint()
        module.recompile()

    def _keep_for_others(self, source: fx.Node, call: fx.Node) -> None:
        """Let what reads a weight in float read it as the file keeps it: the quantized one is trained beside it."""
        others = [user for user in source.users if user is not call]
        if not others:
            return
        name = f"{source.target}_kept"
        while hasattr(self.teacher.module, name):
            name += "_"
        weight = self.teacher.module.get_parameter(str(source.target))
        self.teacher.module.register_buffer(name, weight.detach().clone())
        with source.graph.inserting_after(source):
            kept = source.graph.get_attr(name)
        for user in others:
            user.replace_input_with(source, kept)

    def parameters_of(self, role: Role) -> dict[str, nn.Parameter]:
        """Return the log scales of one role by owner tensor; fixed ranges are left out."""
        return {
            decision.tensor: self.quantizers[decision.tensor].log_scale
            for decision in self.plan.quantized(role)
            if decision.tensor in self.quantizers and not isinstance(decision.owner, FixedRange)
        }

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the quantized weights by tensor."""
        return {
            decision.tensor: self.teacher.module.get_parameter(self._attributes[decision.tensor])
            for decision in self.plan.quantized(Role.WEIGHT)
        }

    def biases(self) -> dict[str, tuple[nn.Parameter, str]]:
        """Return the biases of quantized layers: tensor to (parameter, the layer's output tensor)."""
        graph = self.teacher.module.graph
        by_onnx = {node.meta["onnx_node"]: node for node in graph.nodes if "onnx_node" in node.meta}
        found: dict[str, tuple[nn.Parameter, str]] = {}
        for decision in self.plan.quantized(Role.WEIGHT):
            for site in decision.sites:
                args = by_onnx[site.node].args
                bias = args[2] if len(args) > 2 else None
                if isinstance(bias, fx.Node) and bias.op == "get_attr" and len(bias.users) == 1:
                    name = str(bias.target)
                    tensor = self.teacher.binding[name]
                    if isinstance(getattr(self.teacher.module, name), nn.Parameter):
                        found[tensor] = (self.teacher.module.get_parameter(name), site.node)
        return found

    def activation_codes(
        self, *inputs: Tensor, given: Mapping[str, NDArray[np.int16]] | None = None
    ) -> dict[str, NDArray[np.int16]]:
        """Return the integer codes of every quantized activation.

        Args:
            inputs: one a graph input.
            given: codes that each quantizer passes on in place of its own, by tensor. Each tensor is then judged by
                itself: without them a tie of rounding, which two programs decide differently, moves every later tensor.
                A tensor that they lack passes its own on.
        """
        reader = _CodeReader(self, given)
        with torch.no_grad():
            reader.run(*inputs)
        return {
            decision.tensor: reader.codes[decision.tensor]
            for decision in self.plan.quantized(Role.ACTIVATION)
        }

    def values(self) -> QuantizedValues:
        """Return what the writer needs: scales, integer weights, trained biases."""
        scales = {
            decision.tensor: self.quantizers[self.plan.owner_of(decision.tensor)]
            .scale()
            .detach()
            .numpy()
            .copy()
            for decision in self.plan.quantized()
        }
        biases = {
            tensor: bias.detach().numpy().copy() for tensor, (bias, _) in self.biases().items()
        }
        self._fit_biases(scales, biases)
        codes = {}
        for decision in self.plan.quantized(Role.WEIGHT):
            grid = require_grid(decision)
            weight = self.weights()[decision.tensor].detach().numpy()
            codes[decision.tensor] = quantize(
                weight,
                scales[decision.tensor],
                low=grid.low,
                high=grid.high,
                axis=grid.axis or 0,
            ).astype(np.int8)
        return QuantizedValues(
            scales=scales, codes=codes, floats=biases, channel_factors=self.channel_factors
        )

    def _fit_biases(
        self, scales: dict[str, NDArray[np.float32]], biases: dict[str, NDArray[np.float32]]
    ) -> None:
        """Round INT32 biases in place, with weight scales large enough that they fit.

        A channel that BatchNorm has switched off has weights near 0 beside a bias that is not.
        """
        for tensor, owner, _ in self.plan.derived():
            if tensor not in biases:
                continue
            activation, weight = scales[owner.activation], scales[owner.weight]
            floor = np.abs(biases[tensor]) / (np.float32(LARGEST_BIAS_CODE) * activation)
            scales[owner.weight] = weight = np.maximum(
                weight, floor if weight.ndim else floor.max(initial=0)
            ).astype(np.float32)
            codes = bias_codes(biases[tensor], activation, weight)
            biases[tensor] = dequantize(codes, accumulator_scale(activation, weight))


class _CodeReader(fx.Interpreter):
    """Runs the student and notes the codes of its activations; see `Student.activation_codes`."""

    def __init__(self, student: Student, given: Mapping[str, NDArray[np.int16]] | None) -> None:
        super().__init__(student.teacher.module)
        self.codes: dict[str, NDArray[np.int16]] = {}
        self._given = given
        self._tensors = {
            student._calls[decision.tensor]: decision.tensor
            for decision in student.plan.quantized(Role.ACTIVATION)
        }

    def run_node(self, n: fx.Node) -> Any:
        tensor = self._tensors.get(n)
        if tensor is None:
            return super().run_node(n)
        quantizer = self.submodules[str(n.target)]
        assert isinstance(quantizer, FakeQuantizer)
        (value,) = self.fetch_args_kwargs_from_env(n)[0]
        codes = quantizer.codes(value)
        self.codes[tensor] = codes.numpy().astype(np.int16)
        if self._given is not None and tensor in self._given:
            codes = torch.from_numpy(self._given[tensor]).float()
        return codes * quantizer.scale()


def first_scales(
    teacher: Teacher,
    plan: QuantPlan,
    batches: Sequence[Sequence[Tensor]],
    spec: RangesSpec = SEARCHED,
) -> dict[str, Tensor]:
    """Return the first scale of every owner tensor: fixed, or read from weights and observed activations.

    A scale that several tensors share is read from the values of all of them.

    Args:
        teacher: float.
        plan: whose tensors are wanted.
        batches: inputs that show the ranges, one tensor a graph input.
        spec: which initialiser reads them.

    Raises:
        NumericsError: if a tensor has NaN or infinity.
    """
    families = _families(plan)
    observed = observe(teacher, [name for family in families.values() for name in family], batches)
    parameters = {tensor: name for name, tensor in teacher.binding.items()}
    scales: dict[str, Tensor] = {}
    for decision in plan.quantized():
        grid = require_grid(decision)
        if isinstance(decision.owner, FixedRange):
            scales[decision.tensor] = torch.from_numpy(
                choose_scale(decision.owner.amax, high=grid.high)
            )
        elif decision.role is Role.WEIGHT:
            weight = teacher.module.get_parameter(parameters[decision.tensor])
            with _named(decision.tensor):
                scales[decision.tensor] = choose_range(weight, grid, spec.weights, spec)
        elif not isinstance(decision.owner, SharedRange):
            seen = [observed[name] for name in families[decision.tensor]]
            if spec.activations == "batch_max":
                # The largest of each batch, over all of the tensors.
                values = torch.stack([item.peaks() for item in seen]).amax(0)
            else:
                values = torch.cat([item.values() for item in seen])
            with _named(decision.tensor):
                scales[decision.tensor] = choose_range(
                    values, grid, spec.activations, spec, limit=limit_of(decision)
                )
    return scales


@contextlib.contextmanager
def _named(tensor: str) -> Iterator[None]:
    """Say whose numbers have no range."""
    try:
        yield
    except NumericsError as error:
        raise NumericsError(f"'{tensor}': {error.what}", why=error.why, mend=error.mend) from error


def _families(plan: QuantPlan) -> dict[str, list[str]]:
    """Return the activations that have one scale, by owner; those of fixed ranges are left out."""
    families: dict[str, list[str]] = {}
    for decision in plan.quantized(Role.ACTIVATION):
        if isinstance(decision.owner, SharedRange):
            families.get(decision.owner.with_tensor, []).append(decision.tensor)
        elif not isinstance(decision.owner, FixedRange):
            families[decision.tensor] = [decision.tensor]
    return families


def observe(
    teacher: Teacher, tensors: Sequence[str], batches: Sequence[Sequence[Tensor]]
) -> dict[str, ValueSample]:
    """Return a sample of the values of each tensor over all batches, by the float teacher."""
    module = with_outputs(teacher, tensors)
    samples = {name: ValueSample(VALUES_PER_BATCH) for name in tensors}
    with torch.no_grad():
        for batch in batches:
            _, captured = module(*batch)
            for name, value in zip(tensors, captured, strict=True):
                samples[name].add(value)
    return samples


def limit_of(decision: Decision) -> float | None:
    """Return the value that the highest code of a decision may stand for at most, or None."""
    return decision.owner.limit if isinstance(decision.owner, OwnRange) else None


def require_grid(decision: Decision) -> Grid:
    """Return the grid of a decision that quantizes."""
    if decision.grid is None:
        msg = f"'{decision.tensor}' has no grid"
        raise EdgeqBug(msg)
    return decision.grid
