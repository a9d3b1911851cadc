"""Runs two models side by side on the same samples with polygraphy's Comparator, one batch at a time.

Entry: `run_lockstep`. Each model is one polygraphy runner: ONNX Runtime for an ONNX file, TensorRT for an engine. Their
results stream, so memory holds one batch of what was asked for, however many samples there are.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deploy.board.driver import probe_driver
from deploy.board.loading import prepare_runtime
from deploy.board.messages import make_logger
from deploy.board.record import read_loading
from deploy.board.releases import SUPPORTED
from deploy.onnxrt import Array, ModelInput, ModelSource, Session, cast_input
from edgeq.core.errors import DeviceError, InputError, ModelError
from edgeq.core.optional import require
from edgeq.core.samples import SampleSet

Visitor = Callable[[dict[str, Array], dict[str, Array], int], None]


class Side(Protocol):
    """One of the two models.

    Attributes:
        inputs: as the model takes them.
        outputs: names of its graph outputs.
        batch: its fixed batch size, or None where it is dynamic.
        tuned_batch: the batch size that is best where it is dynamic, or None where each is as good.
    """

    inputs: tuple[ModelInput, ...]
    outputs: tuple[str, ...]
    batch: int | None
    tuned_batch: int | None

    def runner(self, extra: Sequence[str]) -> tuple[Any, contextlib.AbstractContextManager[None]]:
        """Return a polygraphy runner that gives the tensors `extra` too, and what explains its faults."""


class OnnxSide:
    """An ONNX file under ONNX Runtime on the CPU, with graph optimisation off."""

    tuned_batch: int | None = None

    def __init__(self, model: ModelSource) -> None:
        self._model = model
        session = Session(model)
        for item in session.runtime.get_outputs():
            if not item.type.startswith("tensor(") or item.type == "tensor(string)":
                raise ModelError(
                    f"output '{item.name}' has the type {item.type}",
                    why="models are compared by the differences of their numbers",
                    mend="take this output out of both files",
                    path=model if isinstance(model, Path) else None,
                )
        self.inputs, self.outputs, self.batch = session.inputs, session.outputs, session.batch

    def runner(self, extra: Sequence[str]) -> tuple[Any, contextlib.AbstractContextManager[None]]:
        """Return polygraphy's runner of ONNX Runtime."""
        from polygraphy.backend.onnxrt import OnnxrtRunner

        session = Session(self._model, outputs=extra)
        return OnnxrtRunner(session.runtime), session.explained()


class EngineSide:
    """A TensorRT engine on the GPU of this machine; it tells its outputs alone.

    Raises:
        DeviceError: if there is no GPU, or TensorRT cannot load the engine.
        MissingDependencyError: if TensorRT is not installed.
    """

    def __init__(self, path: Path) -> None:
        from polygraphy.datatype import DataType

        import_torch()
        probe_driver()  # before any TensorRT object is made
        self._trt = require(
            "tensorrt", SUPPORTED, why="to run an engine", install="pip install tensorrt"
        )
        self._plan, self._loading = path.read_bytes(), read_loading(path)
        runner, explained = self.runner(())
        with explained, runner:
            metadata = runner.get_input_metadata(use_numpy_dtypes=False)
            self.outputs = _engine_outputs(runner.engine, set(metadata))
            self.inputs = tuple(
                ModelInput(
                    name=name,
                    shape=tuple(x if isinstance(x, int) and x > 0 else None for x in shape),
                    dtype=np.dtype(DataType.to_dtype(dtype, "numpy")).name,
                )
                for name, (dtype, shape) in metadata.items()
            )
            free = [item.name for item in self.inputs if item.shape and item.shape[0] is None]
            self.tuned_batch = _tuned_batch(runner.engine, free)
        sizes = {item.shape[0] if item.shape else None for item in self.inputs}
        self.batch: int | None = sizes.pop() if len(sizes) == 1 else None

    def runner(self, extra: Sequence[str]) -> tuple[Any, contextlib.AbstractContextManager[None]]:
        """Return polygraphy's runner of TensorRT."""
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        logger = make_logger(self._trt)

        def make_runtime() -> Any:
            runtime = self._trt.Runtime(logger)
            prepare_runtime(runtime, self._loading)
            return runtime

        return TrtRunner(EngineFromBytes(self._plan, make_runtime)), _explained_engine(logger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What goes into the two models.

    Attributes:
        samples: of the inputs, by the set's own names.
        names: for each side, the set's name of every input of the model.
    """

    samples: SampleSet
    names: tuple[Mapping[str, str], Mapping[str, str]]

    def takes_single_samples(self, side: Side, names: Mapping[str, str]) -> bool:
        """Return whether the model has no batch axis: its inputs have one axis less than the samples."""
        values = self.samples.feed(slice(0))
        return bool(side.inputs) and all(
            values[names[item.name]].ndim == len(item.shape) + 1 for item in side.inputs
        )


def run_lockstep(
    sides: tuple[Side, Side],
    feed: Feed,
    visit: Visitor,
    *,
    extra: tuple[Sequence[str], Sequence[str]] = ((), ()),
    batch: int,
) -> None:
    """Run both models on all samples; call `visit` with what each gave and the number of samples, batch by batch.

    Args:
        sides: the two models.
        feed: their inputs.
        visit: takes the tensors of A, those of B, and how many of the batch's samples are no padding.
        extra: intermediate tensors to give besides the graph outputs.
        batch: samples a call; the last call is padded with its last sample where a file fixes its batch size.

    Raises:
        ModelError: if ONNX Runtime fails.
        DeviceError: if TensorRT does.
    """
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    import_torch()
    is_fixed = common_batch(sides, feed) is not None
    counts = [min(batch, len(feed.samples) - start) for start in range(0, len(feed.samples), batch)]
    single = [
        feed.takes_single_samples(side, names)
        for side, names in zip(sides, feed.names, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(G_LOGGER.verbosity(G_LOGGER.CRITICAL))  # it prints on standard output
        streams = []
        for index, side in enumerate(sides):
            runner, explained = side.runner(extra[index])
            stack.enter_context(explained)
            loader = _Loader(
                side.inputs,
                feed.samples,
                feed.names[index],
                batch=batch,
                is_padded=is_fixed,
                is_single=single[index],
            )
            streams.append(Comparator.run([runner], data_loader=loader, streaming=True))
        Comparator.compare_accuracy(streams, compare_func=_Visit(visit, counts, single))


def import_torch() -> None:
    """Import torch if it is there; called before polygraphy is given an array.

    Polygraphy asks of each array whether it is one of torch, and imports torch for that under a bare `except`, which
    swallows an interrupt. Half imported, torch would then be imported again at the next array, and crash.
    """
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("torch")


def common_batch(sides: tuple[Side, Side], feed: Feed) -> int | None:
    """Return the batch size that the models want: of a file that fixes it, else of an engine's profile; None is any.

    A file without a batch axis wants 1.

    Raises:
        InputError: if they fix two.
    """
    sizes = {
        1 if feed.takes_single_samples(side, names) else side.batch
        for side, names in zip(sides, feed.names, strict=True)
    } - {None}
    if len(sizes) > 1:
        raise InputError(
            f"the models take batches of {' and '.join(map(str, sorted(filter(None, sizes))))}",
            why="both run on the same batch",
            mend="export both with the same batch size, or with a dynamic one",
        )
    tuned = [side.tuned_batch for side in sides if side.tuned_batch is not None]
    return sizes.pop() if sizes else min(tuned, default=None)


def _tuned_batch(engine: Any, inputs: Iterable[str]) -> int | None:
    """Return the batch size that the first profile is tuned for, or None without `inputs` of a dynamic one."""
    best = (engine.get_tensor_profile_shape(name, 0)[1] for name in inputs)
    return max((int(shape[0]) for shape in best), default=None)


def _engine_outputs(engine: Any, inputs: set[str]) -> tuple[str, ...]:
    names = [str(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
    return tuple(name for name in names if name not in inputs)


@contextlib.contextmanager
def _explained_engine(logger: Any) -> Iterator[None]:
    from polygraphy.exception import PolygraphyException

    try:
        yield
    except PolygraphyException as error:
        told = "; ".join([str(error), *logger.errors])
        raise DeviceError(
            f"TensorRT cannot run the engine: {told}",
            why="an engine runs on the GPU and under the TensorRT version that built it",
            mend="build it again here: edgeq engine model.qdq.onnx --target NAME",
        ) from error


class _Loader:
    """The feeds of one model, in order; one iteration of polygraphy each."""

    def __init__(
        self,
        inputs: Sequence[ModelInput],
        samples: SampleSet,
        names: Mapping[str, str],
        *,
        batch: int,
        is_padded: bool,
        is_single: bool,
    ) -> None:
        self._inputs, self._samples, self._names = inputs, samples, names
        self._batch, self._is_padded, self._is_single = batch, is_padded, is_single

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for start in range(0, len(self._samples), self._batch):
            feed = self._samples.feed(slice(start, start + self._batch))
            yield {
                item.name: cast_input(self._fill(feed[self._names[item.name]]), item.dtype)
                for item in self._inputs
            }

    def _fill(self, x: Array) -> Array:
        if self._is_single:
            return np.asarray(x[0])
        missing = self._batch - len(x)
        if not self._is_padded or not missing:
            return x
        return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])


class _Visit:
    """A comparison function of polygraphy that passes both results on; it judges nothing itself."""

    def __init__(self, visit: Visitor, counts: Sequence[int], single: Sequence[bool]) -> None:
        self._visit, self._counts, self._single = visit, iter(counts), single

    def __call__(self, *results: Any) -> dict[str, bool]:
        """Pass one iteration on; what has no batch axis gets one."""
        a, b = (
            {name: y[None] if is_single else y for name, y in result.items()}
            for result, is_single in zip(results, self._single, strict=True)
        )
        self._visit(a, b, next(self._counts))
        return {"both ran": True}
