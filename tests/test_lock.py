"""Locks across a fork."""

import os

import pytest

from levit_np.lock import Lock

from .forked import forked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_holding_a_lock_can_release_it():
    lock = Lock()

    def let_go():
        lock.__exit__()
        with lock:
            return True

    with lock:
        assert forked(let_go) == 0
