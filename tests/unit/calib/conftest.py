from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from calib.problem import SynthesisProblem
from edgeq.core.recipes import SynthesisSpec, load_recipe
from edgeq.core.specs import InputSpec, Layout
from edgeq.graph.batchnorm import read_bn_table
from edgeq.teacher.importer import import_teacher
from edgeq.teacher.teacher import with_outputs

NET = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[4,3,3,3] w0, float[4] g0, float[4] b0, float[4] m0, float[4] v0,
 float[6,4,3,3] w1, float[6] g1, float[6] b1, float[6] m1, float[6] v1, float[5,6] w2, float[5] b2>
{
  c0 = Conv<pads=[1,1,1,1]>(x, w0)
  n0 = BatchNormalization(c0, g0, b0, m0, v0)
  r0 = Relu(n0)
  c1 = Conv<pads=[1,1,1,1]>(r0, w1)
  n1 = BatchNormalization(c1, g1, b1, m1, v1)
  r1 = Relu(n1)
  p = GlobalAveragePool(r1)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w2, b2)
}"""

# The same network behind a Transpose, as exporters of channels-last frameworks write it.
NHWC_NET = NET.replace("float[N,3,8,8] x", "float[N,8,8,3] x").replace(
    "c0 = Conv<pads=[1,1,1,1]>(x", "t = Transpose<perm=[0,3,1,2]>(x) c0 = Conv<pads=[1,1,1,1]>(t"
)
NORMS = (("c0", "m0", "v0"), ("c1", "m1", "v1"))


def record_statistics(model: onnx.ModelProto, x: Tensor) -> None:
    """Put the statistics that `x` has into the BatchNormalizations, one after the other."""
    stored = {item.name: item for item in model.graph.initializer}
    for tensor, mean, var in NORMS:
        with torch.no_grad():
            _, (a,) = with_outputs(import_teacher(model), [tensor])(x)
        for name, value in ((mean, a.mean((0, 2, 3))), (var, a.var((0, 2, 3), correction=0))):
            stored[name].CopyFrom(numpy_helper.from_array(value.numpy(), name))


@pytest.fixture(scope="session")
def training_batch() -> Tensor:
    """What the network was trained on: smooth pictures that are no white noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(32, 3, 2, 2, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")


MakeProblem = Callable[..., SynthesisProblem]


@pytest.fixture(scope="session")
def make_problem(parse_graph, training_batch) -> MakeProblem:
    """Return a function from a layout to the tiny network's problem."""

    def make(layout: Layout = Layout.NCHW, classes: int | None = 5) -> SynthesisProblem:
        head = np.random.default_rng(0).normal(0, 3, (5, 6)).astype(np.float32)
        arrays = {"v0": np.ones(4, np.float32), "v1": np.ones(6, np.float32), "w2": head}
        channels_last = layout is Layout.NHWC
        model = parse_graph(NHWC_NET if channels_last else NET, **arrays)
        x = training_batch.permute(0, 2, 3, 1) if channels_last else training_batch
        record_statistics(model, x)
        spec = InputSpec(
            name="x",
            shape=(8, 8, 3) if channels_last else (3, 8, 8),
            batch=None,
            dtype="float32",
            layout=layout,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            low=(-2.0, -1.5, -1.0),
            high=(2.0, 1.5, 1.0),
        )
        return SynthesisProblem(
            teacher=import_teacher(model),
            table=read_bn_table(model),
            inputs=(spec,),
            classes=classes,
        )

    return make


@pytest.fixture(scope="session")
def problem(make_problem) -> SynthesisProblem:
    return make_problem()


MakeSpec = Callable[..., SynthesisSpec]


@pytest.fixture(scope="session")
def make_spec() -> MakeSpec:
    """Return a function that makes the default recipe tiny, with every block in it."""
    tiny = dataclasses.replace(
        load_recipe("edgeq").synthesis,
        source="optimise",
        start="noise",
        samples=8,
        batch=4,
        iterations=5,
        learning_rate=0.1,
        batch_statistics=10.0,
        sample_statistics=1.0,
        slack_quantile=0.9,
        enhancement=2.0,
        decorrelation=1.0,
        label=0.5,
        lowpass=0.7,
        shift=1,
        leaves_per_sample=0,
    )

    def make(**figures: object) -> SynthesisSpec:
        return dataclasses.replace(tiny, **figures)

    return make
