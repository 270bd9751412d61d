"""Numbers as they are packed into the page: rounded to the promised digits, and special values kept."""

import numpy as np
import pytest

from levit_np.explain.page.packing import pack, unpack


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 3e-7, 0.02, 1, 730, 2e9, 1e30])
def test_packed_numbers_are_rounded_right(scale, floating):
    array = (np.random.default_rng(0).standard_normal((7, 11)) ** 5 * scale).astype(np.float32)
    found = unpack(pack(array, (None, [1, 4, 10]), 4, floating=floating))
    expected = array[:, [1, 4, 10]].astype(np.float64)
    of = np.abs(expected) if floating else np.abs(expected).max()
    assert (np.abs(found - expected) <= 0.5 * 10.0 ** (np.floor(np.log10(of)) - 3) * (1 + 1e-9)).all()


@pytest.mark.parametrize("floating", [False, True])
def test_packed_numbers_that_are_special(floating):
    array = np.array([np.nan, np.inf, -np.inf, 0.0, -1.25, 9.999, 1e-45])
    expected = [np.nan, np.inf, -np.inf, 0, -1.25, 10, 1e-45 if floating else 0]
    assert np.array_equal(unpack(pack(array, digits=3, floating=floating)), expected, equal_nan=True)
    assert np.array_equal(unpack(pack(np.zeros(3), floating=floating)), np.zeros(3))
