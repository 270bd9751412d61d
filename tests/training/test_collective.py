"""Waiting for MPI requests, with stand-ins for them; test_mpi.py uses several processes."""

from types import SimpleNamespace

import numpy as np

from levit_np.training import collective
from levit_np.training.collective import SPINS, Started


class Request:
    """A request that is done after it was tested `looks` times."""

    def __init__(self, looks):
        self.left = looks

    def Test(self):
        self.left -= 1
        return self.left <= 0


def test_a_sum_may_be_read_once_its_request_is_done():
    request, said = Request(5), []
    started = Started(request, lambda: said.append(request.left))
    started.move()
    assert (request.left, said) == (4, [])
    started.finish()
    assert said == [0]
    done = Started(None, lambda: said.append("at once"))
    done.move()
    done.finish()
    assert said[1:] == ["at once"]
    Started(Request(1)).finish()


def test_a_long_wait_sleeps(monkeypatch):
    naps = []
    monkeypatch.setattr(collective, "time", SimpleNamespace(sleep=naps.append))
    collective.finish(Request(SPINS + 1))
    assert naps == []
    collective.finish(Request(SPINS + 4))
    assert len(naps) == 3


def test_what_each_rank_has_is_a_row():
    request = Request(3)

    def gather(values, rows):
        rows[:] = np.arange(3)[:, None] * values
        return request

    communicator = SimpleNamespace(size=3, Iallgather=gather)
    rows = collective.collected(communicator, np.array([1, 2], np.float32))
    assert request.left == 0 and rows.dtype == np.float64 and np.array_equal(rows, [[0, 0], [1, 2], [2, 4]])
