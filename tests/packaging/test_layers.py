"""The import rule of the architecture page: imports go down only, rooms on one floor never import each other."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("edgeq", "calib", "deploy")
FLOORS = {
    "edgeq": 0,  # the version; counted as part of the core
    "edgeq.core": 0,
    "edgeq.graph": 1,
    "edgeq.teacher": 1,
    "edgeq.quant": 2,
    "edgeq.report": 2,
    "calib": 2,
    "deploy": 2,
    "edgeq.pipeline": 3,
    "edgeq.cli": 4,
    "edgeq.__main__": 5,  # `python -m edgeq`
}
# The one pair on a floor that may meet: the importer of the teacher reads the graph through `edgeq.graph`.
SIDEWAYS = {("edgeq.teacher", "edgeq.graph")}


def room_of(module: str) -> str | None:
    """Return the room that holds `module`, or None for a module of no room."""
    parts = module.split(".")
    name = ".".join(parts[:2]) if parts[0] == "edgeq" else parts[0]
    return name if name in FLOORS else None


def imports_of(source: str, modules: set[str]) -> Iterator[str]:
    """Yield every module of ours that `source` names, at any depth of the syntax tree."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [
                full if (full := f"{base}.{alias.name}") in modules else base
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in TOP)


def find_faults(sources: dict[str, str]) -> list[str]:
    """Return one sentence for every breach of the rule in modules given as name and source."""
    faults = []
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set(imports_of(source, set(sources))) - {module}
        if room_of(module) is None:
            faults.append(f"{module} is in no room")
            continue
        for other in sorted(graph[module]):
            if other not in sources:
                faults.append(f"{module} imports {other}, which does not exist")
            elif room_of(other) is not None:
                faults += _judge(module, other)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        faults.append(f"cycle: {' <- '.join(error.args[1])}")
    return faults


def _judge(module: str, other: str) -> list[str]:
    here, there = str(room_of(module)), str(room_of(other))
    is_core = {here, there} <= {"edgeq", "edgeq.core"}
    if here == there or is_core or FLOORS[there] < FLOORS[here] or (here, there) in SIDEWAYS:
        return []
    way = "upward" if FLOORS[there] > FLOORS[here] else "sideways"
    return [f"{module} imports {other}: {way}"]


def read_sources() -> dict[str, str]:
    """Return all modules of the three packages, by dotted name."""
    sources = {}
    for path in (path for top in TOP for path in (ROOT / top).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text("utf-8")
    return sources


def test_imports_go_down_only() -> None:
    sources = read_sources()
    assert {"edgeq", "edgeq.core.specs", "calib", "deploy"} <= set(sources)
    assert find_faults(sources) == []


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        pytest.param(
            {"edgeq.core.a": "import edgeq.quant.b", "edgeq.quant.b": ""}, "upward", id="upward"
        ),
        pytest.param(
            {"calib.a": "def f():\n    from deploy.b import c", "deploy.b": ""},
            "sideways",
            id="sideways-inside-a-function",
        ),
        pytest.param(
            {"edgeq": "from edgeq import cli", "edgeq.cli": ""}, "upward", id="package-to-room"
        ),
        pytest.param(
            {"edgeq.graph.a": "from edgeq.teacher import b", "edgeq.teacher": ""},
            "sideways",
            id="graph-reads-teacher",
        ),
        pytest.param({"edgeq.tools.a": ""}, "is in no room", id="unknown-room"),
        pytest.param(
            {"edgeq.quant.a": "from edgeq.core.b import c"}, "does not exist", id="unknown-module"
        ),
        pytest.param(
            {"calib.a": "import calib.b", "calib.b": "from calib.a import x"}, "cycle", id="cycle"
        ),
    ],
)
def test_every_breach_of_the_rule_is_found(sources: dict[str, str], fault: str) -> None:
    (found,) = find_faults(sources)
    assert fault in found


@pytest.mark.parametrize(
    "sources",
    [
        pytest.param({"edgeq.cli.a": "import calib.b", "calib.b": ""}, id="down"),
        pytest.param(
            {"calib.a": "from calib import b", "calib.b": "", "calib": ""}, id="same-room"
        ),
        pytest.param(
            {"edgeq.teacher.a": "from edgeq.graph.view import V", "edgeq.graph.view": ""},
            id="teacher-reads-graph",
        ),
        pytest.param({"deploy.a": "from edgeq import __version__", "edgeq": ""}, id="version"),
    ],
)
def test_what_the_rule_allows_is_left_alone(sources: dict[str, str]) -> None:
    assert find_faults(sources) == []
