"""Fair timing on a machine that is never quite idle: the candidates take turns, and only medians count."""

from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep


def interleaved(calls: dict[str, Callable], rounds: int, seconds: float = 0.1, pause: float = 0.0,
                progress: Callable = lambda: None) -> dict[str, list[float]]:
    """{name: seconds a call, one number a round}, in the order A B C A B C …, so that a slow minute is slow for all.

    A turn is one call that is not counted, which brings the candidate's weights back into the caches, then at least one
    call, for `seconds` in all. pause: rest before each turn, for candidates whose threads keep spinning after their
    last call. progress is called after each turn."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            sleep(pause)
            call()
            start, count = perf_counter(), 0
            while count == 0 or perf_counter() - start < seconds:
                call()
                count += 1
            times[name].append((perf_counter() - start) / count)
            progress()
    return times


def ratio(slower: list[float], faster: list[float]) -> float:
    """How many times as fast the second is: the median of the quotients within each round."""
    return median(a / b for a, b in zip(slower, faster))
