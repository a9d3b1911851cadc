"""From module and state dict to ONNX with BatchNorm kept; every way in which they may not fit each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from edgeq.core.errors import BuildError, InputError
from edgeq.teacher.export import ExportResult, export_module

CODE = """
import torch
from torch import nn
from torch.nn import functional as F

def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
    def forward(self, a, b):
        return {"sum": self.norm(a) + b, "parts": (a, b)}

class FrozenBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
    def forward(self, x):
        return self.norm(x) * (2 if x.shape[0] == 1 else 1)

class FrozenSize(FrozenBatch):
    def forward(self, x):
        return self.norm(x).view(int(x.shape[0]), 2, 3)

class FrozenValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
    def forward(self, x):
        return self.norm(x) + float(x.sum())

class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
    def forward(self, x):
        return torch.special.bessel_j0(self.norm(x))

class Nothing(nn.Module):
    def forward(self, x):
        return None

def number():
    return 3

def wide(width):
    return nn.Conv2d(3, width, 3)

def fails():
    raise RuntimeError("no data folder")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A current folder with code in it; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    Path("userscode.py").write_text(CODE)
    Path("broken.py").write_text("import no_such_package\n")
    yield tmp_path
    assert sys.path == path
    for name in {"userscode", "broken"} & (set(sys.modules) - before):
        del sys.modules[name]


def save_weights(factory: str) -> Path:
    """Save weights with trained-looking BatchNorms for a network of `CODE`."""
    scope: dict = {}
    exec(CODE, scope)
    module = scope[factory]()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running" in name:
                value.uniform_(0.5, 2)
    path = Path(f"{factory}.pth")
    torch.save({"state_dict": module.state_dict()}, path)
    return path


def export(reference: str, weights: Path, out: str = "net.onnx", **shapes) -> ExportResult:
    return export_module(f"userscode:{reference}", str(weights), shapes=shapes, out=out)


def test_batchnorm_is_kept_and_the_file_computes_what_the_module_does(folder) -> None:
    weights = save_weights("make")
    result = export("make", weights, input=(1, 3, 8, 8))
    model = onnx.load(result.path)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("BatchNormalization") == result.batchnorms == 1
    assert [item.name for item in model.graph.input] == ["input"]
    assert model.opset_import[0].version == 17
    state = torch.load(weights, weights_only=True)["state_dict"]
    scope: dict = {}
    exec(CODE, scope)
    module = scope["make"]().eval()
    module.load_state_dict(state)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (found,) = onnxruntime.InferenceSession(str(result.path)).run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-5)


def test_several_inputs_and_nested_outputs_have_names(folder) -> None:
    export("Two", save_weights("Two"), a=(2, 5), b=(2, 5))
    graph = onnx.load("net.onnx").graph
    assert [item.name for item in graph.input] == ["a", "b"]
    assert [item.name for item in graph.output] == ["output_0", "output_1", "output_2"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_checkpoint_without_step_counters_is_complete(folder) -> None:
    state = torch.load(save_weights("make"), weights_only=True)["state_dict"]
    del state["1.num_batches_tracked"]
    torch.save(state, "old.pth")
    assert export("make", Path("old.pth"), input=(1, 3, 8, 8)).batchnorms == 1


def test_weights_that_do_not_fit_are_listed_at_once(folder) -> None:
    state = torch.load(save_weights("make"), weights_only=True)["state_dict"]
    del state["0.bias"]
    state["extra"] = torch.ones(1)
    state["6.weight"] = torch.ones(9, 8)
    torch.save(state, "other.pth")
    with pytest.raises(InputError) as raised:
        export("make", Path("other.pth"), input=(1, 3, 8, 8))
    assert "no '0.bias', 'extra' too many, '6.weight' is [9, 8] and should be [4, 8]" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("reference", "what", "mend"),
    [
        ("userscode", "not understood", "net:make"),
        ("userscode:", "not understood", "net:make"),
        ("usercode:make", "no module 'usercode'", "did you mean userscode"),
        ("userscode.deep:make", "no module 'userscode.deep'", "in the folder of the code"),
        ("userscode:mak", "has no 'mak'", "did you mean make"),
        ("userscode:F.nothing", "has no 'F.nothing'", "check the name"),
        ("userscode:number", "gives int", "the network itself"),
        ("userscode:wide", "fails: TypeError", "(width)"),
        ("userscode:fails", "no data folder", "without arguments"),
        ("broken:make", "no_such_package", "python -c 'import broken'"),
    ],
)
def test_a_name_that_makes_no_network_is_explained(folder, reference, what, mend) -> None:
    with pytest.raises(InputError) as raised:
        export_module(reference, Path("w.pth"), shapes={"input": (1, 3)}, out=Path("net.onnx"))
    assert what in raised.value.what
    assert mend in raised.value.mend
    assert not Path("net.onnx").exists()


@pytest.mark.parametrize(
    ("factory", "shape", "kind", "what"),
    [
        pytest.param("make", (1, 4, 8, 8), InputError, "cannot run on input:1x4x8x8", id="shape"),
        pytest.param("Nothing", (1, 4), InputError, "returns no tensor", id="no-output"),
        pytest.param("FrozenBatch", (1, 6), BuildError, "with a batch of 3", id="frozen-batch"),
        pytest.param(
            "FrozenSize", (1, 6), BuildError, "cannot run it with a batch", id="frozen-size"
        ),
        pytest.param("FrozenValue", (1, 6), BuildError, "differs by", id="frozen"),
        pytest.param("Unknown", (1, 6), BuildError, "exporter fails", id="operator"),
    ],
)
def test_a_network_that_cannot_be_exported_leaves_no_file(
    folder, factory, shape, kind, what
) -> None:
    weights = save_weights(factory) if factory != "Nothing" else Path("empty.pth")
    if factory == "Nothing":
        torch.save({"norm.num_batches_tracked": torch.tensor(0)}, weights)
    with pytest.raises(kind, match="(?s).*" + what):
        export(factory, weights, input=shape)
    assert not list(Path().glob("*.onnx"))
