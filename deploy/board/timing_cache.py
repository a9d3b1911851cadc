"""The timing cache: what TensorRT measured of its kernels, so that the next build is faster and chooses the same."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from edgeq.core.errors import DeviceError, InputError
from edgeq.core.files import write_bytes

if TYPE_CHECKING:
    import tensorrt


_log = logging.getLogger(__name__)


def load_timing_cache(config: "tensorrt.IBuilderConfig", path: Optional[Path]) -> None:
    """Give `config` the cache in `path`, or an empty one if there is no such file.

    Raises:
        InputError: if the cache belongs to another GPU or TensorRT; it is not overwritten.
    """
    data = path.read_bytes() if path is not None and path.is_file() else b""
    cache = config.create_timing_cache(data)
    # The second argument is ignore_mismatch.
    if cache is None or not config.set_timing_cache(cache, False):
        raise InputError(
            "the timing cache cannot be used",
            why="it is broken, or was made by another TensorRT or on another GPU",
            mend="remove the file, or pass another --timing-cache",
            path=path,
        )


def save_timing_cache(config: "tensorrt.IBuilderConfig", path: Optional[Path]) -> str:
    """Write the cache of `config` to `path`, if one is given, atomically; return its SHA-256.

    One that cannot be written is a warning: the engine is built, and worth more.

    Raises:
        DeviceError: if TensorRT gives none.
    """
    cache = config.get_timing_cache()
    if cache is None:
        raise DeviceError(
            "TensorRT has no timing cache after the build",
            why="it was given one before",
            mend="build again without --timing-cache",
        )
    data = bytes(cache.serialize())
    if path is not None:
        try:
            write_bytes(path, data)
        except InputError as error:
            _log.warning("the timing cache is not kept, the next build takes as long: %s", error)
    return hashlib.sha256(data).hexdigest()
