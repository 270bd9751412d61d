"""Collective operations over the ranks of an MPI communicator that give up the processor while they wait.

MPI's own waiting spins.  With more ranks than cores, it may keep the very rank that is waited for from running: a step
then takes ten times as long."""

import time

import numpy as np

SPINS = 200  # tests, about 100 µs, before a wait begins to sleep
NAP = 5e-5  # seconds to sleep between tests


def started_sum(communicator, array):
    """Starts summing `array` over all ranks, in place; -> the request to pass to `finish`."""
    from mpi4py import MPI

    return communicator.Iallreduce(MPI.IN_PLACE, array)


class Started:
    """A sum that has been started.  request: MPI's, or None; arrived(): called by finish once the sum is there."""

    def __init__(self, request, arrived=lambda: None):
        self._request, self._arrived = request, arrived

    def move(self) -> None:
        """Lets MPI make progress, which some implementations do only inside MPI calls."""
        if self._request:
            self._request.Test()

    def finish(self) -> None:
        """Waits for the sum, which may be read afterwards."""
        if self._request:
            finish(self._request)
        self._arrived()


def finish(request) -> None:
    """Waits until the request is done."""
    spins = 0
    while not request.Test():
        spins += 1
        if spins > SPINS:
            time.sleep(NAP)


def summed(communicator, array):
    """`array`, overwritten by its sum over all ranks, which has the same bits on each."""
    finish(started_sum(communicator, array))
    return array


def collected(communicator, values) -> np.ndarray:
    """Every rank's values as float64, (ranks, N)."""
    values = np.ascontiguousarray(values, np.float64)
    rows = np.empty((communicator.size, values.size))
    finish(communicator.Iallgather(values, rows))
    return rows
