"""Aligned memory for the kernels, handed out in pieces of large blocks, for which the system has large pages."""

import ctypes
import mmap
from contextlib import suppress

import numpy as np

BLOCK = 1 << 24  # bytes; large enough for the system to map it in large pages
PAGE = 1 << 21  # bytes of such a page
ALIGNMENT = 64  # a cache line, and the widest vector
SLACK = 1 << 18  # behind a block: AMX tiles read, and do not use, up to 31 rows behind the last, of 8 KiB at most


class Pieces:
    """numbers(count, dtype) -> a zeroed array of its own, at an address that is a multiple of 64.  A block goes back to
    the system with the last array in it."""

    def __init__(self):
        self._block, self._at, self._end = None, 0, 0  # what is free

    def numbers(self, count: int, dtype=np.float32) -> np.ndarray:
        size = -(-count * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        block, at, end = self._block, self._at, self._end
        if size > end - at:
            block = _block(-(-(max(size, BLOCK) + SLACK) // PAGE) * PAGE)
            at, end = 0, len(block) - SLACK
        if block is self._block or end - at - size > self._end - self._at:  # what is left of one of two is given up
            self._block, self._at, self._end = block, at + size, end
        return np.frombuffer(block, dtype, count, at)


class Arena(Pieces):
    """All of whose arrays are kept as long as it is."""

    def __init__(self):
        super().__init__()
        self._kept = []

    def numbers(self, count: int, dtype=np.float32) -> np.ndarray:
        self._kept.append(super().numbers(count, dtype))
        return self._kept[-1]


def give_back():
    """Gives the system what malloc keeps for later: after the freeing of large arrays it may be twice the largest."""
    with suppress(AttributeError, OSError, TypeError):  # of another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _block(size: int) -> mmap.mmap:
    """Zeros, from the system itself and given back to it: malloc would keep them among its own for later.  Raises
    MemoryError."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"{size >> 20} MiB for a network's weights or buffers: {error.strerror}") from None
    with suppress(AttributeError, OSError):  # of a system, or a kernel, without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
