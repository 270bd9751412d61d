"""Several threads in one process."""

import threading


def at_once(function, callers: int) -> None:
    """function(0), function(1), … each in a thread of its own; back when all are done."""
    threads = [threading.Thread(target=function, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
