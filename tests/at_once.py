"""Runs a function in several threads at once."""

import threading


def at_once(function, callers: int) -> None:
    """Calls function(0), function(1), …, each in its own thread, and returns when all have finished."""
    threads = [threading.Thread(target=function, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
