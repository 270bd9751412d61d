"""Handles Ctrl-C, SIGTERM and a closed terminal: training finishes its step, saves and exits."""

import os
import signal
import sys
import threading
import weakref
from contextlib import contextmanager

# Windows has no SIGHUP.  A terminal or a service may send them to all of its processes at once.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAID = b"\nends when this step is done and saved; Ctrl-C again ends at once\n"


class Stopped(BaseException):
    """Training ends because of a signal, and everything is saved; `status` is the exit status for the process.

    Like KeyboardInterrupt it can be raised anywhere and is no Exception: decoding an image treats every Exception as
    a defect of the image."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interrupt:
    """A context manager: inside it, `asked` is the signal that arrived, or None; a second Ctrl-C raises
    KeyboardInterrupt immediately."""

    def __init__(self):
        self.asked, self._at_once, self._before = None, False, {}

    def __enter__(self):
        # Python handles signals in the main thread alone; whoever trains in another thread handles them there.
        here = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if here else ():
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number, frame):
        again, self.asked = self.asked and number == signal.SIGINT, number
        # Python prints and drops exceptions raised in weakref callbacks, of which h5py runs thousands in a save.
        if not (frame and frame.f_globals.get("__name__") == weakref.__name__):
            if again:
                raise KeyboardInterrupt
            self.check()
        if number == signal.SIGINT and sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SAID)  # not print, which is unsafe in a signal handler

    def check(self) -> None:
        """Raises Stopped if a signal has arrived and nothing is left to save."""
        if self.asked and self._at_once:
            raise Stopped(self.asked)

    @contextmanager
    def at_once(self):
        """A context manager for work that may be lost, as everything is saved: a signal, also an earlier one, ends it
        immediately with Stopped."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False
