"""Starting worker processes changes their parent's environment and blocked signals, and puts them back."""

import os
import signal
import threading
from multiprocessing import resource_tracker

import pytest

from levit_np.training.data import workers as workers_module

from ...forked import forked


@pytest.mark.parametrize("before", ["1", ""])
def test_a_safe_path_that_was_set_before_stays_as_it_was(monkeypatch, before):
    """Processes that the script itself starts later would import from the current folder, against the user's will."""
    monkeypatch.setenv("PYTHONSAFEPATH", before)
    with workers_module._safe_path():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ["PYTHONSAFEPATH"] == before


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_signals_that_were_blocked_before_stay_blocked(monkeypatch):
    """And multiprocessing's resource tracker is started first: starting it unblocks signals again."""
    started = []
    monkeypatch.setattr(resource_tracker, "ensure_running", lambda: started.append(signal.pthread_sigmask(
        signal.SIG_BLOCK, ())))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with workers_module._blocked_signals():
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGTERM} == started[0]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_loaders_that_start_in_two_threads_leave_the_environment_as_it_was(monkeypatch):
    """The second starts while the first one starts its processes, and ends after it."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    found, first_is_done = [], threading.Event()

    def second():
        with workers_module._safe_path():
            first_is_done.wait(60)
            found.append(os.environ.get("PYTHONSAFEPATH"))
        found.append(os.environ.get("PYTHONSAFEPATH"))

    thread = threading.Thread(target=second)
    with workers_module._safe_path():
        thread.start()
        thread.join(0.1)  # long enough to enter, if it were allowed to
    first_is_done.set()
    thread.join()
    assert found == ["1", None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_loader_starts_in_a_process_that_was_forked_while_another_one_started():
    def safe():
        with workers_module._safe_path():
            return True

    with workers_module._safe_path():
        assert forked(safe, patience=5) == 0
