"""Every TensorRT name in our code is a name of each release that the code claims.

The syntax trees are walked, and the type of an expression is found from annotations (`tensorrt.IBuilderConfig`), from
constructors (`trt.Builder(...)`) and from the table of what methods return. What is then read, called or set on it is
looked up in the manifest of the release: the names that its real Python bindings hold.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_trt import RELEASES, Script, load_manifest, make_tensorrt

from deploy.board.trt8 import TensorRT8
from deploy.board.trt10 import TensorRT10
from deploy.board.trt11 import TensorRT11

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "deploy" / "board"
ALL = (*TensorRT8.versions, *TensorRT10.versions, *TensorRT11.versions)
# Files of one generation, and files whose calls come behind a check of the release; all others claim all releases.
CLAIMS = {
    "trt8.py": TensorRT8.versions,
    "trt10.py": TensorRT10.versions,
    "trt11.py": TensorRT11.versions,
    "monitor.py": (*TensorRT10.versions, *TensorRT11.versions),
    "dla.py": ("8.5", "8.6", "10.0", "10.3", "10.7"),  # the cards have no DLA with any other
    "portable.py": tuple(release for release in ALL if release != "8.5"),
}
# What a method returns. Written from the documentation: a wrong line makes a name be looked up in the wrong class.
RETURNS = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("OnnxParser", "get_error"): "ParserError",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("ITimingCache", "serialize"): "IHostMemory",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
}
MODULE = ""
# Names that only TensorRT objects have: one on an expression of unknown type is a use that would escape the check.
TELLING = {
    name
    for kind in {owner for owner, _ in RETURNS} | set(RETURNS.values())
    for name in load_manifest("11.4")[kind] | load_manifest("8.6")[kind]
    if "_" in name
}


@dataclass(frozen=True, order=True)
class Use:
    """One name, read or set on a class, an enumeration or (owner "") the module."""

    owner: str
    name: str
    line: int


class Walker(ast.NodeVisitor):
    """Collects the uses in one file, and the telling names whose owner it could not find."""

    def __init__(self) -> None:
        self.uses: set[Use] = set()
        self.unknown: list[str] = []
        self._types: dict[str, str] = {}
        self._functions: dict[str, str] = {}

    def visit_Module(self, node: ast.Module) -> None:
        for item in ast.walk(node):
            if isinstance(item, ast.FunctionDef) and (kind := self._annotated(item.returns)):
                self._functions[item.name] = kind
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = dict(self._types)
        for item in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._types.pop(item.arg, None)
            kind = MODULE if item.arg == "trt" else self._annotated(item.annotation)
            if kind is not None:
                self._types[item.arg] = kind
        for statement in node.body:
            self.visit(statement)
        self._types = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self.type_of(base)
            if kind:  # methods that TensorRT calls: their names are names of the class
                self.uses |= {
                    Use(kind, item.name, item.lineno)
                    for item in node.body
                    if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
                }
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for place, value in pairs:
                kind = self.type_of(value)
                if isinstance(place, ast.Name):
                    self._types.pop(place.id, None)
                    if kind is not None:
                        self._types[place.id] = kind
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.type_of(node.value)
        if owner is not None and not node.attr.startswith("__"):
            self.uses.add(Use(owner, node.attr, node.lineno))
        elif owner is None and node.attr in TELLING:
            self.unknown.append(f"line {node.lineno}: {node.attr}")
        self.generic_visit(node)

    def type_of(self, node: ast.expr) -> str | None:
        """Return the class of an expression, "" for the module, None where it cannot be told."""
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr == "trt":  # a field that holds the module
                return MODULE
            return node.attr if self.type_of(node.value) == MODULE else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._functions.get(node.func.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self.type_of(node.func.value)
            if owner == MODULE:
                return node.func.attr
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "self":
                return self._functions.get(node.func.attr)
            return None if owner is None else RETURNS.get((owner, node.func.attr))
        return None

    def _annotated(self, node: ast.expr | None) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        found = [
            item.attr
            for item in (ast.walk(node) if node is not None else ())
            if isinstance(item, ast.Attribute)
            and isinstance(item.value, ast.Name)
            and item.value.id == "tensorrt"
        ]
        return found[0] if found else None


def walk(source: str) -> Walker:
    """Return what a walk through `source` collects."""
    walker = Walker()
    walker.visit(ast.parse(source))
    return walker


def find_faults(name: str, source: str, releases: tuple[str, ...]) -> list[str]:
    """Return one sentence for each name in `source` that a release lacks."""
    uses = sorted(walk(source).uses)
    return [
        f"{name}:{use.line}: {use.owner or 'tensorrt'}.{use.name} is no name of {release}"
        for release in releases
        for use in uses
        if use.name not in load_manifest(release).get(use.owner, set())
    ]


def our_files() -> Iterator[Path]:
    """Yield every module of the three packages."""
    for top in ("edgeq", "deploy", "calib"):
        yield from sorted((ROOT / top).rglob("*.py"))


def test_each_claimed_release_has_a_manifest() -> None:
    assert set(ALL) == set(RELEASES)


def test_every_name_is_one_of_each_release_that_the_file_claims() -> None:
    faults = [
        fault
        for path in our_files()
        for fault in find_faults(
            str(path.relative_to(ROOT)),
            path.read_text("utf-8"),
            CLAIMS.get(path.name, ALL) if path.parent == BOARD else ALL,
        )
    ]
    assert faults == []


def test_no_telling_name_is_used_on_an_expression_of_unknown_type() -> None:
    unknown = [
        f"{path.name}: {item}"
        for path in sorted(BOARD.rglob("*.py"))
        for item in walk(path.read_text("utf-8")).unknown
    ]
    assert unknown == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (MODULE, "Builder"),
        ("Builder", "build_serialized_network"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("BuilderFlag", "INT8"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IBuilderConfig", "profiling_verbosity"),
        ("IBuilderConfig", "progress_monitor"),
        ("OnnxParser", "num_errors"),
        ("ParserError", "node_operator"),
        ("IProgressMonitor", "step_complete"),
        ("ILogger", "log"),
        ("ITensor", "shape"),
        ("EngineInspector", "get_engine_information"),
        ("IExecutionContext", "set_input_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "num_io_tensors"),
        ("TensorIOMode", "INPUT"),
    ],
)
def test_the_walk_sees_the_names_that_the_builder_needs(owner: str, name: str) -> None:
    seen = {
        (use.owner, use.name)
        for path in BOARD.rglob("*.py")
        for use in walk(path.read_text("utf-8")).uses
    }
    assert (owner, name) in seen


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        pytest.param(
            "def f(trt):\n    return trt.BuilderFlag.FP16",
            "BuilderFlag.FP16 is no name of 11.4",
            id="flag-that-went",
        ),
        pytest.param(
            "def f(trt):\n    return trt.IInt8Calibrator",
            "tensorrt.IInt8Calibrator is no name of 11.4",
            id="class-that-went",
        ),
        pytest.param(
            "def f(config: tensorrt.IBuilderConfig | None):\n    config.int8_calibrator = 1",
            "IBuilderConfig.int8_calibrator is no name of 11.4",
            id="attribute-set",
        ),
        pytest.param(
            "def f(trt):\n    b = trt.Builder(0)\n    n = b.create_network(0)\n    n.add_fully_connected()",
            "INetworkDefinition.add_fully_connected is no name of 11.4",
            id="through-returns",
        ),
        pytest.param(
            "def g() -> tensorrt.Builder: ...\ndef f():\n    b = g()\n    b.platform_has_tf32",
            "Builder.platform_has_tf32 is no name of 11.4",
            id="through-a-function-of-ours",
        ),
        pytest.param(
            "def f(self):\n    trt, x = self.trt, 1\n    trt.Builder(0).platform_has_tf32",
            "Builder.platform_has_tf32 is no name of 11.4",
            id="field-and-tuple",
        ),
        pytest.param(
            "def f(trt):\n    class M(trt.IProgressMonitor):\n        def phase_begin(self): ...",
            "IProgressMonitor.phase_begin is no name of 11.4",
            id="overridden-method",
        ),
    ],
)
def test_a_wrong_name_is_found(source: str, fault: str) -> None:
    (found,) = find_faults("a.py", source, ("11.4",))
    assert found.endswith(fault)


def test_a_telling_name_on_an_unknown_object_is_found() -> None:
    (found,) = walk("def f(thing):\n    thing.create_builder_config()").unknown
    assert found == "line 2: create_builder_config"


@pytest.mark.parametrize("release", list(RELEASES))
def test_the_stand_in_has_the_names_of_its_release_and_no_other(release: str) -> None:
    trt = make_tensorrt(release, Script())
    manifest = load_manifest(release)
    assert manifest["BuilderFlag"] == {flag.name for flag in trt.BuilderFlag}
    assert hasattr(trt, "IProgressMonitor") is ("IProgressMonitor" in manifest)
    config = trt.IBuilderConfig()
    with pytest.raises(AttributeError, match="no attribute 'max_batch'"):
        config.max_batch = 1
    with pytest.raises(NotImplementedError, match="can_run_on_DLA is real, and not played"):
        config.can_run_on_DLA(None)


def test_the_stand_in_numbers_its_flags_otherwise_in_another_release() -> None:
    old, new = (make_tensorrt(release, Script()) for release in ("10.16", "11.4"))
    flag = "STRONGLY_TYPED"
    assert (
        old.NetworkDefinitionCreationFlag[flag].value
        != new.NetworkDefinitionCreationFlag[flag].value
    )


def test_the_bindings_of_this_machine_have_every_name() -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT's Python bindings are not installed")
    from deploy.board.releases import choose_dialect

    home = Path(importlib.import_module(type(choose_dialect(trt)).__module__).__file__ or "")
    release = ".".join(str(trt.__version__).split(".")[:2])
    files = [
        path
        for path in BOARD.glob("*.py")
        if path.name not in CLAIMS or path == home or release in CLAIMS[path.name]
    ]
    missing = [
        f"{use.owner}.{use.name}"
        for path in files
        for use in walk(path.read_text("utf-8")).uses
        if not hasattr(getattr(trt, use.owner) if use.owner else trt, use.name)
    ]
    assert missing == []
