"""Resize and Upsample: one axis after the other, as sums of shifted reads, in every coordinate mode of the standard.

Each position of the result reads a few positions of the input ("taps"). Where they lie and what they weigh is computed
in float32, as ONNX Runtime does, so that both round to the same element where a position lies between two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.teacher.converters import Floats, Ints, converter, to_floats, to_ints

Mode = Literal["nearest", "linear", "cubic"]
Coordinates = Literal[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
]
Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"]
Policy = Literal["stretch", "not_larger", "not_smaller"]

_F32 = np.float32
_Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampling:
    """How positions are found and weighed; the fields are the attributes of Resize."""

    mode: Mode
    coordinates: Coordinates
    nearest: Nearest
    cubic_a: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: its two lengths, the scale between them, and the part of the input that is looked at (0..1)."""

    before: int
    after: int
    scale: np.float32
    begin: float = 0.0
    end: float = 1.0


@converter("Upsample")
def upsample(
    x: Tensor, scales: Floats, *, mode: Literal["nearest", "linear"] = "nearest"
) -> Tensor:
    """Return x enlarged by `scales`, one an axis."""
    return resize(x, to_floats(scales), mode=mode, opset=10)


@converter("Resize")
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: Coordinates = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Policy = "stretch",
    mode: Mode = "nearest",
    nearest_mode: Nearest = "round_prefer_floor",
    opset: int,
) -> Tensor:
    """Return x with other lengths of its axes, by `scales` or to `sizes`.

    Before opset 11 the second input is `scales`, coordinates are asymmetric, and "nearest" reads the next element
    behind where an axis shrinks.

    Raises:
        ValueError: unless exactly one of `scales` and `sizes` is given.
    """
    if opset < 11:
        roi, scales = None, roi
        coordinate_transformation_mode, nearest_mode = "asymmetric", "simple"
    sampling = _Sampling(
        mode=mode,
        coordinates=coordinate_transformation_mode,
        nearest=nearest_mode,
        cubic_a=cubic_coeff_a,
        antialias=bool(antialias),
        exclude_outside=bool(exclude_outside),
        extrapolation=extrapolation_value,
    )
    where = tuple(range(x.dim())) if axes is None else tuple(axis % x.dim() for axis in axes)
    lengths = [x.shape[axis] for axis in where]
    factors = () if scales is None else to_floats(scales)
    wanted = () if sizes is None else to_ints(sizes)
    plans = _plan_axes(lengths, factors, wanted, keep_aspect_ratio_policy)
    if sampling.coordinates == "tf_crop_and_resize":
        window = to_floats(roi if roi is not None else ())
        ends = zip(plans, window, window[len(where) :], strict=False)
        plans = [_Axis(plan.before, plan.after, plan.scale, low, high) for plan, low, high in ends]
    outside = x.new_zeros((1,) * x.dim(), dtype=torch.bool)
    y = x
    for axis, plan in zip(where, plans, strict=True):
        y, beyond = _resize_axis(y, axis, plan, sampling)
        outside = outside if beyond is None else outside | beyond
    return torch.where(outside, extrapolation_value, y).to(x.dtype) if outside.numel() > 1 else y


def _plan_axes(
    lengths: list[int], scales: tuple[float, ...], sizes: tuple[int, ...], policy: Policy
) -> list[_Axis]:
    if bool(scales) == bool(sizes):
        msg = "Resize needs either scales or sizes"
        raise ValueError(msg)
    if scales:
        return [
            _Axis(length, math.floor(_F32(scale) * _F32(length)), _F32(scale))
            for length, scale in zip(lengths, scales, strict=True)
        ]
    ratios = [_F32(size) / _F32(length) for length, size in zip(lengths, sizes, strict=True)]
    if policy == "stretch":
        return [_Axis(*item) for item in zip(lengths, sizes, ratios, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [
        _Axis(length, math.floor(ratio * _F32(length) + _F32(0.5)), ratio) for length in lengths
    ]


def _resize_axis(
    x: Tensor, axis: int, plan: _Axis, sampling: _Sampling
) -> tuple[Tensor, Tensor | None]:
    """Return x resized along `axis`, and which positions of the result lie outside the input, or None."""
    is_cropped = sampling.coordinates == "tf_crop_and_resize"
    if plan.before == plan.after and plan.scale == 1 and not is_cropped:
        return x, None
    position = _find_positions(plan, sampling.coordinates)
    if sampling.mode == "nearest":
        index = np.clip(_round(position, plan, sampling.nearest), 0, plan.before - 1)
        y = x.index_select(axis, torch.from_numpy(index.astype(np.int64)).to(x.device))
    else:
        indices, weights = _find_taps(position, plan, sampling)
        y = _sum_taps(x, axis, indices, weights)
    if not is_cropped:
        return y, None
    beyond = torch.from_numpy((position < 0) | (position > plan.before - 1)).to(x.device)
    return y, beyond.reshape([-1 if item == axis else 1 for item in range(x.dim())])


def _find_positions(plan: _Axis, coordinates: Coordinates) -> _Array:
    """Return where in the input each position of the result lies, [after] float32. Source: ONNX Resize."""
    out = np.arange(plan.after, dtype=np.float32)
    last, last_out = _F32(plan.before - 1), _F32(plan.after - 1)
    begin, end = _F32(plan.begin), _F32(plan.end)
    found: _Array = (out + _F32(0.5)) / plan.scale - _F32(0.5)
    if coordinates == "asymmetric":
        found = out / plan.scale
    elif coordinates == "tf_half_pixel_for_nn":
        found = (out + _F32(0.5)) / plan.scale
    elif coordinates == "tf_crop_and_resize" and plan.after > 1:
        found = begin * last + out * (end - begin) * last / last_out
    elif coordinates == "tf_crop_and_resize":
        found = _F32(0.5) * (begin + end) * last + out
    elif coordinates == "align_corners" and plan.after > 1:
        found = out * last / last_out
    elif coordinates in {"align_corners", "pytorch_half_pixel"} and plan.after == 1:
        found = out
    elif coordinates == "half_pixel_symmetric":
        rest = _F32(1) - _F32(plan.after) / (plan.scale * _F32(plan.before))
        found = _F32(plan.before) / _F32(2) * rest + (out + _F32(0.5)) / plan.scale - _F32(0.5)
    return found


def _round(position: _Array, plan: _Axis, how: Nearest) -> _Array:
    """Return the element that each position reads. "simple" is how opset 10 reads: behind where the axis shrinks."""
    if how == "simple":
        how = "ceil" if plan.scale < 1 else "floor"
    choices = {
        "floor": np.floor(position),
        "ceil": np.ceil(position),
        "round_prefer_floor": np.ceil(position - _F32(0.5)),
        "round_prefer_ceil": np.floor(position + _F32(0.5)),
    }
    return np.asarray(choices[how])


def _find_taps(
    position: _Array, plan: _Axis, sampling: _Sampling
) -> tuple[NDArray[np.int64], _Array]:
    """Return the positions that each position of the result reads, and their weights, both [taps, after]."""
    shrink = float(plan.scale) if sampling.antialias and plan.scale < 1 else 1.0
    reach = 1.0 if sampling.mode == "linear" else 2.0
    count = math.ceil(reach / shrink)
    steps = np.arange(1 - count, 1 + count)[:, None]
    index = np.floor(position).astype(np.int64) + steps
    distance = np.abs(index - position) * _F32(shrink)
    is_linear = sampling.mode == "linear"
    weights = np.clip(1 - distance, 0, 1) if is_linear else _weigh_cubic(distance, sampling.cubic_a)
    if sampling.exclude_outside:
        weights = np.where((index >= 0) & (index < plan.before), weights, 0)
    if sampling.exclude_outside or shrink < 1:
        weights = weights / weights.sum(0)
    return np.clip(index, 0, plan.before - 1), weights.astype(np.float32)


def _weigh_cubic(distance: _Array, a: float) -> _Array:
    """Return the weights of cubic convolution. Source: Keys 1981, equation 4, with ONNX's `cubic_coeff_a`."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0)).astype(np.float32)


def _sum_taps(x: Tensor, axis: int, indices: NDArray[np.int64], weights: _Array) -> Tensor:
    shape = [-1 if item == axis else 1 for item in range(x.dim())]
    terms = (
        x.index_select(axis, torch.from_numpy(index).to(x.device))
        * torch.from_numpy(weight).to(x.device, x.dtype).reshape(shape)
        for index, weight in zip(indices, weights, strict=True)
        if weight.any()
    )
    return sum(terms, start=torch.zeros((), dtype=x.dtype, device=x.device))
