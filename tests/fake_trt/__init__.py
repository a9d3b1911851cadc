"""A stand-in for the `tensorrt` module that has exactly the names of one release.

The names come from the manifests in tests/data/trt_api, which list what the real Python bindings of that release hold.
A class of the stand-in plays a few of them; another name of the manifest raises NotImplementedError, and a name that
the release does not have raises AttributeError, as the real one would. Numbers of enumerations differ between releases.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "trt_api"
# Release, as `versions` of a dialect names it, and the bindings that its names were read from.
RELEASES = {
    "8.5": "8.6.1",
    "8.6": "8.6.1",
    "10.0": "10.0.1",
    "10.3": "10.3.0",
    "10.7": "10.7.0",
    "10.13": "10.13.3.9",
    "10.16": "10.16.1.11",
    "11.0": "11.0.0.114",
    "11.4": "11.4.0.106",
}
# No bindings of 8.5 were at hand: its names are taken to be those of 8.6 without these, which are known to be new there
# (deployment/tensorrt.md 1.4 has some of them). The list may be too short: a name that is missing here passes for 8.5.
_NEW_IN_8_6 = {
    "BuilderFlag": {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"},
    "IBuilderConfig": {
        "builder_optimization_level",
        "hardware_compatibility_level",
        "max_aux_streams",
        "plugins_to_serialize",
    },
    "OnnxParser": {"get_used_vc_plugin_libraries"},
    "Runtime": {"engine_host_code_allowed", "load_runtime", "temporary_directory"},
}


@functools.cache
def load_manifest(release: str) -> dict[str, set[str]]:
    """Return the names of every class and enumeration of a release, and of the module itself under ""."""
    data = json.loads((DATA / f"{RELEASES[release]}.json").read_text("utf-8"))
    names = {key: set(value) for key, value in data.items()}
    if release == "8.5":
        names.pop("HardwareCompatibilityLevel")
        names = {key: value - _NEW_IN_8_6.get(key, set()) for key, value in names.items()}
    return {**names, "": set(names)}


@dataclass
class Script:
    """What the stand-in shall do, and what it was asked.

    Attributes:
        faults: of the parser: name, operator, index of the node, and text.
        layers: of the engine: name, kind, ONNX nodes, type of the inputs.
        phases: calls of the progress monitor, as (method, arguments).
        log: errors that the builder logs.
        builds: false where the builder gives None.
        takes_cache: false where the timing cache is of another GPU.
        starts: false where the builder is a null pointer, as with a driver that is too old.
        loads: false where the engine cannot be loaded again.
        plugins: false where the plugins cannot be loaded.
        runs: None where an engine gives no context, false where it refuses the shapes.
        takes_profile: false where the ranges of shapes are refused.
        keeps_cache: false where there is no timing cache after the build.
        has_driver: false where making any object kills the process.
        refused: the same for files of these names (without ending) alone.
        tensors: inputs and outputs of the network: name, "INPUT" or "OUTPUT", type, shape.
        reads: whether these are read from the ONNX file, which needs onnx.
        compute: what an engine answers, from {input name: array} to {output name: array}.
        cuda: plays the driver; its memory holds inputs and outputs.
        executes: false where a run is refused.
        profile: the least, best and largest size of a dynamic axis.
        made: classes of which objects were made.
        asked: figures of the config that a build had.
    """

    faults: list[tuple[str, str, int, str]] = field(default_factory=list)
    layers: list[tuple[str, str, list[str], str]] = field(default_factory=list)
    phases: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    builds: bool = True
    takes_cache: bool = True
    starts: bool = True
    loads: bool = True
    plugins: bool = True
    runs: bool | None = True
    takes_profile: bool = True
    keeps_cache: bool = True
    has_driver: bool = True
    refused: dict[str, list[tuple[str, str, int, str]]] = field(default_factory=dict)
    reads: bool = True
    tensors: list[tuple[str, str, str, list[int]]] = field(default_factory=list)
    compute: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    cuda: Any = None
    executes: bool = True
    profile: tuple[int, int, int] = (1, 4, 16)
    made: list[str] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)


_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "UINT8": np.uint8,
}
_ONNX = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 2: "UINT8"}  # onnx.TensorProto.DataType


def read_tensors(path: str) -> list[tuple[str, str, str, list[int]]]:
    """Return inputs and outputs of an ONNX file, as `Script.tensors` has them."""
    import onnx  # a bare environment has none, and brings the rows itself

    graph = onnx.load(path, load_external_data=False).graph

    def row(item: Any, mode: str) -> tuple[str, str, str, list[int]]:
        kind = item.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        return (item.name, mode, _ONNX[kind.elem_type], sizes)

    return [row(item, "INPUT") for item in graph.input] + [row(x, "OUTPUT") for x in graph.output]


def _row(script: Script, name: str) -> tuple[str, str, str, list[int]]:
    return next(row for row in script.tensors if row[0] == name)


class _Fake:
    """Base of every class: knows its names and refuses others, but in subclasses that Python code makes."""

    _names: ClassVar[set[str]] = set()

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise NotImplementedError(f"{type(self).__name__}.{name} is real, and not played")
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        is_own = "_names" in vars(type(self))
        if is_own and not name.startswith("_") and name not in self._names:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


def make_tensorrt(release: str, script: Script) -> ModuleType:
    """Return a module `tensorrt` of `release` that does what `script` says."""
    manifest = load_manifest(release)
    module: Any = ModuleType("tensorrt")
    module.__version__ = f"{release}.0" if release == "8.5" else RELEASES[release]
    played = _play(module, script, int(release.split(".")[0]))
    for name, names in manifest.items():
        if not name:
            continue
        if names and all(item.upper() == item for item in names):
            # Numbers in the order of the manifest: they differ between releases, as the real ones do.
            setattr(module, name, enum.IntEnum(name, sorted(names), start=0))
            continue
        body = vars(played[name]).items() if name in played else ()
        kept = {key: value for key, value in body if key.startswith("_") or key in names}
        kept = {key: value for key, value in kept.items() if key not in {"__dict__", "__weakref__"}}
        constants = {item: index for index, item in enumerate(sorted(names)) if item.isupper()}
        setattr(module, name, type(name, (_Fake,), {**constants, **kept, "_names": names}))
    for name in ("init_libnvinfer_plugins",):
        assert name in manifest[""]
        setattr(module, name, lambda logger, namespace: script.plugins)
    return module


def inspector_json(
    major: int, layers: list[tuple[str, str, list[str], str]], inputs: list[str]
) -> str:
    """Return layers in the form of the engine inspector of TensorRT `major`."""

    def tensor(name: str, kind: str) -> dict[str, Any]:
        shape = {"Name": name, "Location": "Device", "Dimensions": [1, 4, 8, 8]}
        if major >= 11:
            return {
                **shape,
                "Format": f"Row major linear {kind} format (kLINEAR)",
                "Datatype": kind,
            }
        return {
            **shape,
            "Format/Datatype": kind
            if kind.startswith("N/A")
            else f"Row major linear {kind} format",
        }

    rows = [
        {
            "Name": name,
            "LayerType": kind,
            "Inputs": [tensor(f"{name}.in", word)],
            "Outputs": [tensor(f"{name}.out", "Half")],
            "TacticName": "",
            "StreamId": 0,
            "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
        }
        for name, kind, nodes, word in layers
    ]
    tensors = {"Bindings": inputs}
    if major >= 11:
        tensors = {
            "I/O Tensors": [
                {"Name": name, "IOMode": "Input", "DataType": "Float"} for name in inputs
            ]
        }
    return json.dumps({"Layers": rows, **tensors})


def _play(module: Any, script: Script, major: int) -> dict[str, type]:
    """Return the parts of the classes that are played; names that a release lacks are dropped later."""

    def born(owner: Any) -> None:
        if not script.has_driver:
            raise SystemError("the process would have died here: no driver")
        script.made.append(type(owner).__name__)

    class ILogger:
        def __init__(self) -> None:
            self._ready = True

    class IProgressMonitor:
        def __init__(self) -> None:
            self._ready = True

    class IHostMemory(bytes):
        pass

    class Builder:
        def __init__(self, logger: Any) -> None:
            born(self)
            assert logger._ready, "the logger's base was not initialised"
            if not script.starts:
                logger.log(module.ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        @property
        def num_DLA_cores(self) -> int:  # noqa: N802 - TensorRT's name
            return 2

        def create_network(self, flags: int = 0) -> Any:
            kinds = module.NetworkDefinitionCreationFlag
            script.asked["network"] = sorted(kind.name for kind in kinds if flags >> kind.value & 1)
            return module.INetworkDefinition()

        def create_builder_config(self) -> Any:
            return module.IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return module.IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            script.asked.update(config._figures)
            is_dynamic = any(-1 in item.shape for item in network._inputs)
            if is_dynamic and "profiles" not in config._figures:
                self._logger.log(module.ILogger.ERROR, "no profile for a dynamic input")
                return None
            monitor = getattr(config, "progress_monitor", None) if script.phases else None
            if script.phases:
                assert monitor._ready, "the monitor's base was not initialised"
            for method, arguments in script.phases:
                try:
                    is_called_off = getattr(monitor, method)(*arguments) is False
                except BaseException as error:
                    raise SystemError("the process would have died here: C++ is above") from error
                if is_called_off:
                    return None
            for text in script.log:
                self._logger.log(module.ILogger.ERROR, text)
            return IHostMemory(b"ftrt" + bytes(96)) if script.builds else None

    class INetworkDefinition:
        def __init__(self) -> None:
            self._inputs: list[Any] = []

        @property
        def num_inputs(self) -> int:
            return len(self._inputs)

        def get_input(self, index: int) -> Any:
            return self._inputs[index]

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self._network = network

        def set_flag(self, flag: Any) -> None:
            script.asked.setdefault("parser", []).append(module.OnnxParserFlag(flag).name)

        def parse_from_file(self, path: str) -> bool:
            assert Path(path).is_file()
            if script.reads:
                script.tensors = read_tensors(path)
            self._faults = script.faults or script.refused.get(Path(path).stem, [])
            for name, mode, _, shape in script.tensors:
                if mode == "INPUT":
                    tensor = module.ITensor()
                    tensor.name, tensor.shape = name, tuple(shape)
                    self._network._inputs.append(tensor)
            script.asked["inputs"] = [row[0] for row in script.tensors if row[1] == "INPUT"]
            return not self._faults

        @property
        def num_errors(self) -> int:
            return len(self._faults)

        def get_error(self, index: int) -> Any:
            return module.ParserError(*self._faults[index])

    class ParserError:
        def __init__(self, name: str, operator: str, index: int, text: str) -> None:
            self._fields = (name, operator, index, text)

        def code(self) -> Any:
            return module.ErrorCode.UNSUPPORTED_NODE

        def desc(self) -> str:
            return self._fields[3]

        def node(self) -> int:
            return self._fields[2]

        def node_name(self) -> str:
            return self._fields[0]

        def node_operator(self) -> str:
            return self._fields[1]

        def file(self) -> str:
            return "builder/onnx/importers.cpp"

        def line(self) -> int:
            return 42

        def func(self) -> str:
            return "importOperator"

    class IBuilderConfig:
        def __init__(self) -> None:
            self._figures: dict[str, Any] = {"flags": []}

        def __setattr__(self, name: str, value: Any) -> None:
            _Fake.__setattr__(self, name, value)
            if not name.startswith("_"):
                self._figures[name] = getattr(value, "name", value)

        def set_flag(self, flag: Any) -> None:
            self._figures["flags"].append(module.BuilderFlag(flag).name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._figures[module.MemoryPoolType(pool).name] = size

        def add_optimization_profile(self, profile: Any) -> int:
            self._figures.setdefault("profiles", []).append(profile._shapes)
            return 0 if script.takes_profile else -1

        def create_timing_cache(self, data: bytes) -> Any:
            self._figures["cache"] = bytes(data)
            return module.ITimingCache()

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            return script.takes_cache

        def get_timing_cache(self) -> Any:
            return module.ITimingCache() if script.keeps_cache else None

    class ITimingCache:
        def serialize(self) -> bytes:
            return IHostMemory(b"measured")

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            assert all(math.prod(a) <= math.prod(b) for a, b in ((low, best), (best, high)))
            self._shapes[name] = (low, best, high)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            born(self)

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            script.asked["is_trusted"] = vars(self).get("engine_host_code_allowed", False)
            script.asked.setdefault("cores", []).append(vars(self).get("DLA_core"))
            return module.ICudaEngine() if script.loads and plan.startswith(b"ftrt") else None

    class ICudaEngine:
        def create_engine_inspector(self) -> Any:
            return module.EngineInspector()

        def create_execution_context(self) -> Any:
            return None if script.runs is None else module.IExecutionContext()

        @property
        def num_io_tensors(self) -> int:
            return len(script.tensors)

        def get_tensor_name(self, index: int) -> str:
            return script.tensors[index][0]

        def get_tensor_mode(self, name: str) -> Any:
            return module.TensorIOMode[_row(script, name)[1]]

        def get_tensor_shape(self, name: str) -> Any:
            return tuple(_row(script, name)[3])

        def get_tensor_profile_shape(self, name: str, index: int) -> Any:
            assert index == 0
            return [
                tuple(size if own == -1 else own for own in _row(script, name)[3])
                for size in script.profile
            ]

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType[_row(script, name)[2]]

    class IExecutionContext:
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

            self._places: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._shapes[name] = shape
            free = _row(script, name)[3] if script.tensors else shape
            fits = all(own in (-1, asked) for own, asked in zip(free, shape, strict=True))
            return bool(script.runs) and fits

        def get_tensor_shape(self, name: str) -> Any:
            batch = next((shape[0] for shape in self._shapes.values() if shape), 1)
            return tuple(batch if size == -1 else size for size in _row(script, name)[3])

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert script.cuda is None or script.cuda.live[address] in ("device", "managed")
            self._places[name] = address
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert set(self._places) == {row[0] for row in script.tensors}, "a buffer is missing"
            if script.executes:
                script.cuda.work(self._compute)
            return script.executes

        def _array(self, name: str) -> Any:
            shape = self._shapes.get(name, self.get_tensor_shape(name))
            kind = np.dtype(_NUMPY[_row(script, name)[2]])
            size = math.prod(shape) * kind.itemsize
            memory = (ctypes.c_char * size).from_address(self._places[name])
            return np.frombuffer(memory, kind).reshape(shape)

        def _compute(self) -> None:
            feed = {row[0]: self._array(row[0]) for row in script.tensors if row[1] == "INPUT"}
            for name, values in script.compute(feed).items():
                self._array(name)[...] = values
            script.cuda.tick()

    class EngineInspector:
        def get_engine_information(self, form: Any) -> str:
            assert form is module.LayerInformationFormat.JSON
            context, layers = vars(self).get("execution_context"), script.layers
            if "profiles" in script.asked and (context is None or not context._shapes):
                layers = [(*row[:3], "N/A due to dynamic shapes") for row in layers]
            return inspector_json(major, layers, script.asked["inputs"])

    return {name: kind for name, kind in locals().items() if isinstance(kind, type)}
