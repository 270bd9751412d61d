"""How the executors' tensors lay out their columns: an array with the true column in each place, -1 where there is
none, but a zero. On the cpu, how weights are packed accordingly.

There each row is padded to whole vectors. What attention reads lies in panels of `width` columns, with each head's
columns padded so that a head fills whole panels or a panel holds whole heads."""

from typing import NamedTuple

import numpy as np

GRAIN = 16  # columns are padded to a multiple of this: the narrowest panel of any instruction set
HALF_GRAIN = 32  # or of this, where they are terms of a bfloat16 product: a row of an AMX tile register


def round_up(count: int, grain: int) -> int:
    """The least multiple of grain that is at least count."""
    return -(-count // grain) * grain


def key_size(key: int, width: int) -> int:
    """Columns of a head in q and k: whole vectors that divide a panel, or whole panels."""
    return round_up(key, width) if key > width else max(GRAIN, 1 << (key - 1).bit_length())


def plain_columns(count: int, grain: int) -> np.ndarray:
    """The true columns, padded to whole grains."""
    return np.concatenate([np.arange(count), np.full(round_up(count, grain) - count, -1)])


def head_columns(heads: int, size: int, to: int, grain: int, start: int = 0) -> np.ndarray:
    """heads · size true columns from `start` on, each head padded to `to`, all together to whole grains."""
    columns = np.full((heads, to), -1)
    columns[:, :size] = start + np.arange(heads * size).reshape(heads, size)
    return np.concatenate([columns.ravel(), np.full(round_up(heads * to, grain) - heads * to, -1)])


class Panels(NamedTuple):
    """A packed weight.  panel: bytes of a panel; full: how many; tail: 1 if a narrow one follows; pairs: whether a
    number has 16 bits."""

    address: int
    panel: int
    full: int
    tail: int
    bias: int
    pairs: bool


def pack(arena, weight, bias, width, rows, columns, pairs=None) -> Panels:
    """weight (O, K), bias (O,) -> panels. `columns` picks from the O outputs, `rows` from the K terms (-1: zero). A
    panel is (terms, width) of float32; or (terms / 2, width, 2) of what `pairs`, to_bfloat16 or nested, makes of two
    terms."""
    terms, outputs = len(rows), len(columns)
    full, rest = divmod(outputs, width)
    together = 2 if pairs else 1
    target = arena.numbers(terms * outputs, np.uint16 if pairs else np.float32)
    chosen = spread(spread(weight, columns, 0), rows)  # (outputs, terms)
    chosen = chosen.reshape(outputs, terms // together, together)
    if pairs:
        chosen = pairs(chosen)
    for start, panels, wide in ((0, full, width), (full * width, int(rest > 0), rest)):
        part = target[start * terms : (start + panels * wide) * terms]
        part.reshape(panels, terms // together, wide, together)[...] = chosen[start : start + panels * wide].reshape(
            panels, wide, terms // together, together).swapaxes(1, 2)
    shift = arena.numbers(outputs)
    shift[...] = spread(bias, columns)
    return Panels(target.ctypes.data, terms * width * target.itemsize, full, int(rest > 0), shift.ctypes.data,
                  bool(pairs))


def to_bfloat16(array):
    """The upper half of float32's bits, rounded to even, as uint16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def nested(pairs):
    """Pairs of float32 (…, 2) -> uint16 (…, 2), from which at most one instruction makes float32 again (load_widened).

    The first is rounded to bfloat16; shifting it left by 16 bits makes a float32. The second is read as the float32
    whose upper half it is and whose lower half is the first, as both lie in memory, and it is chosen so that this comes
    nearest: like the first's, its error is at most half the last of 8 bits. But it is never nearer to 0 than 2⁻¹⁰⁰:
    processors are slow with denormal numbers."""
    halves = to_bfloat16(pairs)
    bits = np.ascontiguousarray(pairs[..., 1], np.float32).view(np.int32)
    size = (bits & 0x7FFFFFFF) - halves[..., 0] + 0x8000 >> 16
    halves[..., 1] = (bits >> 16 & 0x8000) | np.maximum(size, 27 << 7)
    return halves


def spread(array, columns, axis=-1):
    """`array` with an axis laid out as `columns` says; itself if that changes nothing."""
    if np.array_equal(columns, np.arange(array.shape[axis])):
        return array
    taken = array.take(np.maximum(columns, 0), axis)
    missing = [slice(None)] * array.ndim
    missing[axis] = columns < 0
    taken[tuple(missing)] = 0
    return taken
