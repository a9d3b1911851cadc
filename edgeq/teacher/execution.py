"""One run of the model in ONNX Runtime, and one in torch, on numpy arrays. A fault names the node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgeq.core.errors import ModelError
from edgeq.teacher.converters import CONVERSION_FAULTS

Array = NDArray[Any]


class RuntimeSession:
    """`model` in ONNX Runtime on the CPU, with graph optimisation off.

    Raises:
        ModelError: if ONNX Runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise _refused("load", error) from error

    def run(self, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Return the named outputs.

        Raises:
            ModelError: if ONNX Runtime fails.
        """
        try:
            return list(self._session.run(list(outputs), dict(feed)))
        except Exception as error:
            raise _refused("run", error) from error


def run_module(module: fx.GraphModule, feed: Mapping[str, Array]) -> Any:
    """Return what `module` returns for arrays given in the order of its inputs, without gradients.

    Raises:
        ModelError: names the node that torch cannot compute.
    """
    inputs = [torch.from_numpy(array) for array in feed.values()]
    with torch.no_grad():
        try:
            return module(*inputs)
        except CONVERSION_FAULTS as error:
            raise ModelError(
                f"the teacher cannot run: {error}",
                why="a node computes something that its torch counterpart refuses",
                mend="check the model with onnx.checker; if it runs in ONNX Runtime, report this node",
                node=_failing_node(module, inputs),
            ) from error


def to_array(tensor: Tensor) -> Array:
    """Return a tensor's values; those of bfloat16, which numpy does not have, in float32."""
    held = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    return np.asarray(held.detach().cpu().numpy())


def _failing_node(module: fx.GraphModule, inputs: Sequence[Tensor]) -> str | None:
    """Return the ONNX node at which a second, slower run of `module` fails."""
    runner = _Recorder(module)
    try:
        runner.run(*inputs)
    except CONVERSION_FAULTS:
        return runner.last
    return None


class _Recorder(fx.Interpreter):
    """Remembers the ONNX node that runs."""

    last: str | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.last = n.meta.get("onnx_node", self.last)
        return super().run_node(n)


def _refused(verb: str, error: Exception) -> ModelError:
    return ModelError(
        f"ONNX Runtime cannot {verb} the model: {error}",
        why="the teacher is proved against ONNX Runtime, and so is the result",
        mend="run onnx.checker on the file, or export it again",
    )
