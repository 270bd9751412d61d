"""Ctrl-C, SIGTERM and the end of the terminal: a training finishes its step, saves and ends."""

import os
import signal
import sys
import threading
import weakref
from contextlib import contextmanager

# Windows has no SIGHUP.  They may come to all processes of a terminal or of a service at once.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAID = b"\nends when this step is done and saved; Ctrl-C again ends at once\n"


class Stopped(BaseException):
    """A signal asked for the end, and everything is saved; `status` is what the process should end with.

    As a KeyboardInterrupt, which may come anywhere too, it is no Exception: who decodes an image takes each of those
    for the image's fault."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interrupt:
    """Within the block, `asked` is the signal that came, or None; a second Ctrl-C is a KeyboardInterrupt at once."""

    def __init__(self):
        self.asked, self._at_once, self._before = None, False, {}

    def __enter__(self):
        # Elsewhere signals cannot be taken; whoever trains in a thread has them in the main one.
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
        # What is raised in a weakref's callback, of which h5py has thousands in a save, Python prints and drops.
        if not (frame and frame.f_globals.get("__name__") == weakref.__name__):
            if again:
                raise KeyboardInterrupt
            self.check()
        if number == signal.SIGINT and sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SAID)  # print is not for a signal's handler, which may interrupt another

    def check(self) -> None:
        """Raises Stopped, where a signal came and nothing is left to save."""
        if self.asked and self._at_once:
            raise Stopped(self.asked)

    @contextmanager
    def at_once(self):
        """For work whose loss costs nothing, since all is saved: a signal ends it with Stopped, also one that came
        before."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False
