"""The plan of the CIFAR-10 ResNet-20 (option A shortcuts, BatchNorm folded by PyTorch's exporter)."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from edgeq.core.plan import Grid, OwnRange, Role, SharedRange


@pytest.fixture(scope="module")
def decisions(place):
    folder = os.environ.get("EDGEQ_FIXTURES")
    if folder is None:
        pytest.skip("EDGEQ_FIXTURES does not name the folder with cifar10/resnet20_folded.onnx")
    return place(onnx.load(Path(folder) / "cifar10" / "resnet20_folded.onnx"), "w4a4")


def test_all_twenty_layers_are_quantized_and_only_the_outer_two_have_8_bits(decisions):
    weights = {
        name: decision.grid.bits
        for name, decision in decisions.items()
        if decision.grid is not None and decision.role is Role.WEIGHT
    }
    assert len(weights) == 20
    assert {name for name, bits in weights.items() if bits == 8} == {
        "conv1.weight",
        "linear.weight",
    }
    assert set(weights.values()) == {4, 8}


def test_every_residual_branch_stays_float_and_no_conv_output_is_quantized(decisions):
    branches = [d for d in decisions.values() if d.rule == "residual add" and d.grid is None]
    assert len(branches) == 9
    assert not [n for n, d in decisions.items() if n.startswith("getitem") and d.grid is not None]


@pytest.mark.parametrize(("shortcut", "source"), [("pad", "relu_6"), ("pad_1", "relu_12")])
def test_a_sliced_and_padded_shortcut_has_the_scale_of_its_source(decisions, shortcut, source):
    assert decisions[shortcut].owner == SharedRange(with_tensor=source)
    assert decisions[source].owner == OwnRange()
    assert decisions[shortcut].grid == decisions[source].grid == Grid(bits=4, signed=False)


def test_an_identity_shortcut_is_one_decision_with_two_sites(decisions):
    assert [site.op_type for site in decisions["relu"].sites] == ["Conv", "Add"]


def test_both_sides_of_the_pool_in_front_of_the_classifier_have_8_bits(decisions):
    assert decisions["relu_18"].grid == decisions["view"].grid == Grid(bits=8)
