"""What a row of benchmarks/table.py costs: seconds, passes through the teacher, and memory. Linux alone.

Main entry: `metered`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from edgeq.graph.placement.flow import WEIGHTED
from edgeq.quant.drops import DroppedQuantizer
from edgeq.quant.fake_quant import FakeQuantizer
from edgeq.quant.rounding import SoftRounding

_QUANTIZERS = (DroppedQuantizer, FakeQuantizer, SoftRounding)
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


@dataclass(kw_only=True)
class Usage:
    """What was used inside a `metered` block.

    Attributes:
        wall_s: by the clock.
        cpu_s: of all threads; with one thread, what `wall_s` is on a core that nobody else uses.
        forward: samples that went through the teacher; a part of it counts as its share of the layers with weights.
        backward: the same for gradients.
        peak_mb: largest resident memory of the process, libraries included.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def metered(teacher: fx.GraphModule) -> Iterator[Usage]:
    """Yield the usage of the block, which is known when it ends; `teacher` is the whole network."""
    usage = Usage()
    handle = register_module_forward_pre_hook(_Counter(usage, count_layers(teacher)))
    _RESET_PEAK.write_text("5")
    wall, cpu = time.monotonic(), time.process_time()
    try:
        yield usage
    finally:
        usage.wall_s, usage.cpu_s = time.monotonic() - wall, time.process_time() - cpu
        usage.peak_mb = _peak_mb()
        handle.remove()


def count_layers(module: fx.GraphModule) -> int:
    """Return the number of nodes with weights in a network or a part of one."""
    return sum(1 for node in module.graph.nodes if node.meta.get("onnx_op") in WEIGHTED)


class _Counter:
    """Counts the samples that enter a graph without quantizers: the teacher, a view of it, or a part of it."""

    def __init__(self, usage: Usage, layers: int) -> None:
        self._usage = usage
        self._layers = layers
        self._shares: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not isinstance(module, fx.GraphModule) or not args:
            return
        if module not in self._shares:
            is_student = any(isinstance(child, _QUANTIZERS) for child in module.modules())
            self._shares[module] = 0.0 if is_student else count_layers(module) / self._layers
        passes = self._shares[module] * len(args[0])
        if not passes:
            return
        self._usage.forward += passes
        if torch.is_grad_enabled() and args[0].requires_grad:
            args[0].register_hook(lambda _: self._count_backward(passes))

    def _count_backward(self, passes: float) -> Tensor | None:
        self._usage.backward += passes
        return None


def _peak_mb() -> float:
    line = next(item for item in _STATUS.read_text().splitlines() if item.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
