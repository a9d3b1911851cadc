"""What PyTorch's exporters write, and two real files: the teacher computes what ONNX Runtime computes."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from edgeq.teacher.importer import import_teacher
from edgeq.teacher.proof import prove_equal

NETS = ("mobilenet_v1", "mobilenet_v2", "resnet_a", "resnet_b", "resnet_imagenet", "vgg")


@pytest.fixture(scope="session")
def nets(zoo):
    return {name: zoo.make_net(name) for name in zoo.NETS}


@pytest.fixture
def require_equal(zoo, image_input):
    def check(model):
        result = prove_equal(import_teacher(model), model, [image_input(zoo.SHAPE)], seed=0)
        assert result.outputs == (zoo.OUTPUT,)
        assert result.largest_rel < 1e-5

    return check


def kinds(model):
    return {node.op_type for node in model.graph.node}


def test_the_zoo_has_the_nets_of_this_file(zoo):
    assert set(zoo.NETS) == set(NETS)


@pytest.mark.parametrize("keeps_batchnorm", [True, False], ids=["kept", "folded"])
@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("name", NETS)
def test_torchscript_export_is_equal(zoo, nets, require_equal, name, opset, keeps_batchnorm):
    model = zoo.export_torchscript(nets[name], opset=opset, keeps_batchnorm=keeps_batchnorm)
    assert ("BatchNormalization" in kinds(model)) == keeps_batchnorm
    require_equal(model)


@pytest.mark.parametrize("name", NETS)
def test_default_export_is_equal(zoo, nets, require_equal, name):
    model = zoo.export_dynamo(nets[name])
    assert "BatchNormalization" not in kinds(model)
    require_equal(model)


@pytest.mark.parametrize(("name", "opset"), [("resnet_a", 18), ("mobilenet_v2", 20)])
def test_default_export_without_optimisation_is_equal(zoo, nets, require_equal, name, opset):
    model = zoo.export_dynamo(nets[name], opset=opset, optimize=False)
    assert {"BatchNormalization", "Shape", "Expand", "CastLike"} <= kinds(model)
    require_equal(model)


@pytest.mark.parametrize("name", ["resnet20_bn", "resnet20_folded"])
def test_real_resnet20_is_equal(image_input, name):
    folder = os.environ.get("EDGEQ_FIXTURES")
    if not folder:
        pytest.skip("EDGEQ_FIXTURES, the folder of the real files, is not set")
    model = onnx.load(Path(folder) / "cifar10" / f"{name}.onnx")
    result = prove_equal(import_teacher(model), model, [image_input((3, 32, 32))], seed=0)
    assert result.largest_rel < 1e-5
