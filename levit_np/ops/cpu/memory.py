"""Aligned memory for the kernels, handed out in pieces of large blocks that are kept as long as the arena."""

import ctypes
import mmap
from contextlib import suppress

import numpy as np

BLOCK = 1 << 24  # bytes; large enough for the system to map it in large pages
PAGE = 1 << 21  # bytes of such a page
ALIGNMENT = 64  # a cache line, and the widest vector
SLACK = 1 << 18  # behind a block: AMX tiles read, and do not use, up to 31 rows behind the last, of 8 KiB at most


class Arena:
    """numbers(count, dtype) -> a zeroed array of its own, at an address that is a multiple of 64."""

    def __init__(self):
        self._blocks, self._free = [], np.empty(0, np.uint8)

    def numbers(self, count: int, dtype=np.float32) -> np.ndarray:
        size = -(-count * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        free = self._free
        if size > free.size:
            block = _block(-(-(max(size, BLOCK) + SLACK) // PAGE) * PAGE)
            self._blocks.append(block)
            free = block[: block.size - SLACK]
        piece, rest = free[:size], free[size:]
        if free is self._free or rest.size > self._free.size:  # of two blocks, what is left of one is given up
            self._free = rest
        return piece[: count * np.dtype(dtype).itemsize].view(dtype)


def give_back():
    """Gives the system what malloc keeps for later: after the freeing of large arrays it may be twice the largest."""
    with suppress(AttributeError, OSError, TypeError):  # of another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _block(size):
    """Zeros, from the system itself and given back to it: malloc would keep them among its own for later.  Raises
    MemoryError."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"{size >> 20} MiB for a network's weights or buffers: {error.strerror}") from None
    with suppress(AttributeError, OSError):  # of a system, or a kernel, without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
