"""One step of a loop, replayed as a CUDA graph: its kernels are launched together instead of one by one.

Entry: `Replay`. A small network keeps a GPU waiting for Python between kernels; a graph of the whole step, recorded
once, does not. It is not taken on trust: before it is used, one step is made both ways from the same state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

# Steps before the recording, in which libraries and the optimiser make what they keep.
WARM_UP = 3

# By how much a replayed step may differ, of the largest value of a tensor.
TOLERANCE = 1e-3

# What is told of a step; a replay writes it into the same tensors every time.
Made = list[Tensor]
Step = Callable[[Sequence[Tensor]], Made]


class Recorder(Protocol):
    """Records what a GPU does."""

    def aside(self, step: Callable[[], Made]) -> Made:
        """Run a step where its memory and streams are those of a recording."""

    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        """Return what runs the kernels of `step` again, on the tensors that it read and wrote."""


class CudaRecorder:
    """Records CUDA graphs.

    Source: PyTorch's notes on CUDA graphs: steps before the recording run on a side stream. The recording has that
    stream from here, because `torch.cuda.graph` leaves its own one current when a recording fails.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def aside(self, step: Callable[[], Made]) -> Made:
        """Run a step on the side stream."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            made = step()
        current.wait_stream(self._stream)
        return made

    def record(self, step: Callable[[], Made]) -> Callable[[], Made]:
        """Return the replay of `step`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
            made = step()

        def replay() -> Made:
            graph.replay()
            return made

        return replay


class Replay:
    """Runs a step, and from its fifth call on replays it, where that makes the same.

    The step reads tensors of one shape at every call, and moves the parameters of `optimizer`, if it has one; on the
    host it may depend on nothing that changes. Where it cannot be recorded, or a replay makes something else, that is
    logged, and every step runs as it is.
    """

    def __init__(
        self, step: Step, optimizer: torch.optim.Optimizer | None, recorder: Recorder | None
    ) -> None:
        """Replay nothing yet.

        Args:
            step: returns what is told of it, on the device.
            optimizer: with rates that are tensors, if there is a recorder; None where a step moves nothing.
            recorder: None runs every step as it is.
        """
        self._step = step
        self._groups = optimizer.param_groups if optimizer is not None else []
        self._kept = optimizer.state if optimizer is not None else {}
        self._recorder = recorder
        self._calls = 0
        self._held: list[Tensor] = []
        self._replay: Callable[[], Made] | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> Made:
        """Make one step; return what `step` does. It holds until the next call."""
        if self._replay is not None:
            for held, given in zip(self._held, inputs, strict=True):
                held.copy_(given)
            return self._replay()
        if self._recorder is None:
            return self._step(inputs)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._recorder.aside(lambda: self._step(inputs))
        return self._begin(inputs, self._recorder)

    def _begin(self, inputs: Sequence[Tensor], recorder: Recorder) -> Made:
        """Make one step as it is; record it, and keep the recording if that makes the same from the same state."""
        before = self._state()
        made = [item.clone() for item in recorder.aside(lambda: self._step(inputs))]
        after = self._state()
        held = [item.clone() for item in inputs]
        try:
            replay = recorder.record(lambda: self._step(held))
            fault = self._fault(replay, before, [*made, *after])
        except RuntimeError as error:  # what cannot be recorded; running out of memory, too
            fault = str(error).partition("\n")[0]
        self._restore(after)
        if fault:
            _LOG.info("steps are not replayed as a CUDA graph: %s", fault)
            self._recorder = None
        else:
            self._held, self._replay = held, replay
        return made

    def _fault(self, replay: Callable[[], Made], before: list[Tensor], wanted: list[Tensor]) -> str:
        """Return what a replay does otherwise than the step that it was recorded from; "" if nothing."""
        self._restore(before)
        made = [*(item.clone() for item in replay()), *self._state()]
        if not all(map(_is_near, made, wanted)):
            return "a replayed step makes other values"
        if not self._groups:
            return ""
        rates = [group["lr"].clone() for group in self._groups]
        self._restore(before)
        for group in self._groups:
            group["lr"].zero_()
        replay()
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"].copy_(rate)
        if not all(map(torch.equal, self._parameters(), before)):
            return "a replayed step keeps the rates of the recording"
        return ""

    def _parameters(self) -> list[Tensor]:
        return [item for group in self._groups for item in group["params"]]

    def _tensors(self) -> list[Tensor]:
        """Return what a step changes: the parameters, and behind them what the optimiser keeps of each."""
        moved = self._parameters()
        kept = [value for item in moved for value in self._kept[item].values()]
        return [*moved, *(item for item in kept if isinstance(item, Tensor))]

    def _state(self) -> list[Tensor]:
        return [item.detach().clone() for item in self._tensors()]

    def _restore(self, state: list[Tensor]) -> None:
        with torch.no_grad():
            for item, value in zip(self._tensors(), state, strict=True):
                item.copy_(value)


def _is_near(made: Tensor, wanted: Tensor) -> bool:
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    return bool(((made - wanted).abs() <= TOLERANCE * largest).all())
