"""How several threads share a step, and wait for each other after it."""

from .intrinsics import add_atomic, call, get_atomic

SPINS = 2000  # looks at the counter before a waiting thread offers its processor to others


def barrier(jit):
    """(share, wait), compiled by `jit`."""
    @jit
    def share(count, thread, threads):
        """The part of range(count) that is this thread's: (first, last)."""
        return count * thread // threads, count * (thread + 1) // threads

    @jit
    def wait(counter, target, give_way):
        """Until `target` threads in all have come to this barrier or one before it."""
        add_atomic(counter, 1)
        looks = 0
        while get_atomic(counter) < target:
            looks += 1
            if looks > SPINS:
                call(give_way)

    return share, wait
