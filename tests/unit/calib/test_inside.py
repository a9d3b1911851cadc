"""Moments that are measured inside the network are those of the tensor, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from calib.inside import measure_inside, normalise_and_measure
from calib.statistics import measure
from edgeq.teacher.normalisation import batch_normalization

NAMES = ("mean", "var", "sample_mean", "sample_var")
SHAPES = {"rows": (6, 3), "signals": (6, 3, 11), "pictures": (6, 3, 5, 7), "pooled": (6, 3, 1, 1)}


def constants(grad: bool = False) -> list[torch.Tensor]:
    values = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)) + 0.5
    return [item.clone().requires_grad_(grad and index < 2) for index, item in enumerate(values)]


def apart(x, *statistics, **figures):
    return batch_normalization(x, *statistics, **figures), measure(x)


def run(function, x, statistics, weights):
    """Return output, moments, and the gradient of a weighted sum of them all."""
    x = x.clone().requires_grad_(True)
    output, moments = function(x, *statistics, epsilon=1e-3)
    found = [output, *(getattr(moments, name) for name in NAMES)]
    found = [item for item in found if item is not None]
    torch.autograd.backward(
        sum((w * item.square()).sum() for w, item in zip(weights, found, strict=False))
    )
    return [*(item.detach() for item in found), x.grad]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("weights", [(1, 2, 3, 4, 5), (1, 0, 0, 0, 0), (0, 2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_node_gives_what_two_give(shape, weights, learned):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    statistics = constants(learned)
    both = run(normalise_and_measure, x, statistics, weights)
    torch.testing.assert_close(both, run(apart, x, statistics, weights))


class Net(nn.Module):
    """`a` is read by one BatchNormalization, `b` by two, `c` by none."""

    def __init__(self) -> None:
        super().__init__()
        for index, item in enumerate(constants()):
            self.register_buffer(f"figure_{index}", item)

    def forward(self, x):
        figures = (self.figure_0, self.figure_1, self.figure_2, self.figure_3)
        a = x + 1
        b = batch_normalization(a, *figures, epsilon=1e-3).relu()
        first, second = (batch_normalization(b, *figures) for _ in range(2))
        c = first * second
        return (c.mean(),), (a, b, c, b)


@pytest.fixture(scope="module")
def module():
    tracer = fx.Tracer(autowrap_functions=(batch_normalization,))
    net = Net()
    return fx.GraphModule(net, tracer.trace(net))


def test_every_captured_tensor_is_measured_whoever_reads_it(module):
    x = torch.randn(SHAPES["pictures"], generator=torch.Generator().manual_seed(0))
    (wanted,), captured = module(x)
    measure_inside(module, 3)
    assert [node.target for node in module.graph.nodes].count(normalise_and_measure) == 1
    (output,), found = module(x)
    torch.testing.assert_close(output, wanted)
    assert torch.equal(found[3], captured[3])
    for moments, tensor in zip(found[:3], captured[:3], strict=True):
        alone = measure(tensor)
        for name in NAMES:
            torch.testing.assert_close(getattr(moments, name), getattr(alone, name))


def test_a_batchnorm_that_reads_another_one_is_measured():
    """A stem's BatchNormalization before the first one of a pre-activation block."""

    class Chain(Net):
        def forward(self, x):
            own = (self.figure_0, self.figure_1, self.figure_2, self.figure_3)
            a = x + 1
            first = batch_normalization(a, *own)
            return (batch_normalization(first, *own),), (a, first)

    net = Chain()
    traced = fx.GraphModule(net, fx.Tracer(autowrap_functions=(batch_normalization,)).trace(net))
    x = torch.randn(6, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    outputs, captured = traced(x)
    measure_inside(traced, 2)
    measured_outputs, moments = traced(x)
    torch.testing.assert_close(measured_outputs, outputs)
    for found, tensor in zip(moments, captured, strict=True):
        torch.testing.assert_close(found.mean, tensor.mean((0, 2, 3)))
