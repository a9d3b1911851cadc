"""Each function of the CUDA driver that the board code calls is declared in CUDA's own header."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

BOARD = Path(__file__).parents[2] / "deploy" / "board"
HEADERS = [
    Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include" / "cuda.h",
]


def functions_called() -> set[str]:
    """Return every name of a function of the driver in the board's files."""
    return {
        node.value
        for name in ("cuda.py", "driver.py")
        for node in ast.walk(ast.parse((BOARD / name).read_text("utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"cu[A-Z]\w+", node.value)
    }


def test_the_functions_are_found() -> None:
    assert {"cuInit", "cuMemAlloc_v2", "cuGraphLaunch", "cuEventElapsedTime"} <= functions_called()


def test_each_function_is_one_of_cuda_h() -> None:
    header = next((path for path in HEADERS if path.is_file()), None)
    if header is None:
        pytest.skip("no cuda.h on this machine")
    text = header.read_text("utf-8", "replace")
    missing = [
        name
        for name in sorted(functions_called())
        # Either declared under this very name, or what the name without the suffix stands for.
        if not re.search(rf"CUresult CUDAAPI {name}\(", text)
        and not re.search(rf"#define \w+ +(?:__CUDA_API_PTSZ\()?{name}\b", text)
    ]
    assert missing == []
