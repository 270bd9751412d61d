"""A cache of memory blocks for the arrays of a training step, which the next step reuses.

A large block fresh from the system would be zeroed first, page by page: 1 to 3 % of a step."""

import threading
from sys import getrefcount

import numpy as np

from .memory import Pieces

LARGE = 512 << 10  # float32 numbers: 2 MiB
LONG = 1000  # requests for large blocks, as many as several steps make: a block idle for so long is returned


class Blocks:
    """Blocks of float32, each handed out again once no array uses its memory."""

    def __init__(self):
        self._kept, self._requests = {}, 0  # {size: blocks of that size}, each [array, its last request's number]
        self._pieces, self._others = Pieces(), Pieces()  # memory in large pages
        self._least, self._first = LARGE, None

    def block(self, count: int) -> np.ndarray:
        """`count` numbers, uninitialised. Small blocks are left to the system."""
        if count < self._least:
            return np.empty(count, np.float32)
        self._requests += 1
        if self._first is None and self._requests % LONG == 0:
            self._return_idle(self._requests - LONG)
        same = self._kept.setdefault(count, [])
        found = next((kept for kept in same if _references(kept) == IDLE), None)
        if found is None:
            found = [self._pieces.numbers(count), 0]
            same.append(found)
        found[1] = self._requests
        return found[0]

    def unshared(self, count: int) -> np.ndarray:
        """`count` numbers that are handed out only once."""
        return self._others.numbers(count)

    def take_over(self, others: "Blocks") -> None:
        """Takes all of the others' blocks."""
        self._kept, others._kept = others._kept, {}
        self._requests = max(self._requests, others._requests)

    def begin(self) -> None:
        """From here on every block is kept, however small: a recording's arrays must stay where they are."""
        self._least, self._first = 0, self._requests

    def end(self) -> None:
        """Gives up the blocks that were not requested since."""
        self._return_idle(self._first)

    def holds(self, owner) -> bool:
        """Whether that array is one of these blocks."""
        return any(kept[0] is owner for kept in self._kept.get(owner.size, ()))

    def _return_idle(self, since: int) -> None:
        for same in self._kept.values():
            same[:] = [kept for kept in same if kept[1] > since or _references(kept) > IDLE]


def _references(kept: list) -> int:
    """The reference count of a block's array: an array that lies in it holds one, as its `base`."""
    return getrefcount(kept[0])


IDLE = _references([np.empty(0), 0])  # the list's own reference, and those of the look itself
_here = threading.local()


def block(count: int) -> np.ndarray:
    """`count` numbers from this thread's blocks."""
    return _blocks().block(count)


def unshared(count: int) -> np.ndarray:
    """`count` numbers that no other array will share."""
    return _blocks().unshared(count)


def use(blocks: Blocks) -> Blocks:
    """Makes these this thread's blocks.  -> those before."""
    before, _here.blocks = _blocks(), blocks
    return before


def _blocks() -> Blocks:
    try:
        return _here.blocks
    except AttributeError:
        _here.blocks = Blocks()
        return _here.blocks
