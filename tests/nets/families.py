"""One small network of each family that edgeq is to carry. Entries: `FAMILIES`, `make_net`, `export`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import onnx
import torch
from nets import dense_prediction, mobile, other_inputs, residual, transformers, zoo
from nets.exporters import export_dynamo, export_torchscript
from nets.statistics import settle
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a network is made and what goes in and out.

    Attributes:
        make: returns it with fresh weights.
        inputs: input name to the shape of one sample, in the order of `forward`.
        outputs: names.
    """

    make: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"input": (3, 16, 16)})
    outputs: tuple[str, ...] = ("logits",)


_LARGE = {"input": (3, 32, 32)}

FAMILIES: dict[str, Family] = {
    "resnet": Family(make=zoo.NETS["resnet_b"]),
    "mobilenet_v2": Family(make=zoo.NETS["mobilenet_v2"]),
    "resnext": Family(make=residual.resnext),
    "regnet": Family(make=residual.regnet),
    "densenet": Family(make=residual.DenseNet),
    "convnext": Family(make=residual.ConvNeXt, inputs=_LARGE),
    "mobilenet_v3": Family(make=mobile.mobilenet_v3),
    "efficientnet": Family(make=mobile.efficientnet),
    "shufflenet_v2": Family(make=mobile.shufflenet_v2),
    "inception": Family(make=dense_prediction.inception),
    "unet": Family(make=dense_prediction.UNet, outputs=("mask",)),
    "yolo": Family(make=dense_prediction.Yolo, inputs=_LARGE, outputs=("boxes", "scores")),
    "deeplab": Family(make=dense_prediction.DeepLab, inputs=_LARGE, outputs=("mask",)),
    "super_resolution": Family(make=dense_prediction.SuperResolution, outputs=("picture",)),
    "vit": Family(make=transformers.ViT),
    "mobilevit": Family(make=transformers.mobilevit),
    "ds_cnn": Family(make=other_inputs.ds_cnn, inputs={"input": (1, 49, 10)}),
    "audio_1d": Family(make=other_inputs.audio_1d, inputs={"input": (1, 256)}),
    "autoencoder": Family(
        make=other_inputs.autoencoder, inputs={"input": (64,)}, outputs=("restored",)
    ),
    "two_inputs": Family(
        make=other_inputs.TwoInputs, inputs={"picture": (3, 16, 16), "vector": (6,)}
    ),
}

EXPORTERS = {"torchscript": export_torchscript, "dynamo": export_dynamo}


@functools.cache
def make_net(name: str) -> nn.Module:
    """Return the network of a family, seeded, with statistics, in eval mode."""
    family = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return settle(family.make(), family.inputs)


@functools.cache
def export(name: str, exporter: str) -> onnx.ModelProto:
    """Return the network of a family as one of `EXPORTERS` writes it; the first keeps BatchNorm."""
    family = FAMILIES[name]
    return EXPORTERS[exporter](make_net(name), inputs=family.inputs, outputs=family.outputs)
