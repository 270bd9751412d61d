"""Runs a function in a forked copy of this process, which may crash or hang without harm."""

import faulthandler
import os
import signal
import time
import traceback


def forked(function, patience=60):
    """The exit status of a child that ran function(): 0 if it returned True, minus the signal's number if a signal
    ended it, None if it did not end within `patience` seconds."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.disable()
            status = 0 if function() else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
