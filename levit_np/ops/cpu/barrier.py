"""How the threads of a call divide a step among them, and wait for each other after it."""

from .intrinsics import add_atomic, call, get_atomic
from .jit import jit

SPINS = 2000  # times a waiting thread looks before it yields its core


@jit
def share(count, thread, threads):
    """This thread's contiguous part of range(count): (first, last)."""
    return count * thread // threads, count * (thread + 1) // threads


@jit
def wait(counter, target, give_way):
    """Returns once `target` arrivals, at this barrier and those before it, have been counted."""
    add_atomic(counter, 1)
    looks = 0
    while get_atomic(counter) < target:
        looks += 1
        if looks > SPINS:
            call(give_way)
