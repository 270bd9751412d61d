"""Memory for the arrays of a step of training, which the next step uses again.

A large block from the system would be cleared first, page by page: 1 to 3 % of a step."""

import threading
from sys import getrefcount

import numpy as np

LARGE = 512 << 10  # numbers, 2 MiB
LONG = 1000  # large blocks asked for, the number of several steps: what has lain idle for so long goes back


class _Kept(threading.local):
    """A thread's: {count: blocks of so many numbers}, each [array, the request that it answered last]."""

    def __init__(self):
        self.blocks, self.requests = {}, 0


_kept = _Kept()


def block(count: int) -> np.ndarray:
    """`count` numbers, whatever they are.  A large block is kept, and given again once no array lies in it any more."""
    if count < LARGE:
        return np.empty(count, np.float32)
    _kept.requests += 1
    if _kept.requests % LONG == 0:
        _return_idle(_kept.requests - LONG)
    same = _kept.blocks.setdefault(count, [])
    found = next((kept for kept in same if _references(kept) == IDLE), None)
    if found is None:
        found = [np.empty(count, np.float32), 0]
        same.append(found)
    found[1] = _kept.requests
    return found[0]


def _return_idle(since: int) -> None:
    for same in _kept.blocks.values():
        same[:] = [kept for kept in same if kept[1] > since or _references(kept) > IDLE]


def _references(kept: list) -> int:
    """To the array of a block: one that lies in it is one, as its `base`."""
    return getrefcount(kept[0])


IDLE = _references([np.empty(0), 0])  # the list's own, and whatever it takes to look
