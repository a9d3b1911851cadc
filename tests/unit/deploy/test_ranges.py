from __future__ import annotations

import numpy as np
import pytest

from deploy.onnxrt import run_onnx
from deploy.ranges import measure_amax
from edgeq.core.errors import NumericsError


def test_the_largest_value_of_inputs_and_tensors_is_found(teacher, samples):
    found = measure_amax(teacher, ["x", "r1"], samples, count=5)
    feed = samples.feed(slice(5))
    assert found["x"] == np.abs(feed["x"]).max()
    want = run_onnx(teacher, feed, outputs=["r1"])["r1"]
    assert found["r1"] == pytest.approx(float(np.abs(want).max()))


def test_a_tensor_without_a_range_is_named(teacher, samples):
    samples.samples[2, 0, 0, 0] = np.inf
    with pytest.raises(NumericsError, match="'x' has NaN or infinity"):
        measure_amax(teacher, ["x"], samples, count=5)


def test_minus_infinity_of_a_mask_does_not_count(teacher, samples):
    want = measure_amax(teacher, ["x"], samples, count=5)
    samples.samples[2, 0, 0, 0] = -np.inf
    found = measure_amax(teacher, ["x"], samples, count=5)
    assert 0 < found["x"] <= want["x"]
