"""Weights of 16 bits, two of which share a word."""

import numpy as np
import pytest

from levit_np.inference.packing import key_size, nested, to_bfloat16


def widened(words):
    """What the kernels make of nested pairs: the first with zeros behind it, the whole word."""
    first = words[..., 0].astype(np.uint32) << 16
    return np.stack([first.view(np.float32), np.ascontiguousarray(words).view("<f4")[..., 0]], -1)


def test_a_bfloat16_is_the_nearest_one():
    """Of two as near, the even one."""
    bits = np.array([0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF818000, 0x3FFF8000], np.uint32)
    assert list(to_bfloat16(bits.view(np.float32))) == [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF82, 0x4000]


def test_nested_numbers_are_as_near_as_rounded_ones():
    """Half of the last of what they become's 8 bits; the first is bfloat16's own."""
    rng = np.random.default_rng(0)
    pairs = (rng.standard_normal((1000, 2)) * 10.0 ** rng.integers(-20, 20, (1000, 2))).astype(np.float32)
    words = nested(pairs)
    assert np.array_equal(words[:, 0], to_bfloat16(pairs)[:, 0])
    found = widened(words).astype(float)
    last = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(pairs), np.abs(found)))) - 7)
    error = (found - pairs) / last
    assert (0.45 < np.abs(error).max(0)).all() and (np.abs(error) <= 0.5).all()
    assert (np.abs(error.mean(0)) < 0.03).all()  # as often above as below: what is added up does not drift


def test_nothing_nested_is_slow_or_of_another_sign():
    """A zero or a number that is hardly one becomes some 10^-30, whatever lies beside it: no processor hesitates."""
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
