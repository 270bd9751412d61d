"""The ranks of a training run started by `mpiexec`: how they communicate, and how they end together."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import LevitError
from ..ops.cuda import device
from .collective import Started, collected, finish, started_sum
from .reduction import Reduction
from .synchronized import synchronize

# The variables in which MPI launchers give the number of processes: MPICH and Intel MPI, Open MPI, Slurm.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
PATIENCE = 5.0  # seconds to wait for the other ranks to fail too, if all fail for one reason
PASSED_ON = 0.3  # seconds for mpiexec to forward a rank's last output, which it drops once the job is aborted


def started_by_mpi() -> int:
    """How many processes mpiexec started, according to its environment variables; 0 if there was no mpiexec."""
    counts = [int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdecimal()]
    return max(counts, default=0)


class MPIRanks:
    """The processes of one training run; this one is number `rank` of `size`, `local_size` of which are in its machine.
    The methods are explained in SingleRank; all ranks call the same ones in the same order."""

    def __init__(self, communicator, local_size: int):
        # A communicator for each purpose, so that their messages cannot be confused.
        self._communicator, self._gradients, self._endings = communicator, communicator.Dup(), communicator.Dup()
        self.rank, self.size, self.local_size = communicator.rank, communicator.size, local_size

    def reduction(self, model) -> Reduction:
        if model.ops.NAME == "cuda":
            from .gpus import gpu_sums

            return Reduction(model, gpu_sums(self._gradients))
        return Reduction(model, lambda array: Started(started_sum(self._gradients, array)))

    def synchronize_norms(self, model) -> None:
        synchronize(model, self._communicator)

    def any(self, flag: bool) -> bool:
        return bool(collected(self._communicator, [flag]).any())

    def largest(self, values: list[int]) -> list[int]:
        return [int(number) for number in collected(self._communicator, values).max(0)]

    def mean(self, values: list[float]) -> list[float]:
        return [float(column.sum() / self.size) for column in collected(self._communicator, values).T]

    def gather(self, value: Any) -> list | None:
        self._meet()
        return self._communicator.gather(value)

    def broadcast(self, value: Any) -> Any:
        self._meet()
        return self._communicator.bcast(value)

    def first(self, work: Callable) -> Any:
        value, error = None, None
        if self.rank == 0:
            try:
                value = work()
            except (LevitError, OSError) as raised:
                error = raised
        value, error = self.broadcast((value, error))
        if error:
            raise error
        return value

    def require_equal(self, what: str, value: Any) -> None:
        values = self.broadcast(self.gather(value))
        for rank, other in enumerate(values):
            if other != values[0]:
                raise LevitError(f"{what}: expected the same on every rank, found {values[0]!a:.100} on rank 0 and "
                                 f"{other!a:.100} on rank {rank}")

    def _meet(self) -> None:
        """Waits until all ranks have arrived, without spinning: one may be writing a file."""
        finish(self._communicator.Ibarrier())

    def end_together(self) -> bool:
        """Called by a rank that has failed: whether all ranks have, for a reason that they agreed on.  If not, the
        others are waiting for a message that will never arrive."""
        together, latest = self._endings.Ibarrier(), time.monotonic() + PATIENCE
        while not together.Test():
            if time.monotonic() > latest:
                return False
            time.sleep(0.01)
        return True

    def abort(self) -> None:
        """Ends all ranks."""
        self._communicator.Abort(1)


@contextmanager
def mpi_ranks() -> Iterator[MPIRanks]:
    """A context manager: the ranks of this job.  If the block fails on one of them, all are ended, and only one says
    why.

    Raises LevitError without mpi4py, or if mpi4py uses another MPI than mpiexec: each process would train alone and
    overwrite the others' files."""
    expected = started_by_mpi()
    try:
        import mpi4py

        # "funneled": only the main thread calls MPI.
        mpi4py.rc.thread_level = "funneled"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LevitError(f"{expected} processes under mpiexec: expected mpi4py and an MPI, found {error}; "
                         "pip install 'levit_np[mpi]'") from None
    found = MPI.COMM_WORLD.size
    if expected != found:
        raise LevitError(f"mpiexec: expected {expected} ranks as it says, found {found} in {MPI.get_vendor()[0]}: "
                         "mpiexec is another MPI's; use the one beside this Python")
    machine = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = MPIRanks(MPI.COMM_WORLD, machine.size)
    # The rank within its own machine: global numbers, dealt to machines in turn, would leave every other GPU unused.
    device.choose(machine.rank)
    try:
        yield ranks
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in here would leave the other ranks waiting
        if not ranks.end_together():
            _say(error, ranks)
            time.sleep(PASSED_ON)
            ranks.abort()
        elif ranks.rank == 0:
            raise
        raise SystemExit(1) from None


def _say(error, ranks):
    if not isinstance(error, (LevitError, OSError, MemoryError, KeyboardInterrupt)):  # a bug
        traceback.print_exception(error)
    print(f"rank {ranks.rank} of {ranks.size}: {str(error) or type(error).__name__}", file=sys.stderr, flush=True)
