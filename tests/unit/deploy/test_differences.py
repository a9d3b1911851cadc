from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.differences import SQNR_LIMIT_DB, Difference
from edgeq.core.errors import InputError, NumericsError
from edgeq.core.numerics import sqnr_db


@given(st.integers(0, 2**32 - 1), st.integers(1, 19))
def test_batches_add_up_to_the_figure_of_the_whole(seed, cut):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((20, 7)).astype(np.float32)
    b = a + rng.normal(0, 0.1, a.shape).astype(np.float32)
    difference = Difference("t")
    difference.add(a[:cut], b[:cut])
    difference.add(a[cut:], b[cut:])
    assert difference.sqnr_db == pytest.approx(sqnr_db(a, b), abs=1e-4)
    assert difference.max_abs == np.abs(a.astype(float) - b).max()
    cosine = float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert difference.cosine == pytest.approx(cosine, abs=1e-6)


def test_equal_tensors_have_the_limit():
    difference = Difference("t")
    difference.add(np.ones(3, np.float32), np.ones(3, np.float32))
    assert (difference.sqnr_db, difference.cosine) == (SQNR_LIMIT_DB, 1.0)


def test_noise_without_signal_has_the_lower_limit():
    difference = Difference("t")
    difference.add(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert (difference.sqnr_db, difference.cosine) == (-SQNR_LIMIT_DB, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_names_the_tensor(value):
    with pytest.raises(NumericsError, match="'conv1' has NaN or infinity"):
        Difference("conv1").add(np.ones(1, np.float32), np.full(1, value, np.float32))


def test_two_shapes_are_refused():
    with pytest.raises(InputError, match="'t' has two shapes"):
        Difference("t").add(np.ones((2, 1)), np.ones((2, 2)))
