"""The processes that train together, as the trainer sees them."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


class SingleRank:
    """This process alone: `rank` 0 of `size` 1.  What stands for several processes has the same members, which all of
    them call in the same order.  Rank 0 writes the files."""

    rank, size = 0, 1

    def reduction(self, model):
        """-> a context for every step's last backward: when it ends, the model's gradients are the sum over all
        ranks.  A layer's gradients are complete as soon as its backward is over, and may travel."""
        return nullcontext()

    def synchronize_norms(self, model) -> None:
        """BN normalizes with the statistics of all ranks' batches from now on."""

    def any(self, flag: bool) -> bool:
        """Whether it is so on one rank at least."""
        return bool(flag)

    def largest(self, values: list[int]) -> list[int]:
        """The largest over the ranks of each of the numbers."""
        return values

    def mean(self, values: list[float]) -> list[float]:
        """The mean over the ranks of each of the numbers, the same bits on every rank."""
        return values

    def gather(self, value: Any) -> list | None:
        """Each rank's value on rank 0, None on the others."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        return value

    def first(self, work: Callable) -> Any:
        """What work() gives on rank 0, the only one where it is done, on every rank; a LevitError or OSError of it is
        raised on every rank."""
        return work()

    def require_equal(self, what: str, value: Any) -> None:
        """Raises LevitError, on every rank, where one of them has another value."""
