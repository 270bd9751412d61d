"""Memory for the arrays of a step of training, which the next step uses again.

A large block from the system would be cleared first, page by page: 1 to 3 % of a step."""

import threading
from sys import getrefcount

import numpy as np

from .memory import Pieces

LARGE = 512 << 10  # numbers, 2 MiB
LONG = 1000  # large blocks asked for, the number of several steps: what has lain idle for so long goes back


class Blocks:
    """Blocks of numbers, each given again once no array lies in it any more."""

    def __init__(self):
        self._kept, self._requests = {}, 0  # {count: blocks of so many}, each [array, the request it answered last]
        self._pieces, self._others = Pieces(), Pieces()  # of large pages
        self._least, self._first = LARGE, None

    def block(self, count: int) -> np.ndarray:
        """`count` numbers, whatever they are; few ones are the system's to keep."""
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
        """`count` numbers that are given once."""
        return self._others.numbers(count)

    def take_over(self, others: "Blocks") -> None:
        """Takes all blocks of the others."""
        self._kept, others._kept = others._kept, {}
        self._requests = max(self._requests, others._requests)

    def begin(self) -> None:
        """From here on all that is asked for is kept, however little: for a recording, whose arrays must stay where
        they are."""
        self._least, self._first = 0, self._requests

    def end(self) -> None:
        """Gives up what was not asked for since."""
        self._return_idle(self._first)

    def holds(self, owner) -> bool:
        """Whether that array is one of these blocks."""
        return any(kept[0] is owner for kept in self._kept.get(owner.size, ()))

    def _return_idle(self, since: int) -> None:
        for same in self._kept.values():
            same[:] = [kept for kept in same if kept[1] > since or _references(kept) > IDLE]


def _references(kept: list) -> int:
    """To the array of a block: one that lies in it is one, as its `base`."""
    return getrefcount(kept[0])


IDLE = _references([np.empty(0), 0])  # the list's own, and whatever it takes to look
_here = threading.local()


def block(count: int) -> np.ndarray:
    """`count` numbers of this thread's blocks."""
    return _blocks().block(count)


def unshared(count: int) -> np.ndarray:
    """`count` numbers that no other array will lie in."""
    return _blocks().unshared(count)


def use(blocks: Blocks) -> Blocks:
    """This thread's are these from now on.  -> those before."""
    before, _here.blocks = _blocks(), blocks
    return before


def _blocks() -> Blocks:
    try:
        return _here.blocks
    except AttributeError:
        _here.blocks = Blocks()
        return _here.blocks
