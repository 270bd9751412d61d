"""The threads that run a program: one unless NUMBA_NUM_THREADS or set_threads says more."""

import ctypes
import os
import threading
from collections import deque
from functools import partial
from numbers import Integral
from operator import call
from queue import SimpleQueue

from ...errors import BackendError

MAX_THREADS = 64
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
    """Sets how many threads, the caller's included, each call of a model on the cpu backend uses from now on; a
    recorded training step uses at most as many as when it was recorded.

    Results do not depend on it. Raises BackendError for anything but a whole number from 1 to 64."""
    global _count
    if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= MAX_THREADS:
        raise BackendError(f"threads: expected a whole number from 1 to {MAX_THREADS}, found {count!r}")
    _count = int(count)


def threads() -> int:
    """What set_threads said last, else NUMBA_NUM_THREADS as it was when first asked for, else 1."""
    global _count
    if _count is None:
        text = os.environ.get("NUMBA_NUM_THREADS") or "1"
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
            raise BackendError(f"NUMBA_NUM_THREADS: expected a whole number from 1, found {text!r}")
        _count = min(int(text), MAX_THREADS)  # it may be meant for other programs
    return _count


def run_with_threads(function, count: int) -> None:
    """function(thread, counter) in `count` threads at once, the caller's being the first; counter: address of a shared
    int64 that starts at 0, or 0 for one thread. The threads may wait for each other.

    Calls with several threads take turns: there is one set of workers, and a call that waited for them inside its
    function, at a barrier, would keep a core busy."""
    if count == 1:
        function(0, 0)
        return
    counter, sent = ctypes.c_int64(0), []
    with _turn:
        try:
            jobs = [partial(queue.put, (function, thread, counter))
                    for thread, queue in enumerate(_workers(count - 1), 1)]
            deque(map(call, [*jobs, partial(sent.append, True)]), 0)  # all of them or, if Ctrl-C comes before, none
            function(0, ctypes.addressof(counter))
        except BaseException:
            # Ctrl-C came after they were sent: the others wait for this thread after their first step.
            if sent and counter.value < count:
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
        del function, counter  # an idle worker keeps no model alive
