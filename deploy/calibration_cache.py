"""TensorRT's calibration cache: the ranges that implicit quantization, and so DLA, reads (TensorRT up to 10.7).

A text: a header with TensorRT's version and the algorithm, then `name: hex` a tensor. The hex digits are the float32 of
its scale, amax / 127, with the most significant byte first. It carries no weights and no zero points.
Source: deployment/tensorrt.md 6. Unverified on hardware.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from edgeq.core.errors import InputError

CACHE = "calibration.cache"
# The one that DLA takes.
_ALGORITHM = "EntropyCalibration2"


def write_cache(scales: Mapping[str, float], version: tuple[int, ...]) -> bytes:
    """Return the cache for TensorRT `version` (major, minor and, where known, patch).

    Args:
        scales: by tensor name; numbers that float32 holds.
        version: of TensorRT.

    Raises:
        InputError: if a name has a line break, which the format cannot hold.
    """
    broken = [name for name in scales if "\n" in name or "\r" in name]
    if broken:
        raise InputError(
            f"the tensor {broken[0]!r} has a line break in its name",
            why="a calibration cache has one tensor a line",
            mend="rename the tensor before export",
        )
    lines = [f"TRT-{_number(version)}-{_ALGORITHM}"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def read_cache(data: bytes) -> tuple[str, dict[str, float]]:
    """Return the header and the scale of every tensor of a cache.

    Raises:
        InputError: if it is none.
    """
    try:
        # Not splitlines, which splits at form feeds and U+2028, too, and names have those.
        header, *lines = data.decode().replace("\r\n", "\n").split("\n")
        pairs = [line.rpartition(": ") for line in lines if line]
        scales = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, _, digits in pairs}
    except (ValueError, struct.error) as error:
        raise _broken(str(error)) from error
    if not header.startswith("TRT-") or "" in scales:
        raise _broken("the first line names no TensorRT, or a line no tensor")
    return header, scales


def load_cache(path: Path) -> dict[str, float]:
    """Return the scale of every tensor of the cache in a file.

    Raises:
        InputError: if it cannot be read, or is none.
    """
    try:
        return read_cache(path.read_bytes())[1]
    except OSError as error:
        raise InputError(
            f"the calibration cache cannot be read: {error.strerror}",
            why="it holds the ranges that DLA computes with",
            mend="pass the calibration.cache of a build with --dla",
            path=path,
        ) from error


def _number(version: tuple[int, ...]) -> int:
    """Return the version as TensorRT writes it: 8502 for 8.5.2, 100300 for 10.3.0."""
    major, minor, patch = (*version, 0, 0)[:3]
    thousand = 1000 if major < 10 else 10000
    return major * thousand + minor * 100 + patch


def _broken(what: str) -> InputError:
    return InputError(
        f"this is no calibration cache: {what}",
        why="it has a header 'TRT-VERSION-ALGORITHM' and lines 'tensor: hex'",
        mend="pass the calibration.cache of a build with --dla",
    )
