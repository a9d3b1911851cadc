"""Run ONNX models under ONNX Runtime on the CPU.

Reference runs switch graph optimisation off: ONNX Runtime's default options quantize FP32 biases and move Q/DQ nodes,
which changes results by a code (deployment/tensorrt.md 7.2). `Session` loads a model once; `run_onnx` is the one-shot
form. Axis 0 of every input and output is the batch. Main entries: `Session`, `run_onnx`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from edgeq.core.errors import InputError, ModelError
from edgeq.core.samples import join_results
from edgeq.graph.as_float32 import HALF
from edgeq.graph.read import read_model
from edgeq.graph.round_half import round_half

ModelSource: TypeAlias = onnx.ModelProto | bytes | Path
Array: TypeAlias = NDArray[Any]
CPU = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_FAULTS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)

# What one batch may hold in the tensors that are looked at: enough to keep two cores busy, small beside a laptop's RAM.
BATCH_BYTES = 64 << 20
MAX_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """An input as ONNX Runtime reports it.

    Attributes:
        shape: sizes, None for a dynamic axis.
        dtype: numpy name of the element type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Session:
    """A loaded model.

    Half precision is computed in float32 and rounded wherever the file says so (`edgeq.graph.round_half`), because ONNX
    Runtime's CPU leaves roundings out; tensors that are no graph outputs then come back as float32.

    Args:
        model: a ModelProto, its bytes, or the path of a file.
        outputs: names of intermediate tensors to return besides the graph outputs; the model itself is not changed.
        optimise: let ONNX Runtime rewrite the graph (for latency only, never for accuracy).
        as_written: leave half precision to ONNX Runtime's own kernels, as `optimise` does but at a bfloat16 border.
        threads: of one operator; None leaves the choice to ONNX Runtime.
        providers: of ONNX Runtime, with their options; the CPU alone if not given.
        save: where ONNX Runtime writes the graph that it runs, or None.

    Attributes:
        inputs: the graph inputs, in order.
        outputs: names of what `run` returns: graph outputs, then the extra tensors.
        batch: the fixed batch size of the file, or None where it is dynamic.
        runtime: ONNX Runtime's own InferenceSession, for tools that drive it themselves.

    Raises:
        InputError: if the file is missing.
        ModelError: if it is no ONNX file, or ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        model: ModelSource,
        *,
        outputs: Sequence[str] = (),
        optimise: bool = False,
        as_written: bool = False,
        threads: int | None = None,
        providers: Sequence[tuple[str, dict[str, str]]] = ((CPU, {}),),
        save: Path | None = None,
    ) -> None:
        self._faults = _runtime_faults()
        self._path = model if isinstance(model, Path) else None
        self._halves: dict[str, str] = {}
        if not as_written:
            model = self._round(model, border_alone=optimise)
        self.runtime = self._load(
            model, outputs, _options(optimise=optimise, threads=threads, save=save), providers
        )
        self.inputs = tuple(_describe_input(item) for item in self.runtime.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self.runtime.get_outputs())
        sizes = {item.shape[0] if item.shape else None for item in self.inputs}
        self.batch: int | None = sizes.pop() if len(sizes) == 1 else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name.

        A file with a fixed batch size is run in pieces of that size (the last one padded with its last sample), and the
        results are joined along axis 0. A file without a batch axis is run sample by sample, which shows in inputs that
        have one axis more than it takes; see `core.samples.join_results`.

        Args:
            inputs: by name, [N, ...]; cast to the model's element types.

        Raises:
            InputError: if an input is missing.
            ModelError: if ONNX Runtime fails.
        """
        feeds = self._feeds(inputs)
        if self._takes_single_samples(feeds):
            samples = zip(*feeds.values(), strict=True)
            rows = [
                self._infer(dict(zip(feeds, map(np.asarray, sample), strict=True)))
                for sample in samples
            ]
            return {name: join_results([row[name] for row in rows]) for name in self.outputs}
        count = len(next(iter(feeds.values()))) if feeds and self.batch else 0
        if not self.batch or count == self.batch:
            return self._infer(feeds)
        pieces = []
        for start in range(0, count, self.batch):
            piece = {name: x[start : start + self.batch] for name, x in feeds.items()}
            pieces.append(self._run_padded(piece, self.batch))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self.outputs}

    def _takes_single_samples(self, feeds: Mapping[str, Array]) -> bool:
        return bool(feeds) and all(
            feeds[item.name].ndim == len(item.shape) + 1 and len(feeds[item.name])
            for item in self.inputs
        )

    def _run_padded(self, feeds: dict[str, Array], batch: int) -> dict[str, Array]:
        count = len(next(iter(feeds.values())))
        full = {
            name: np.concatenate([x, np.repeat(x[-1:], batch - count, axis=0)])
            for name, x in feeds.items()
        }
        outputs = {name: np.atleast_1d(y) for name, y in self._infer(full).items()}
        return {name: y[: len(y) * count // batch] for name, y in outputs.items()}

    def _feeds(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        missing = [item.name for item in self.inputs if item.name not in inputs]
        if missing:
            raise InputError(
                f"no values for the input {', '.join(missing)}",
                why=f"the model reads {', '.join(item.name for item in self.inputs)}; given: {', '.join(inputs)}",
                mend="give values for every input, under the names that the model has",
                path=self._path,
            )
        return {item.name: cast_input(inputs[item.name], item.dtype) for item in self.inputs}

    def _round(self, model: ModelSource, *, border_alone: bool) -> ModelSource:
        """Return a model of half precision in float32 with its roundings, any other one as it is.

        With `border_alone`, only one that cannot be fed otherwise: ONNX Runtime takes no bfloat16 arrays.
        """
        try:
            if border_alone and not _has_bfloat16_border(model):
                return model
            whole = read_source(model)
        except DecodeError:
            return model  # ONNX Runtime says what is wrong with it
        found = round_half(whole)
        if not found.changed:
            return model
        given = {item.name: item.type.tensor_type.elem_type for item in whole.graph.output}
        self._halves = {name: HALF[kind] for name, kind in given.items() if kind in HALF}
        return found.model

    def _load(
        self,
        model: ModelSource,
        outputs: Sequence[str],
        options: Any,
        providers: Sequence[tuple[str, dict[str, str]]],
    ) -> Any:
        import onnxruntime

        try:
            source = _with_outputs(model, outputs) if outputs else model
            content = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
            if isinstance(content, Path):
                content = str(content)
            return onnxruntime.InferenceSession(content, options, providers=list(providers))
        except self._faults as error:
            raise self._fault("ONNX Runtime cannot load the model", error) from error

    def _infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        with self.explained():
            values = self.runtime.run(None, feeds)
        found = dict(zip(self.outputs, values, strict=True))
        return found | {
            name: found[name].astype(np.float16)
            for name, kind in self._halves.items()
            if kind == "float16"  # numpy has no bfloat16, so that comes as float32
        }

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what ONNX Runtime raises when it runs the model into a ModelError."""
        try:
            yield
        except self._faults as error:
            raise self._fault("ONNX Runtime cannot run the model", error) from error

    def _fault(self, what: str, error: Exception) -> ModelError:
        why = "the result is measured by running the model on the CPU"
        mend = "check the file with `python -m onnx.checker`, and that onnxruntime is new enough for its opset"
        if "QLinear" in str(error) and "float16" in str(error):
            why = "ONNX Runtime's optimiser wrote an operator that takes no FP16 scales; such files are for TensorRT"
            mend = "build it with `--flavour fp32-typed` or `--target cpu`, or run it with ORT_DISABLE_ALL"
        return ModelError(
            f"{what}: {error}",
            why=why,
            mend=mend,
            path=self._path,
        )


def run_onnx(
    model: ModelSource,
    inputs: Mapping[str, Array],
    *,
    outputs: Sequence[str] | None = None,
    optimise: bool = False,
    threads: int | None = None,
) -> dict[str, Array]:
    """Return the graph outputs, and the intermediate tensors named in `outputs`, of one run.

    See `Session` for the arguments and errors.
    """
    return Session(model, outputs=outputs or (), optimise=optimise, threads=threads).run(inputs)


def read_source(model: ModelSource) -> onnx.ModelProto:
    """Return the model itself, with its external data.

    Raises:
        InputError: if there is no such file, or it cannot be read.
        ModelError: if the file is no ONNX or damaged, or its external data is.
        DecodeError: if bytes are no ONNX model.
    """
    if isinstance(model, Path):
        return read_model(model)
    return onnx.load_model_from_string(model) if isinstance(model, bytes) else model


def expose_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of `model` that has the tensors `names` as graph outputs, after its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {item.name for item in copy.graph.output}
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known
    )
    return copy


def iterate_batches(count: int, *, bytes_per_sample: int) -> Iterator[slice]:
    """Yield slices of `count` samples so that memory does not depend on it.

    Args:
        count: how many samples.
        bytes_per_sample: size of everything that is held for one sample at a time.
    """
    batch = max(1, min(MAX_BATCH, BATCH_BYTES // max(1, bytes_per_sample)))
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


def find_logits(outputs: Mapping[str, Array]) -> str | None:
    """Return the first output that looks like logits: floats, [N, C] (or [N, C, 1, 1]) with C >= 2; else None."""
    for name, y in outputs.items():
        is_float_matrix = np.issubdtype(y.dtype, np.floating) and y.ndim >= 2 and y.shape[1] >= 2
        if is_float_matrix and all(size == 1 for size in y.shape[2:]):
            return name
    return None


def predict_classes(logits: Array) -> NDArray[np.int64]:
    """Return the class of each sample, [N], of logits [N, C] or [N, C, 1, 1]."""
    return np.asarray(logits.reshape(len(logits), -1).argmax(axis=1), np.int64)


def _options(*, optimise: bool, threads: int | None, save: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only: its warnings name no mend that a user could apply
    if not optimise:
        # Spinning threads double the CPU time of an accuracy run on a busy machine; latency runs keep them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if save is not None:
        options.optimized_model_filepath = str(save)
    return options


def _runtime_faults() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = tuple(getattr(state, name) for name in _FAULTS)
    return (*named, ValueError, DecodeError, onnx.checker.ValidationError)


def _with_outputs(model: ModelSource, names: Sequence[str]) -> onnx.ModelProto:
    return expose_outputs(read_source(model), names)


def _has_bfloat16_border(model: ModelSource) -> bool:
    """Return whether an input or output is bfloat16; the data beside a file is not read for that."""
    whole = (
        read_model(model, with_external=False) if isinstance(model, Path) else read_source(model)
    )
    border = [*whole.graph.input, *whole.graph.output]
    return any(item.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16 for item in border)


def _describe_input(item: Any) -> ModelInput:
    if item.type not in _DTYPES:
        raise ModelError(
            f"input '{item.name}' has the type {item.type}",
            why=f"edgeq feeds {', '.join(_DTYPES)}",
            mend="export the model with float32 inputs",
        )
    shape = tuple(size if isinstance(size, int) else None for size in item.shape)
    return ModelInput(name=item.name, shape=shape, dtype=_DTYPES[item.type])


def cast_input(x: Array, dtype: str) -> Array:
    """Return `x` as `dtype`; floats going to integers are rounded, not cut."""
    if np.issubdtype(np.dtype(dtype), np.integer) and np.issubdtype(x.dtype, np.floating):
        x = np.rint(x)
    return np.asarray(x, dtype=dtype, order="C")  # ascontiguousarray gives a scalar an axis
