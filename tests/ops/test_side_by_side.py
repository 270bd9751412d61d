"""Recognising parts that lie side by side in one array: the array is found where it is one, and nothing else is."""

import numpy as np
import pytest

from levit_np.ops import reference
from levit_np.ops.side_by_side import whole_of

SHAPE, HEADS, SIZES = (2, 5, 14), 2, (2, 2, 3)  # (B, N, heads·Σsizes)
NUMBERS = np.arange(140.0)


def split(x):
    return list(reference.split_heads(x.reshape(SHAPE), HEADS, SIZES))


def within(more):
    """The numbers in the middle of an array."""
    x = np.zeros(140 + 2 * more)
    x[more : 140 + more] = NUMBERS
    return x[more : 140 + more]


def column():
    """The first column of an array that is stored by columns: its rows would give other numbers."""
    x = np.zeros((140, 3), order="F")
    x[:, 0] = NUMBERS
    return x[:, 0]


def in_bytes():
    """In memory of another type, as a pool may hand it out."""
    x = np.zeros(140 * 8, np.uint8)
    x.view(float)[:] = NUMBERS
    return x.view(float)


def of_a_buffer():
    """Views of memory that is no array."""
    buffer = bytearray(NUMBERS.tobytes())
    return [np.ndarray(p.shape, float, buffer, p.ctypes.data - NUMBERS.ctypes.data, p.strides) for p in split(NUMBERS)]


@pytest.mark.parametrize("parts, found", [
    (split(NUMBERS.copy()), True), (split(within(7)), True), (split(column()), False), (split(in_bytes()), False),
    (of_a_buffer(), False), ([part.copy() for part in split(NUMBERS)], False), (split(NUMBERS.copy())[::-1], False),
    (split(NUMBERS.copy())[1:], False), ([*split(NUMBERS.copy())[:2], split(NUMBERS.copy())[2]], False)],
    ids=["an array", "a part of one", "a column", "bytes", "a buffer", "copies", "reversed", "some", "of two arrays"])
def test_an_array_is_found_where_the_parts_are_all_of_it(parts, found):
    whole = whole_of(parts, lambda array: array.ctypes.data)
    assert (whole is not None) == found
    if found:
        assert np.array_equal(whole, reference.split_heads_backward(parts)) and np.shares_memory(whole, parts[0])
