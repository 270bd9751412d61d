"""The threads that compute: one unless NUMBA_NUM_THREADS or set_threads says more."""

import ctypes
import os
import threading
from collections import deque
from functools import partial
from numbers import Integral
from operator import call
from queue import SimpleQueue

from ...errors import BackendError

MOST = 64
_turn = threading.RLock()
_queues: list[SimpleQueue] = []
_count = None


def _after_fork():
    """Threads do not survive a fork, and one of them may have held the lock."""
    global _turn, _queues
    _turn, _queues = threading.RLock(), []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def set_threads(count: int) -> None:
    """How many threads each call of a model on the cpu backend uses from now on, the caller's included; a recorded step
    of training, at most as many as when it was recorded.

    The result does not depend on it.  Raises BackendError for anything but a whole number from 1 to 64."""
    global _count
    if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= MOST:
        raise BackendError(f"threads: expected a whole number from 1 to {MOST}, found {count!r}")
    _count = int(count)


def threads() -> int:
    """What set_threads said last, else what NUMBA_NUM_THREADS said when it was first asked, else 1."""
    global _count
    if _count is None:
        text = os.environ.get("NUMBA_NUM_THREADS") or "1"
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
            raise BackendError(f"NUMBA_NUM_THREADS: expected a whole number from 1, found {text!r}")
        _count = min(int(text), MOST)  # it may have been said with others in mind
    return _count


def run_with_threads(function, count: int) -> None:
    """function(thread, counter) in `count` threads at once, this one being the first; counter is the address of a
    shared int64 that starts at 0, or 0 for one thread.  The function's threads may wait for each other.

    Calls of several threads take turns: the workers serve them one after the other, and who waits for them in the
    function, at a barrier, keeps a processor busy."""
    if count == 1:
        function(0, 0)
        return
    counter, sent = ctypes.c_int64(0), []
    with _turn:
        try:
            jobs = [partial(queue.put, (function, thread, counter))
                    for thread, queue in enumerate(_workers(count - 1), 1)]
            deque(map(call, [*jobs, partial(sent.append, True)]), 0)  # all of them or, where Ctrl-C comes before, none
            function(0, ctypes.addressof(counter))
        except BaseException:
            if sent and counter.value < count:  # Ctrl-C came between: the others wait for it after their first step
                function(0, ctypes.addressof(counter))
            raise


def _workers(count):
    while len(_queues) < count:
        queue = SimpleQueue()
        threading.Thread(target=_work, args=(queue,), daemon=True, name=f"levit_np {len(_queues) + 1}").start()
        _queues.append(queue)
    return _queues[:count]


def _work(queue):
    while True:
        function, thread, counter = queue.get()
        function(thread, ctypes.addressof(counter))
        del function, counter  # a worker that waits keeps no model alive
