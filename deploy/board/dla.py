"""Engines for DLA by implicit quantization: TensorRT 8.5 to 10.7, before the calibrators were taken away.

Source: deployment/tensorrt.md 3.5, 4.1, 6. Unverified on hardware.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional, Tuple

from edgeq.core.errors import InputError

if TYPE_CHECKING:
    import tensorrt


DEVICES = ("gpu", "dla0", "dla1")


def choose_core(asked: Optional[str], engine: Mapping[str, Any]) -> Optional[int]:
    """Return the DLA core that an engine is built for, None for the GPU alone.

    Args:
        asked: one of `DEVICES`; None for what the bundle was made for.
        engine: of bundle.json.

    Raises:
        InputError: if the bundle has nothing for DLA.
    """
    device = asked or ("dla0" if "dla" in engine else "gpu")
    if device == "gpu":
        return None
    if "dla" not in engine:
        raise InputError(
            f"--device {device} with a bundle for the GPU",
            why="DLA needs a float model and a calibration cache, which this bundle does not have",
            mend="make the bundle with `edgeq build --dla`, or leave --device out",
        )
    return DEVICES.index(device) - 1


def use_dla(
    trt: Any, config: "tensorrt.IBuilderConfig", *, core: int, cache: Path
) -> Tuple[str, ...]:
    """Let DLA core `core` run what it can with the ranges of a cache, and the GPU the rest; return the flags set.

    The caller sets INT8 and FP16. What it gives to `config` has to live as long as that.
    """
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    config.int8_calibrator = make_calibrator(trt, cache.read_bytes())
    return ("GPU_FALLBACK",)


def make_calibrator(trt: Any, data: bytes) -> Any:
    """Return a calibrator that knows the ranges of a cache and has no data."""

    class CacheReader(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)  # without it the process dies

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Any) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return data

        def write_calibration_cache(self, cache: Any) -> None:
            return None

    return CacheReader()
