"""What runs on the board keeps to Python 3.6, needs numpy and TensorRT at most, and is complete."""

from __future__ import annotations

import ast
import sys

import pytest
import vermin

from deploy.board_files import ROOT, board_files

OLDEST = (3, 6)
ALLOWED = {"numpy", "tensorrt", "deploy", "edgeq"}


def imported_by(source: str) -> set[str]:
    """Return the modules that `source` imports, at any depth; those for type checkers alone are left out."""
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for item in node.body
        for inner in ast.walk(item)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("name", board_files())
def test_a_file_parses_as_python_3_6(name: str) -> None:
    ast.parse((ROOT / name).read_text("utf-8"), feature_version=OLDEST)


def least_python(source: str) -> tuple[int, int]:
    """Return the oldest Python 3 that has each word, and each name of the library, in `source`."""
    config = vermin.Config()
    config.set_eval_annotations(True)
    least = vermin.detect(source, config)[1] or (3, 0)
    unions = [
        item
        for node in ast.walk(ast.parse(source))
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if note is not None
        for item in ast.walk(note)
        if isinstance(item, ast.BinOp)  # X | Y, which vermin leaves alone
    ]
    return max(least, (3, 10)) if unions else least


@pytest.mark.parametrize("name", board_files())
def test_every_word_and_every_library_call_is_of_python_3_6(name: str) -> None:
    assert least_python((ROOT / name).read_text("utf-8")) <= OLDEST


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations\n",
        "from dataclasses import dataclass\n",
        "if (n := 3):\n    pass\n",
        "def f(a, /):\n    return a\n",
        "x = 1\nprint(f'{x=}')\n",
        "import tomllib\n",
        "def f(a: int | None) -> None: ...\n",
        "import subprocess\nsubprocess.run(['ls'], capture_output=True)\n",
        "'a'.removeprefix('b')\n",
        "def f() -> list[int]: ...\n",
        "from typing import Protocol\n",
    ],
)
def test_newer_python_is_found(source: str) -> None:
    assert least_python(source) > OLDEST


def test_nothing_is_imported_but_the_library_numpy_tensorrt_and_the_boards_own_files() -> None:
    files = set(board_files())
    for name in files:
        for module in imported_by((ROOT / name).read_text("utf-8")):
            top = module.split(".")[0]
            assert top in ALLOWED or top in sys.stdlib_module_names, (name, module)
            place = module.replace(".", "/")
            if top in {"deploy", "edgeq"} and (ROOT / place).with_suffix(".py").is_file():
                assert f"{place}.py" in files, (name, module)


def test_an_import_for_type_checkers_is_none() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx\nimport json\n"
    assert imported_by(source) == {"typing", "typing.TYPE_CHECKING", "json"}
