"""A lock across a fork."""

import os

import pytest

from levit_np.lock import Lock

from .forked import forked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_the_thread_that_holds_it_lets_go_of_it_as_the_parent_does():
    lock = Lock()

    def let_go():
        lock.__exit__()
        with lock:
            return True

    with lock:
        assert forked(let_go) == 0
