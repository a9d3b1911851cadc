"""The one definition of quantize, dequantize, range to scale, and 4-bit packing. Numpy only.

Fixed choices: symmetric grids, zero point 0, divide by the scale, round half to even, saturate. Torch, ONNX Runtime
and TensorRT are tested against this file. Source: ONNX QuantizeLinear / DequantizeLinear; TensorRT explicit
quantization.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.core.errors import NumericsError

Floats = NDArray[np.float32]

# The smallest scale that is written: the smallest normal float32, so that no runtime flushes it to zero.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def code_range(bits: int, *, signed: bool = True, narrow: bool = False) -> tuple[int, int]:
    """Return the lowest and the highest integer code of a grid.

    Args:
        bits: width, 2..8.
        signed: two's complement if true, else 0..2^bits-1.
        narrow: leave the lowest signed code unused, so that the range is symmetric (weights).

    Raises:
        NumericsError: if `bits` is out of range.

    Example:
        >>> code_range(4, narrow=True)
        (-7, 7)
        >>> code_range(4, signed=False)
        (0, 15)
    """
    if not 2 <= bits <= 8:
        raise NumericsError(
            f"no grid of {bits} bits, {'signed' if signed else 'unsigned'}",
            why="codes travel in containers of 8 bits: grids have 2..8 bits",
            mend="choose another width",
        )
    if not signed:
        return 0, 2**bits - 1
    high = 2 ** (bits - 1) - 1
    return (-high if narrow else -high - 1), high


def along_axis(scale: NDArray[np.floating], ndim: int, axis: int) -> NDArray[np.floating]:
    """Return a per-channel scale [C] shaped to broadcast over `axis` of an `ndim`-d array; a scalar stays one."""
    if scale.ndim == 0:
        return scale
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)


def quantize(
    x: NDArray[np.floating], scale: NDArray[np.floating], *, low: int, high: int, axis: int = 0
) -> NDArray[Any]:
    """Return the codes of `x`: saturate(round_half_even(x / scale)).

    Args:
        x: any shape, float32.
        scale: [] or [C] along `axis`, float32, > 0.
        low: lowest code, >= -128.
        high: highest code, <= 127, or <= 255 with `low` 0.
        axis: the channel axis of a per-channel scale.

    Returns:
        int8, or uint8 where `high` is above 127; shape of `x`.
    """
    steps = np.asarray(x, np.float32) / along_axis(np.asarray(scale, np.float32), np.ndim(x), axis)
    return np.clip(np.rint(steps), low, high).astype(np.int8 if high <= 127 else np.uint8)


def dequantize(codes: NDArray[np.integer], scale: NDArray[np.floating], *, axis: int = 0) -> Floats:
    """Return `codes * scale` in float32; `scale` as in `quantize`."""
    return codes.astype(np.float32) * along_axis(
        np.asarray(scale, np.float32), codes.ndim, axis
    ).astype(np.float32)


def choose_scale(amax: NDArray[np.floating] | float, *, high: int) -> Floats:
    """Return the step size at which `amax` gets the code `high`.

    Args:
        amax: [] or [C], largest absolute value; zero marks a dead channel, which gets the scale 1.
        high: highest code of the grid.

    Returns:
        shape of `amax`, float32, > 0.

    Raises:
        NumericsError: if `amax` has NaN, infinity or a negative value.

    Example:
        >>> float(choose_scale(2.54, high=127))
        0.019999999552965164
    """
    amax = np.asarray(amax, np.float32)
    if not np.all(np.isfinite(amax)) or np.any(amax < 0):
        raise NumericsError(
            f"a range of {amax.min() if amax.size else 'no'} .. {amax.max() if amax.size else 'values'} has no scale",
            why="the largest absolute value of a tensor must be finite and not negative",
            mend="look for NaN or infinity in the model's weights and in the sample set",
        )
    scale = np.where(
        amax > 0, np.maximum(amax / np.float32(high), SMALLEST_SCALE), np.float32(1)
    ).astype(np.float32)
    return np.asarray(scale, np.float32)


def bias_codes(
    bias: NDArray[np.floating], activation: NDArray[np.floating], weight: NDArray[np.floating]
) -> NDArray[np.int32]:
    """Return the codes of a bias in the unit of the accumulator, activation scale x weight scale.

    Args:
        bias: [K].
        activation: [], the scale of the layer's input.
        weight: [] or [K], the scale of its weight.

    Returns:
        [K], int32, saturated.

    Source: ONNX QLinearConv, input B.
    """
    steps = np.asarray(bias, np.float64) / accumulator_scale(activation, weight)
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(steps), limits.min, limits.max).astype(np.int32)


def accumulator_scale(
    activation: NDArray[np.floating], weight: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return activation scale x weight scale in float32: [] or [K], at least `SMALLEST_SCALE`."""
    product = np.asarray(activation, np.float32) * np.asarray(weight, np.float32)
    return np.asarray(np.maximum(product, np.float32(SMALLEST_SCALE)), np.float32)


def largest_scale(limit: float, *, high: int) -> Floats:
    """Return the largest scale at which the code `high` does not stand for more than `limit`, [], float32."""
    scale = np.float32(limit / high)
    if np.float32(high) * scale > np.float32(limit):
        scale = np.nextafter(scale, np.float32(0))
    return np.asarray(scale, np.float32)


def pack_int4(codes: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return signed 4-bit codes packed two a byte, the first in the low nibble, row-major (ONNX INT4).

    Args:
        codes: any shape, values -8..7; an odd count is padded with 0.

    Raises:
        NumericsError: if a code is outside -8..7.
    """
    flat = np.asarray(codes).reshape(-1)
    if flat.size and (flat.min() < -8 or flat.max() > 7):
        raise NumericsError(
            f"codes {flat.min()}..{flat.max()} do not fit 4 bits",
            why="a signed 4-bit code is -8..7",
            mend="clip the codes to the grid before packing",
        )
    nibbles = (flat.astype(np.int16) & 0xF).astype(np.uint8)
    nibbles = np.pad(nibbles, (0, nibbles.size % 2))
    return (nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8)


def unpack_int4(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """Return the first `count` signed codes of `packed`, [count], int8."""
    nibbles = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)[:count].astype(np.int8)
    return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8)


def sqnr_db(reference: NDArray[np.floating], measured: NDArray[np.floating]) -> float:
    """Return 10 log10(signal power / error power) in dB; infinite for equal arrays."""
    reference = np.asarray(reference, np.float64)
    error = float(np.sum((reference - np.asarray(measured, np.float64)) ** 2))
    signal = float(np.sum(reference**2))
    if error == 0:
        return float("inf")
    return float(10 * np.log10(signal / error)) if signal > 0 else float("-inf")
