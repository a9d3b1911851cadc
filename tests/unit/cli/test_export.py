from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

ARGUMENTS = ("export", "shellnet:make", "--weights", "w.pth", "--shape", "1x3x8x8")


@pytest.fixture
def network(edgeq: Any) -> Any:
    """Put a network and its weights into the current folder; forget its module afterwards."""
    Path("shellnet.py").write_text(
        "from torch import nn\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))\n"
    )
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict(), "w.pth")
    yield edgeq
    sys.modules.pop("shellnet", None)


def test_the_file_is_written_and_said_to_be_equal(network: Any) -> None:
    done = network(*ARGUMENTS, "--out", "net.onnx", "--opset", "13")
    assert done.code == 0
    assert " 1 BatchNormalization\nequal to the module within " in done.out
    assert onnx.load("net.onnx").opset_import[0].version == 13


def test_an_input_can_be_named(network: Any) -> None:
    assert network(*ARGUMENTS[:-1], "image:1x3x8x8", "--out", "net.onnx").code == 0
    assert onnx.load("net.onnx").graph.input[0].name == "image"


def test_a_file_is_replaced_only_when_asked(network: Any) -> None:
    Path("net.onnx").write_text("mine")
    done = network(*ARGUMENTS, "--out", "net.onnx")
    assert done.code == 3
    assert "already there" in done.err
    assert Path("net.onnx").read_text() == "mine"
    assert network(*ARGUMENTS, "--out", "net.onnx", "--overwrite").code == 0
    onnx.checker.check_model("net.onnx")


def test_a_shape_that_is_not_understood_ends_with_3(network: Any) -> None:
    done = network(*ARGUMENTS[:-1], "1x3xA", "--out", "net.onnx")
    assert done.code == 3
    assert "--shape" in done.err


def test_the_help_says_whose_code_is_run(edgeq: Any) -> None:
    text = " ".join(edgeq("export", "--help").out.split())
    assert "Its code is imported and run." in text
    assert "No code in it is ever run." in text
