"""A lock for a module's state that stays usable after a fork."""

import os
import threading


class Lock:
    """A context manager that admits one thread at a time.  A forked child gets a fresh, free lock: the parent's may be
    held by a thread that does not exist in the child and so would never release it."""

    def __init__(self):
        self._lock = self._held = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self):
        self._lock = threading.Lock()

    def __enter__(self):
        lock = self._lock
        lock.acquire()
        self._held = lock  # if this thread forks inside the `with`, the child still releases the lock it acquired

    def __exit__(self, *error):
        self._held.release()
