"""The interface through which the trainer sees the processes (ranks) that train together, for a single process."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


class SingleRank:
    """This process alone: `rank` 0 of `size` 1, of which `local_size` in this machine.  MPIRanks, for several
    processes, has the same methods, which all of them call in the same order.  Rank 0 writes the files."""

    rank, size, local_size = 0, 1, 1

    def reduction(self, model):
        """-> a context manager for every step's last backward: when it ends, the model's gradients are the sums over
        all ranks.  A layer's gradients are complete once its backward is done, and can be sent while others are
        computed."""
        return nullcontext()

    def synchronize_norms(self, model) -> None:
        """From now on BN normalizes with the statistics over all ranks' batches."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on at least one rank."""
        return bool(flag)

    def largest(self, values: list[int]) -> list[int]:
        """The maximum over the ranks of each number."""
        return values

    def mean(self, values: list[float]) -> list[float]:
        """The mean over the ranks of each number, with the same bits on every rank."""
        return values

    def gather(self, value: Any) -> list | None:
        """Every rank's value on rank 0; None on the others."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        return value

    def first(self, work: Callable) -> Any:
        """Calls work() on rank 0 alone and returns its result on every rank; its LevitError or OSError is raised on
        every rank."""
        return work()

    def require_equal(self, what: str, value: Any) -> None:
        """Raises LevitError, on every rank, if one of them has another value."""
