from __future__ import annotations

import struct

import numpy as np
import pytest

from deploy.calibration_cache import load_cache, read_cache, write_cache
from edgeq.core.errors import InputError


def test_a_cache_that_tensorrt_wrote_is_read_and_written_again_as_it_was():
    # Two lines of cuDLA-samples' qat2ptq.cache (deployment/tensorrt.md 6); the first scale is about 1/127.
    text = (
        b"TRT-8501-EntropyCalibration2\nimages: 3c00f9f4\n/layer1/conv1/Conv_output_0: 3d600600\n"
    )
    header, scales = read_cache(text)
    assert header == "TRT-8501-EntropyCalibration2"
    assert scales["images"] == pytest.approx(1 / 127, rel=1e-3)
    assert write_cache(scales, (8, 5, 1)) == text


@pytest.mark.parametrize(
    ("version", "number"), [((8, 5, 2), "8502"), ((8, 6), "8600"), ((10, 3), "100300"), ((10, 7, 1), "100701")]
)  # fmt: skip
def test_the_header_has_the_version_as_tensorrt_writes_it(version, number):
    assert read_cache(write_cache({"x": 1.0}, version))[0] == f"TRT-{number}-EntropyCalibration2"


def test_every_scale_comes_back_bit_for_bit_under_its_name():
    rng = np.random.default_rng(0)
    values = np.exp(rng.uniform(-60, 40, 500)).astype(np.float32)
    scales = {f"a:{index}: b": float(value) for index, value in enumerate(values)}
    _, found = read_cache(write_cache(scales, (10, 3)))
    assert list(found) == list(scales)
    assert np.float32(list(found.values())).tobytes() == values.tobytes()


def test_names_with_other_characters_that_end_a_line_come_back():
    scales = dict.fromkeys(("a\u2028b", "a\x0cb", "a\x85b", "a\x1cb"), 0.5)
    assert read_cache(write_cache(scales, (10, 3)))[1] == scales


def test_a_cache_with_the_line_ends_of_windows_is_read():
    assert read_cache(b"TRT-8501-E\r\nx: 3f000000\r\n") == ("TRT-8501-E", {"x": 0.5})


def test_trtexec_reads_the_eight_digits_behind_the_last_colon():
    line = write_cache({"a:b": 0.5}, (10, 3)).decode().splitlines()[1]
    name, digits = line[: line.rindex(":")], line[line.rindex(":") + 1 :].strip()[:8]
    assert name == "a:b"
    assert struct.unpack(">f", bytes.fromhex(digits)) == (0.5,)


def test_a_name_with_a_line_break_is_refused():
    with pytest.raises(InputError, match="line break"):
        write_cache({"a\nb": 1.0}, (10, 3))


@pytest.mark.parametrize(
    "data", [b"", b"x: 3c00f9f4\n", b"TRT-8501-E\nx: 3c00\n", b"TRT-8501-E\nno colon\n", b"\xff\xfe"]
)  # fmt: skip
def test_what_is_no_cache_is_refused(data):
    with pytest.raises(InputError, match="no calibration cache"):
        read_cache(data)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_cache(tmp_path / "none.cache")
