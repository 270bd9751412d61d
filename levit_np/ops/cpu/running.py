"""What the wrappers of training's kernels share: arrays as the kernels take them, scratch memory,
one call for a few steps."""

import threading
from array import array
from math import prod

import numpy as np

from . import training_step as step
from .library import library
from .threads import run_with_threads, threads

ONE = np.ones(1, np.float32)
LINE = 64  # bytes of a cache line
LARGE = 2 << 20  # bytes of a result: an L2 cache
_kept = threading.local()


def fits(*arrays) -> bool:
    """Whether the kernels take all of these: float32 of this machine's byte order, aligned, not empty."""
    return all(isinstance(a, np.ndarray) and a.dtype == np.float32 and a.dtype.isnative and a.flags.aligned and a.size
               for a in arrays)


def rows_of(x, axis=-1):
    """x as a contiguous array (…, channels), a copy where it is not one."""
    return np.ascontiguousarray(x if axis == -1 else np.moveaxis(x, axis, -1))


def channels_at(rows, axis=-1):
    """The inverse: what stands last is the axis again."""
    return rows if axis == -1 else np.moveaxis(rows, -1, axis)


def whole(columns: int) -> int:
    """Columns padded to the kernels' smallest panel."""
    return -(-columns // 16) * 16


def empty(*shape) -> np.ndarray:
    """float32, whatever was there, from the start of a cache line on."""
    count = prod(shape)
    memory = np.empty(count + LINE // 4, np.float32)
    start = -memory.ctypes.data % LINE // 4
    return memory[start : start + count].reshape(shape)


def past_caches(y, channels=16) -> bool:
    """Whether y, of empty, is better written past the caches: it would not stay there until it is read, and what is
    there need not be read first.  Rows of channels must then begin where vectors do."""
    return y.nbytes >= LARGE and channels % 16 == 0


def scratch(size: int) -> tuple[int, int]:
    """(address, bytes a thread): at least `size` bytes for each thread of a call, kept for this caller's next."""
    size = -(-size // 64) * 64
    total = size * threads() + 64
    if getattr(_kept, "size", 0) < total:
        _kept.memory, _kept.size = np.empty(total, np.uint8), total
        _kept.address = _kept.memory.ctypes.data + -_kept.memory.ctypes.data % 64
    return _kept.address, size


def run(*steps) -> None:
    """Each step: a kind and what stands in its columns."""
    numbers = []  # of Python's: a step has few, and an array takes each of them on its own
    for kind, columns in steps:
        row = [kind] + [0] * (step.COLUMNS - 1)
        for column, value in columns.items():
            row[column] = value
        numbers += row
    table = array("q", numbers)
    kernels, address, count = library("training_kernels"), table.buffer_info()[0], threads()
    run_with_threads(lambda thread, counter: kernels.run(address, 0, len(steps), thread, count, counter), count)
