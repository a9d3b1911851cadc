"""From a PyTorch module and its state dict to an ONNX file that keeps BatchNorm, proved equal to the module.

Entry: `export_module`. The module's own code is imported and run; from the weights file nothing but tensors is taken.
The TorchScript exporter is used, because it is the one that can be told to keep BatchNorm.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeq.core.errors import BuildError, InputError, ModelError
from edgeq.core.files import FilePath, write_bytes
from edgeq.teacher.checkpoint import load_state_dict
from edgeq.teacher.execution import RuntimeSession, to_array
from edgeq.teacher.factory import current_folder_first, load_weights, make_module
from edgeq.teacher.proof import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE

# The batch size of the second comparison: a batch axis frozen at export shows.
_OTHER_BATCH = 3
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the ONNX file.
        nodes, batchnorms: number of nodes, and of BatchNormalization among them.
        largest_abs: largest difference between the file in ONNX Runtime and the module, of any output.
    """

    path: Path
    nodes: int
    batchnorms: int
    largest_abs: float


def export_module(
    reference: str,
    weights: FilePath,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    out: FilePath,
    opset: int = 17,
) -> ExportResult:
    """Write the network that `reference` makes, with `weights` in it, as ONNX with BatchNorm kept.

    Args:
        reference: PACKAGE:FACTORY; the factory is called without arguments and returns an nn.Module.
        weights: see `checkpoint.load_state_dict`; its names must be exactly the module's.
        shapes: name and full shape of every input of `forward`, in its order; axis 0 becomes the dynamic batch.
        out: is written only if ONNX Runtime gives what the module gives, at two batch sizes.
        opset: of the default ONNX domain.

    Raises:
        InputError: if package, factory, weights and shapes do not fit each other.
        BuildError: if the exporter fails, or what it makes is not the module or lost its BatchNorm.
    """
    weights, out = Path(weights), Path(out)
    with current_folder_first():
        module = make_module(reference)
        load_weights(module, load_state_dict(weights), weights)
        module.eval()
        inputs = _draw(shapes)
        outputs, calls = _run_counting(module, inputs)
        model = _export(module, inputs, count=len(outputs), opset=opset)
        kept = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
        if kept < calls:
            raise BuildError(
                f"{kept} of {calls} BatchNorms were kept by PyTorch's exporter",
                why="the statistics are what the file is made for",
                mend="build from the folded file: edgeq build MODEL --teacher WEIGHTS",
            )
        largest = max(
            _require_equal(module, model, batch)
            for batch in (inputs, _draw(shapes, batch=_OTHER_BATCH))
        )
    write_bytes(out, model.SerializeToString())
    return ExportResult(path=out, nodes=len(model.graph.node), batchnorms=kept, largest_abs=largest)


def _draw(shapes: Mapping[str, tuple[int, ...]], *, batch: int | None = None) -> dict[str, Tensor]:
    """Return seeded N(0, 1) inputs, of another batch size if one is given."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape if batch is None else (batch, *shape[1:]), generator=generator)
        for name, shape in shapes.items()
    }


def _run_counting(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], int]:
    """Return the outputs, and how often a BatchNorm ran."""
    calls: list[None] = []
    norms = [item for item in module.modules() if isinstance(item, _BATCHNORMS)]
    hooks = [item.register_forward_hook(lambda *_: calls.append(None)) for item in norms]
    try:
        return _run(module, inputs), len(calls)
    finally:
        for hook in hooks:
            hook.remove()


def _run(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the output tensors in the order in which the exporter numbers them.

    Raises:
        InputError: if the module does not take such inputs, or returns no tensor.
    """
    sizes = ", ".join(f"{name}:{'x'.join(map(str, x.shape))}" for name, x in inputs.items())
    try:
        with torch.no_grad():
            outputs = list(_flatten(module(*inputs.values())))
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"the network cannot run on {sizes}: {_first_line(error)}",
            why="it is run at the size of --shape, and once more with another batch, to compare it with the file",
            mend="pass its own --shape; write forward for any batch size: x.flatten(1), not x.view(1, -1)",
        ) from error
    if not outputs:
        raise InputError(
            "the network returns no tensor",
            why="the outputs of the file are the tensors that forward returns",
            mend="return tensors, alone or in tuples, lists or dictionaries",
        )
    return outputs


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _flatten(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _flatten(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _flatten(item)


def _export(
    module: nn.Module, inputs: Mapping[str, Tensor], *, count: int, opset: int
) -> onnx.ModelProto:
    outputs = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    file = io.BytesIO()
    try:
        with _quiet():
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                file,  # type: ignore[arg-type]  # the stub knows no buffers; this exporter takes them
                dynamo=False,
                opset_version=opset,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,  # it would fold what BatchNorm follows
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in [*inputs, *outputs]},
            )
        model = onnx.load_from_string(file.getvalue())
        onnx.checker.check_model(model)
    except Exception as error:  # the exporter lets through what any part of it raises
        raise BuildError(
            f"PyTorch's TorchScript exporter fails: {_first_line(error)}",
            why="only this exporter can keep BatchNorm; the default one folds it away",
            mend="export with torch.onnx.export(..., dynamo=True), then: edgeq build MODEL --teacher WEIGHTS",
        ) from error
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns about itself; what it gets wrong shows in the comparison."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                yield
    finally:
        logging.disable(disabled)


def _require_equal(
    module: nn.Module, model: onnx.ModelProto, inputs: Mapping[str, Tensor]
) -> float:
    """Return the largest difference between the module and the file in ONNX Runtime.

    Raises:
        BuildError: if an output differs by more than rounding explains, or is not finite.
    """
    names = [item.name for item in model.graph.output]
    read = {item.name for item in model.graph.input}
    feed = {name: to_array(x) for name, x in inputs.items() if name in read}
    batch = len(next(iter(inputs.values())))
    try:
        found = RuntimeSession(model).run(names, feed)
    except ModelError as error:
        raise _not_equal(
            f"ONNX Runtime cannot run it with a batch of {batch}: {error.what}"
        ) from error
    worst = 0.0
    for name, expected, value in zip(names, _run(module, inputs), found, strict=True):
        wanted = to_array(expected)
        tolerance = RELATIVE_TOLERANCE * np.abs(wanted).max(initial=0) + ABSOLUTE_TOLERANCE
        is_like = wanted.shape == value.shape
        gap = float(np.abs(wanted - value).max(initial=0)) if is_like else float("inf")
        if not gap <= tolerance:
            raise _not_equal(
                f"output '{name}' differs by {gap:.2e} (allowed {tolerance:.2e}) with a batch of {batch}"
            )
        worst = max(worst, gap)
    return worst


def _not_equal(what: str) -> BuildError:
    return BuildError(
        f"the exported file is not the network: {what}",
        why="the exporter records one run: what depends on the batch size or on values is frozen in the file",
        mend="write forward without Python branches on values or sizes, and x.flatten(1) for x.view(int(len(x)), -1)",
    )
