"""Both of PyTorch's ONNX exporters, with a dynamic batch axis and without their chatter."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

INPUT = "input"
OUTPUT = "logits"
SHAPE = (3, 16, 16)

Shapes = Mapping[str, tuple[int, ...]]

_BATCH = 2


def export_torchscript(
    net: nn.Module,
    *,
    opset: int = 17,
    keeps_batchnorm: bool = True,
    inputs: Shapes | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """Return `net` as the TorchScript exporter writes it.

    Args:
        net: in eval mode.
        opset: of the default domain.
        keeps_batchnorm: false folds it into the convolutions.
        inputs: input name to the shape of one sample, in the order of `forward`; None for one picture.
        outputs: names.
    """
    shapes = inputs or {INPUT: SHAPE}
    mode = torch.onnx.TrainingMode
    file = io.BytesIO()
    with _quiet():
        torch.onnx.export(
            net,
            _examples(shapes),
            file,
            dynamo=False,
            opset_version=opset,
            training=mode.PRESERVE if keeps_batchnorm else mode.EVAL,
            do_constant_folding=not keeps_batchnorm,
            input_names=list(shapes),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (*shapes, *outputs)},
        )
    return onnx.load_from_string(file.getvalue())


def export_dynamo(
    net: nn.Module,
    *,
    opset: int = 20,
    optimize: bool = True,
    inputs: Shapes | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """Return `net` as PyTorch's default exporter writes it; arguments as in `export_torchscript`.

    Optimised, it folds BatchNorm into the convolutions; without, it keeps it and leaves its own shape arithmetic.
    """
    shapes = inputs or {INPUT: SHAPE}
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            net,
            _examples(shapes),
            dynamo=True,
            opset_version=opset,
            optimize=optimize,
            input_names=list(shapes),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in shapes),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _examples(shapes: Shapes) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(_BATCH, *shape) for shape in shapes.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, which warn about themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                yield
    finally:
        logging.disable(disabled)
