"""A lock for a module's state, which a forked process has anew."""

import os
import threading


class Lock:
    """`with` it, one thread at a time.  After a fork the child has a free one: another thread, which the child does not
    have, may have held the parent's."""

    def __init__(self):
        self._lock = self._held = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self):
        self._lock = threading.Lock()

    def __enter__(self):
        lock = self._lock
        lock.acquire()
        self._held = lock  # in a thread that forks in here, the child's releases this one

    def __exit__(self, *error):
        self._held.release()
