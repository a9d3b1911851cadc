"""The constants of one BatchNormalization, and their product with the layer before it.

Channels are on axis 1 of the layer's output; K is their number. Products are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.core.errors import ModelError, NumericsError
from edgeq.graph.view import GraphView, attribute, node_id

Floats = NDArray[np.float64]

_DEFAULT_EPSILON = 1e-5  # ONNX BatchNormalization, attribute epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class BNParameters:
    """The constants of a node, [K] float64 each: y = gamma (x - mean) / sqrt(var + eps) + beta."""

    gamma: Floats
    beta: Floats
    mean: Floats
    var: Floats
    eps: float


def read_parameters(view: GraphView, node: onnx.NodeProto) -> BNParameters | None:
    """Return the constants of a BatchNormalization, or None if one of them is computed.

    Raises:
        ModelError: if they are no vectors of one length.
    """
    found = [view.constant(name) for name in node.input[1:5]]
    values = [value.astype(np.float64) for value in found if value is not None]
    if len(values) < 4:
        return None
    if len({value.shape for value in values}) > 1 or values[0].ndim != 1:
        raise ModelError(
            f"BatchNormalization with parameters of the shapes {[list(v.shape) for v in values]}",
            why="scale, bias, mean and variance hold one value a channel",
            mend="export the model again; the file is damaged",
            node=node_id(node),
        )
    gamma, beta, mean, var = values
    eps = cast("float", attribute(node, "epsilon", _DEFAULT_EPSILON))
    return BNParameters(gamma=gamma, beta=beta, mean=mean, var=var, eps=eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldJob:
    """A BatchNormalization and the layer that can take it in.

    Attributes:
        node: the BatchNormalization.
        layer: Conv, ConvTranspose, Gemm or two-dimensional MatMul.
        parameters: of `node`.
        weight: of `layer`, as stored.
        bias: of `layer`, [1] or [K] but for leading axes of 1; None where there is none.
    """

    node: onnx.NodeProto
    layer: onnx.NodeProto
    parameters: BNParameters
    weight: NDArray[Any]
    bias: NDArray[Any] | None


def fold_products(job: FoldJob) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the weight and the bias [K] with which the layer alone does what both did, in the weight's type.

    W' = a W and b' = a (b - mean) + beta, with a = gamma / sqrt(var + eps); a Gemm's own `beta` is in b'.

    Raises:
        ModelError: if the numbers of channels differ.
        NumericsError: if a product is not finite.
    """
    parameters, weight, kind = job.parameters, job.weight.astype(np.float64), job.layer.op_type
    bias = np.zeros(1) if job.bias is None else job.bias.astype(np.float64).reshape(-1)
    if kind == "Gemm":
        bias = bias * cast("float", attribute(job.layer, "beta", 1.0))
    channels = _channels(job.layer, weight)
    if len(parameters.mean) != channels or bias.size not in (1, channels):
        raise ModelError(
            f"BatchNormalization of {len(parameters.mean)} channels behind a {kind} "
            f"with the weight {list(weight.shape)} and a bias of {bias.size}",
            why="every channel of the layer has one bias, one mean and one variance",
            mend="export the model again; the file is damaged",
            node=node_id(job.node),
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # `_store` refuses what is not finite
        factor = parameters.gamma / np.sqrt(parameters.var + parameters.eps)
        return (
            _store(weight * _spread(factor, job.layer, weight), job),
            _store(factor * (bias - parameters.mean) + parameters.beta, job),
        )


def _channels_last(layer: onnx.NodeProto) -> bool:
    """Return true if the weight is [inputs, K], as in MatMul and an ordinary Gemm."""
    is_gemm = layer.op_type == "Gemm" and not attribute(layer, "transB", 0)
    return layer.op_type == "MatMul" or is_gemm


def _channels(layer: onnx.NodeProto, weight: Floats) -> int:
    """Return K, or 0 for a weight that no such layer can have."""
    groups = cast("int", attribute(layer, "group", 1))
    if weight.ndim < 2 or groups < 1:
        return 0
    if layer.op_type == "ConvTranspose":  # [C, K/G, ...]
        return 0 if weight.shape[0] % groups else weight.shape[1] * groups
    return int(weight.shape[1 if _channels_last(layer) else 0])


def _spread(factor: Floats, layer: onnx.NodeProto, weight: Floats) -> Floats:
    """Return the factors [K] shaped to multiply the weight."""
    if _channels_last(layer):
        return factor[None, :]
    if layer.op_type == "ConvTranspose":  # the C/G rows of a group share that group's K/G factors
        groups = cast("int", attribute(layer, "group", 1))
        factor = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return factor.reshape(factor.shape + (1,) * (weight.ndim - factor.ndim))


def _store(values: Floats, job: FoldJob) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        stored = values.astype(job.weight.dtype)
    bad = int(np.sum(~np.isfinite(stored)))
    if bad:
        raise NumericsError(
            f"folding a BatchNormalization gives {bad} of {stored.size} values that are not finite",
            why=f"its variance is too small, or its scale too large, for {job.weight.dtype}",
            mend="look at its variance and epsilon: a channel that died in training has a variance of 0",
            node=node_id(job.node),
        )
    return stored
