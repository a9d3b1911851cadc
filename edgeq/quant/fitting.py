"""What is learned in one unit, and what becomes of it at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from edgeq.core.plan import FixedRange, Role
from edgeq.core.recipes import ReconstructionSpec
from edgeq.quant.drops import DroppedQuantizer, Masks
from edgeq.quant.rounding import SoftRounding, cosine
from edgeq.quant.student import Student
from edgeq.quant.units import Unit
from edgeq.teacher.compute import make_adam


class Fitting:
    """Parameters of one unit under Adam, while the quantizers in `part` learn, or drop values.

    Attributes:
        soft: the weights whose rounding is learned, by tensor.
        optimizer: over everything that is learned; None where that is nothing.
    """

    def __init__(
        self, student: Student, unit: Unit, part: fx.GraphModule, spec: ReconstructionSpec
    ) -> None:
        """Learn nothing yet.

        Args:
            student: holds the parameters.
            unit: which of them are its own.
            part: the unit of the student, for which its quantizers are replaced; the student keeps its own.
            spec: the rates.
        """
        self.soft: dict[str, SoftRounding] = {}
        self.optimizer: torch.optim.Adam | None = None
        self._student = student
        self._unit = unit
        self._part = part
        self._spec = spec
        self._groups: list[tuple[list[nn.Parameter], float, bool]] = []
        self._names = {id(module): name for name, module in student.teacher.module.named_children()}

    def learn_weights(self) -> None:
        """Learn the rounding of the unit's weights, or the weights themselves, and their scales."""
        spec, student = self._spec, self._student
        weights = student.weights()
        for tensor in self._unit.weights:
            quantizer = student.quantizers[tensor]
            if spec.rounding == "adaround":
                self.soft[tensor] = SoftRounding(quantizer, weights[tensor])
                setattr(self._part, self._names[id(quantizer)], self.soft[tensor])
                self._add([self.soft[tensor].v], spec.rounding_rate, falls=False)
            elif spec.rounding == "weights":
                step = float(quantizer.scale().detach().mean())
                self._add([weights[tensor]], spec.weight_rate * step)
            self._add([quantizer.log_scale], spec.weight_scale_rate)

    def learn_biases(self, shown: Tensor) -> None:
        """Learn the unit's biases, with a rate relative to the standard deviation of `shown`, the teacher's output."""
        layers = {
            site.node
            for decision in self._student.plan.quantized(Role.WEIGHT)
            if decision.tensor in self._unit.weights
            for site in decision.sites
        }
        biases = [bias for bias, layer in self._student.biases().values() if layer in layers]
        self._add(biases, self._spec.bias_rate * float(shown.std(correction=0)))

    def learn_activations(self, learned: set[str], *, keep: float, masks: Masks) -> None:
        """Learn the scales of the unit's activations that are not in `learned`, to which they are added.

        Args:
            learned: owner tensors whose scales earlier units have settled.
            keep: probability that a value is quantized.
            masks: draws which.
        """
        called = {str(node.target) for node in self._part.graph.nodes if node.op == "call_module"}
        scales = []
        for decision in self._student.plan.quantized(Role.ACTIVATION):
            owner = self._student.plan.owner_of(decision.tensor)
            quantizer = self._student.quantizers[owner]
            name = self._names[id(quantizer)]
            if name not in called:
                continue
            if keep < 1:
                setattr(self._part, name, DroppedQuantizer(quantizer, keep, masks))
            can_learn = keep > 0 and not isinstance(decision.owner, FixedRange)
            if can_learn and owner not in learned:
                learned.add(owner)
                scales.append(quantizer.log_scale)
        self._add(scales, self._spec.scale_rate)

    def begin(self) -> None:
        """Make the optimiser of what was added."""
        groups = [{"params": found, "lr": rate} for found, rate, _ in self._groups]
        self.optimizer = make_adam(groups) if groups else None

    def step(self, loss: Tensor, share: float) -> None:
        """Move along the gradient of `loss`, when `share` of the steps is done."""
        assert self.optimizer is not None
        for group, (_, rate, falls) in zip(self.optimizer.param_groups, self._groups, strict=True):
            group["lr"] = rate * cosine(share) if falls else rate
        for group in self.optimizer.param_groups:  # zero_grad() takes as long as the step itself
            for parameter in group["params"]:
                parameter.grad = None
        torch.autograd.backward(loss)
        self.optimizer.step()

    def finish(self) -> None:
        """Round the weights for good, and let nothing of the unit move any more."""
        weights = self._student.weights()
        with torch.no_grad():
            for tensor, soft in self.soft.items():
                weights[tensor].copy_(soft.hard())
        for found, _, _ in self._groups:
            for parameter in found:
                parameter.requires_grad_(False)

    def _add(self, found: Sequence[nn.Parameter], rate: float, *, falls: bool = True) -> None:
        if rate > 0 and found:
            for parameter in found:
                parameter.requires_grad_(True)
            for members, *figures in self._groups:
                if figures == [rate, falls]:
                    members += found
                    return
            self._groups.append((list(found), rate, falls))
