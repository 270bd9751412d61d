"""Weights packed as 16-bit numbers, two to a 32-bit word."""

import numpy as np
import pytest

from levit_np.inference.packing import key_size, nested, to_bfloat16


def widened(words):
    """What the kernels read from a word: the first number with zeros appended, and the whole word as the second
    number."""
    first = words[..., 0].astype(np.uint32) << 16
    return np.stack([first.view(np.float32), np.ascontiguousarray(words).view("<f4")[..., 0]], -1)


def test_a_bfloat16_is_the_nearest_one():
    """Ties are rounded to the even one."""
    bits = np.array([0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF818000, 0x3FFF8000], np.uint32)
    assert list(to_bfloat16(bits.view(np.float32))) == [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF82, 0x4000]


def test_nested_numbers_are_as_near_as_rounded_ones():
    """Within half a unit of the last of 8 bits; the first number is exactly bfloat16's."""
    rng = np.random.default_rng(0)
    pairs = (rng.standard_normal((1000, 2)) * 10.0 ** rng.integers(-20, 20, (1000, 2))).astype(np.float32)
    words = nested(pairs)
    assert np.array_equal(words[:, 0], to_bfloat16(pairs)[:, 0])
    found = widened(words).astype(float)
    last = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(pairs), np.abs(found)))) - 7)
    error = (found - pairs) / last
    assert (0.45 < np.abs(error).max(0)).all() and (np.abs(error) <= 0.5).all()
    assert (np.abs(error.mean(0)) < 0.03).all()  # errors of both signs are as frequent, so sums do not drift


def test_nested_numbers_are_never_denormal_and_keep_their_sign():
    """Zeros and tiny numbers become about 10^-30, whatever the other number is: no denormal numbers, which are slow."""
    small = np.array([0, -0.0, 1e-45, -1e-40, 1e-38, -1e-35, 7e-31], np.float32)
    for beside in (0, 1, -1, 3e38, -1.5):
        found = widened(nested(np.stack([np.full_like(small, beside), small], -1)))[:, 1]
        assert (np.abs(found) < 1.7e-30).all() and (np.abs(found) >= 2.0**-100).all()
        assert np.array_equal(np.signbit(found), np.signbit(small))


def test_zeros_may_be_first():
    assert np.array_equal(widened(nested(np.array([[0, 1], [0, -1]], np.float32))), [[0, 1], [0, -1]])


@pytest.mark.parametrize("width", [16, 32])
def test_a_head_has_no_more_columns_than_fill_panels_or_divide_one(width):
    for key in range(1, 200):
        assert key_size(key, width) == next(size for size in range(16, 300, 16) if size >= key
                                            and (size % width == 0 or width % size == 0)), key
