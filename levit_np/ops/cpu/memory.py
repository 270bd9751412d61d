"""Aligned memory for the kernels, cut from large blocks that the system can back with large pages."""

import ctypes
import mmap
from contextlib import suppress

import numpy as np

BLOCK = 1 << 24  # bytes of a block; large enough for large pages
PAGE = 1 << 21  # bytes of such a page
ALIGNMENT = 64  # a cache line, and the widest vector
SLACK = 1 << 18  # behind a block: AMX tiles read, and do not use, up to 31 rows beyond the last, of at most 8 KiB


class Pieces:
    """numbers(count, dtype) -> a new zeroed array whose address is a multiple of 64. A block goes back to the system
    together with the last array in it."""

    def __init__(self):
        self._block, self._at, self._end = None, 0, 0  # the rest of the current block

    def numbers(self, count: int, dtype=np.float32) -> np.ndarray:
        size = -(-count * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        block, at, end = self._block, self._at, self._end
        if size > end - at:
            block = _block(-(-(max(size, BLOCK) + SLACK) // PAGE) * PAGE)
            at, end = 0, len(block) - SLACK
        if block is self._block or end - at - size > self._end - self._at:  # go on with the block that has more left
            self._block, self._at, self._end = block, at + size, end
        return np.frombuffer(block, dtype, count, at)


class Arena(Pieces):
    """Pieces whose arrays live as long as it does."""

    def __init__(self):
        super().__init__()
        self._kept = []

    def numbers(self, count: int, dtype=np.float32) -> np.ndarray:
        self._kept.append(super().numbers(count, dtype))
        return self._kept[-1]


def trim_heap():
    """Returns to the system what malloc keeps for later: after large arrays are freed it may be twice the largest."""
    with suppress(AttributeError, OSError, TypeError):  # a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _block(size: int) -> mmap.mmap:
    """Zeroed memory straight from the system, and returned to it: malloc would keep it for later. Raises MemoryError.
    """
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"{size >> 20} MiB for a network's weights or buffers: {error.strerror}") from None
    with suppress(AttributeError, OSError):  # a system or kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
