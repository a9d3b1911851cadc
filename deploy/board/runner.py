"""Runs an engine on arrays. Main entry: `Engine`. Sequence: deployment/tensorrt.md 5.1 (TensorRT 8.5 and newer)."""

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from deploy.board.cuda import Cuda
from deploy.board.loading import Loading, prepare_runtime
from deploy.board.messages import failed_run, make_logger
from edgeq.core.errors import InputError

if TYPE_CHECKING:
    import tensorrt

# Types that inputs and outputs may have; numpy has no other that TensorRT knows.
_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}


class Engine:
    """An engine in memory, with buffers for one set of shapes at a time.

    Args:
        trt: the `tensorrt` module; the driver must have been probed.
        plan: the engine.
        cuda: where its buffers lie.
        loading: how it was built; None for the GPU alone.
        is_managed: have them move between both memories by themselves, as trtexec does on integrated GPUs.

    Attributes:
        inputs, outputs: names.

    Raises:
        BuildError: if it cannot be loaded or run.
        InputError: if a tensor has a type that numpy lacks.
    """

    def __init__(
        self,
        trt: Any,
        plan: bytes,
        cuda: Cuda,
        *,
        loading: Optional[Loading] = None,
        is_managed: bool = False,
    ) -> None:
        self._cuda = cuda
        self._is_managed = is_managed
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        prepare_runtime(self._runtime, loading or Loading())
        self._engine = _load(trt, self._runtime, plan)
        self._context = _start(trt, self._engine)
        self._types = _read_types(self._engine)
        self.inputs, self.outputs = _read_names(trt, self._engine)
        self._places: Dict[str, Tuple[int, int]] = {}  # address and size in bytes
        self._hosts: Dict[str, Any] = {}
        self.stream = cuda.create_stream()

    def describe_inputs(self) -> Dict[str, Tuple[Tuple[Optional[int], ...], str]]:
        """Return shape (None for a dynamic axis) and numpy type of every input."""
        engine = self._built()
        found = {}
        for name in self.inputs:
            sizes = [int(size) for size in engine.get_tensor_shape(name)]
            shape = tuple(size if size >= 0 else None for size in sizes)
            found[name] = (shape, np.dtype(self._types[name]).name)
        return found

    def tuned_shape(self, name: str) -> Tuple[int, ...]:
        """Return the shape for which the engine is tuned at an input: the second of its first profile."""
        shapes = self._built().get_tensor_profile_shape(name, 0)
        return tuple(int(size) for size in shapes[1])

    def bind(self, feed: Mapping[str, Any]) -> None:
        """Make room for a call with `feed`, {input name: array}, and keep its values for `upload`.

        Raises:
            InputError: if a name, shape or value does not fit the engine.
        """
        if set(feed) != set(self.inputs):
            raise _misfit(f"its inputs are {', '.join(self.inputs)}, not {', '.join(feed)}")
        context = self._current()
        for name in self.inputs:
            host = self._host(name, _fit(name, np.asarray(feed[name]), self._types[name]))
            if not context.set_input_shape(name, tuple(host.shape)):
                raise _misfit(f"input '{name}' cannot have the shape {list(host.shape)}")
        for name in self.outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise _misfit(f"the shape of output '{name}' depends on its values")
            self._host(name, np.zeros(shape, self._types[name]))
        for name, host in self._hosts.items():
            if not context.set_tensor_address(name, self._place(name, host.nbytes)):
                raise failed_run(f"the engine takes no buffer for '{name}'", self._logger.errors)

    def upload(self, stream: int) -> None:
        """Copy the inputs to the GPU."""
        for name in self.inputs:
            self._cuda.upload(self._places[name][0], self._hosts[name], stream)

    def enqueue(self, stream: int) -> None:
        """Put one run into `stream`.

        Raises:
            BuildError: if TensorRT refuses.
        """
        if not self._current().execute_async_v3(stream):
            raise failed_run("the engine cannot be run", self._logger.errors)

    def download(self, stream: int) -> None:
        """Copy the outputs back."""
        for name in self.outputs:
            self._cuda.download(self._hosts[name], self._places[name][0], stream)

    def run(self, feed: Mapping[str, Any]) -> Dict[str, Any]:
        """Return {output name: array} of one call."""
        self.bind(feed)
        self.upload(self.stream)
        self.enqueue(self.stream)
        self.download(self.stream)
        self._cuda.synchronize(self.stream)
        return {name: self._hosts[name].copy() for name in self.outputs}

    def _built(self) -> "tensorrt.ICudaEngine":
        return self._engine

    def _current(self) -> "tensorrt.IExecutionContext":
        return self._context

    def _host(self, name: str, values: Any) -> Any:
        """Return the page-locked array of a tensor, holding `values`."""
        host = self._hosts.get(name)
        if host is None or host.shape != values.shape:
            host = self._hosts[name] = self._cuda.allocate_host(values)
        host[...] = values
        return host

    def _place(self, name: str, size: int) -> int:
        address, room = self._places.get(name, (0, -1))
        if size > room:
            if room >= 0:
                self._cuda.free(address)
            address = self._cuda.allocate(size, is_managed=self._is_managed)
            self._places[name] = (address, size)
        return address


def _load(trt: Any, runtime: "tensorrt.Runtime", plan: bytes) -> "tensorrt.ICudaEngine":
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise failed_run("TensorRT cannot load the engine", make_logger(trt).errors)
    return engine


def _start(trt: Any, engine: "tensorrt.ICudaEngine") -> "tensorrt.IExecutionContext":
    context = engine.create_execution_context()
    if context is None:
        raise failed_run("TensorRT cannot start the engine", make_logger(trt).errors)
    return context


def _all_names(engine: "tensorrt.ICudaEngine") -> List[str]:
    return [str(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]


def _read_names(trt: Any, engine: "tensorrt.ICudaEngine") -> Tuple[List[str], List[str]]:
    names = _all_names(engine)
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return inputs, [name for name in names if name not in inputs]


def _read_types(engine: "tensorrt.ICudaEngine") -> Dict[str, Any]:
    types = {}
    for name in _all_names(engine):
        word = str(engine.get_tensor_dtype(name).name)
        if word not in _TYPES:
            raise _misfit(f"'{name}' has the type {word}, which numpy lacks")
        types[name] = _TYPES[word]
    return types


def _fit(name: str, values: Any, wanted: Any) -> Any:
    """Return the values in the engine's type, if none is changed by it (TensorRT 8 has no INT64)."""
    cast = values.astype(wanted)
    is_float = np.issubdtype(values.dtype, np.floating) and np.issubdtype(wanted, np.floating)
    if not is_float and not np.array_equal(cast, values):
        raise _misfit(f"input '{name}' has {values.dtype} values that {np.dtype(wanted)} lacks")
    return np.asarray(cast, order="C")  # ascontiguousarray gives a scalar an axis


def _misfit(what: str) -> InputError:
    return InputError(
        f"the engine cannot be called: {what}",
        why="inputs have the names, shapes and types that the engine was built for",
        mend="copy the bundle again, and run ./build.sh --rebuild",
    )
