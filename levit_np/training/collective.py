"""Sums and collections over the ranks of an MPI communicator, waiting for which leaves the processor to others.

MPI's own waiting spins.  Where there are more ranks than cores, the rank that is waited for may be the one that cannot
run: a step then takes ten times as long."""

import time

import numpy as np

SPINS = 200  # looks, some 100 µs, before a wait begins to sleep
NAP = 5e-5  # seconds


def started_sum(communicator, array):
    """Starts the sum of `array`, in place, over all ranks; -> the request to `finish`."""
    from mpi4py import MPI

    return communicator.Iallreduce(MPI.IN_PLACE, array)


class Started:
    """A sum under way: request of MPI's, or None; arrived() ends it."""

    def __init__(self, request, arrived=lambda: None):
        self._request, self._arrived = request, arrived

    def move(self) -> None:
        """MPI may move its data only while it is called."""
        if self._request:
            self._request.Test()

    def finish(self) -> None:
        """From here on the sum may be read."""
        if self._request:
            finish(self._request)
        self._arrived()


def finish(request) -> None:
    """Returns when the request is done."""
    spins = 0
    while not request.Test():
        spins += 1
        if spins > SPINS:
            time.sleep(NAP)


def summed(communicator, array):
    """`array`, changed to the sum over all ranks: the same bits on each."""
    finish(started_sum(communicator, array))
    return array


def collected(communicator, values) -> np.ndarray:
    """Each rank's float64 values, (ranks, N)."""
    values = np.ascontiguousarray(values, np.float64)
    rows = np.empty((communicator.size, values.size))
    finish(communicator.Iallgather(values, rows))
    return rows
