"""Ctrl-C and signals that end a process: when training stops, and which signals are ignored or repeated."""

import os
import pty
import signal
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
from PIL import Image

from levit_np.images import decoding
from levit_np.training.interrupt import Interrupt, Stopped

from .small_run import interrupted_at, run

pytestmark = pytest.mark.usefixtures("fast_disk")


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def each(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", each=each)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_on_a_terminal_the_first_ctrl_c_says_what_is_waited_for(tmp_path, monkeypatch):
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with pytest.raises(Stopped):
            run(tmp_path / "run", each=interrupted_at(1))
        assert "Ctrl-C again ends at once" in screen.read(1000).decode()


def test_under_nohup_the_end_of_the_terminal_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.asked is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.asked == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_a_second_ctrl_c_ends_it_at_once():
    """A service or a terminal may send its signal twice, and also to a process that is already ending."""
    for numbers in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGHUP), (signal.SIGINT,)):
        with Interrupt() as interrupt:
            for number in numbers:
                interrupt._take(number, None)
            assert interrupt.asked == numbers[-1]
    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt):
        interrupt._take(signal.SIGTERM, None)
        interrupt._take(signal.SIGINT, None)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_raised_where_python_would_drop_the_exception():
    """For example in a weakref's callback, of which h5py has thousands while it writes, and from which an exception
    would be printed and lost."""
    with Interrupt() as interrupt, interrupt.at_once():
        for number in (signal.SIGINT, signal.SIGINT):
            held = set()
            weakref.finalize(held, signal.raise_signal, number)
            del held
            assert interrupt.asked == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_end_the_process_at_once_only_while_that_is_allowed():
    with Interrupt() as interrupt:
        with interrupt.at_once():
            pass
        interrupt._take(signal.SIGTERM, None)  # now there is something to save
        with pytest.raises(Stopped) as stopped, interrupt.at_once():
            raise AssertionError("it was begun")
        assert stopped.value.status == 143 and str(stopped.value) == "SIGTERM"


def test_a_signal_while_an_image_is_decoded_is_not_an_image_error(tmp_path, monkeypatch):
    """If it were skipped as a bad image, it would be missing from the figures; otherwise it would be blamed for the
    end."""
    Image.new("L", (8, 8)).save(tmp_path / "a.png")

    def decode(file):
        os.kill(os.getpid(), signal.SIGTERM)
        return decoder(file)

    decoder = decoding.DECODERS["PNG"]
    monkeypatch.setitem(decoding.DECODERS, "PNG", decode)
    with Interrupt() as interrupt, pytest.raises(Stopped), interrupt.at_once():
        decoding.open_image(tmp_path / "a.png")


def test_in_another_thread_signal_handlers_are_not_changed():
    found = []

    def enter():
        with Interrupt() as interrupt:
            found.append((interrupt.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(None, signal.getsignal(signal.SIGINT))]


@pytest.mark.parametrize("number, terminal, words", [(signal.SIGINT, True, 1), (signal.SIGTERM, True, 0),
                                                     (signal.SIGINT, False, 0)])
def test_only_ctrl_c_on_a_terminal_prints_a_message(monkeypatch, number, terminal, words):
    written = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal, fileno=lambda: 2))
    monkeypatch.setattr(os, "write", lambda *arguments: written.append(arguments))
    with Interrupt() as interrupt:
        interrupt._take(number, None)
    assert len(written) == words


def test_a_process_in_the_background_of_a_script_takes_a_ctrl_c_that_is_sent_to_it():
    """Shells start background processes with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.asked == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)
