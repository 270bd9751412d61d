"""What training prints, and when, with a clock that the tests control."""

import errno
import io
import os
import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import rich.console

from levit_np.training import progress
from levit_np.training.progress import Screen

from .train_command import QUICK, ROOT

STEP = SimpleNamespace(images=8)


@pytest.fixture
def clock(monkeypatch):
    """Its `now`, in seconds, is the time that the screen reads."""
    monkeypatch.setenv("TERM", "xterm")
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return clock


def trainer(epoch=1, batch=0):
    """A trainer in the second of three epochs of four batches, on two ranks."""
    return SimpleNamespace(epoch=epoch, batch=batch, recipe=SimpleNamespace(epochs=3), loader=SimpleNamespace(steps=4),
                           ranks=SimpleNamespace(size=2), totals={"loss": 30.0, "correct": 5, "images": 20})


@pytest.mark.parametrize("dumb", [False, True])  # a terminal in which no bar can be redrawn
def test_a_line_now_and_then_with_the_speed_of_all_ranks_and_the_time_left(clock, capsys, monkeypatch, dumb):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: dumb, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    screen, training = Screen(), trainer()
    with screen.training(training):
        for seconds, batch in ((29, 1), (30, 2), (59, 3)):
            clock.now, training.batch = 100.0 + seconds, batch
            screen.step(STEP)
        # 2 × 16 images in 30 s, two of the eight batches that were left
        assert capsys.readouterr().out == "epoch 2/3  2/4  1.07 images/s  loss 1.500  accuracy 25.0%  0:01:30 left\n"
        clock.now, training.batch = 100.0 + 64, 4
        screen.step(STEP)
        assert capsys.readouterr().out == "epoch 2/3  4/4  1 images/s  loss 1.500  accuracy 25.0%  0:01:04 left\n"


def test_a_line_an_epoch(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e9)
    screen, training = Screen(), trainer()
    line = {"epoch": 2, "loss": 1.25, "top1": 62.5}
    with screen.training(training):
        screen.epoch(line, False)  # a run that resumes at the end of an epoch has seen no image
        clock.now += 10
        screen.step(STEP)
        clock.now += 90  # validation does not count for the speed
        screen.epoch(line | {"validation": {"loss": 0.5, "top1": 75.0}}, True)
        clock.now += 4
        screen.step(STEP)
        screen.epoch(line | {"validation": {"loss": 0.5, "top1": 75.0}}, False)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 2/3  loss 1.2500  top1 62.50",
        "epoch 2/3  loss 1.2500  top1 62.50  validation loss 0.5000  top1 75.00  best  1.6 images/s",
        "epoch 2/3  loss 1.2500  top1 62.50  validation loss 0.5000  top1 75.00  4 images/s"]


def test_with_quiet_nothing_is_printed_on_a_terminal_either(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    screen, training = Screen(quiet=True), trainer()
    with screen.training(training):
        screen.waiting("validation")
        clock.now, training.batch = 1100.0, 1
        screen.step(STEP)
        screen.note("a note")
    assert capsys.readouterr() == ("", "")


def test_a_line_is_seen_at_once_also_in_a_file(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file))
    Screen().note("a note\x1b")
    assert file.getvalue() == b"'a note\\x1b'\n"
    monkeypatch.undo()


@pytest.mark.parametrize("both", [False, True])  # train … | head, and train … 2>&1 | head
def test_a_training_goes_on_when_the_reader_of_its_lines_is_gone(shapes, tmp_path, both):
    reader, writer = os.pipe()
    os.close(reader)
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # output that cannot be written would be tried again at exit
    done = subprocess.run([sys.executable, "-m", "levit_np.cli", "train", shapes, "--output", tmp_path / "run", *QUICK],
                          cwd=ROOT, env=buffered, stdout=writer, stderr=writer if both else subprocess.PIPE, text=True,
                          timeout=60)
    os.close(writer)
    assert done.returncode == 0 and len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2
    assert both or done.stderr == (
        "levit-np train: standard output: Broken pipe; the training goes on, log.jsonl has its epochs\n")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_bar_shows_everything_in_any_width_and_however_long_a_step_takes(clock, monkeypatch, columns):
    """The text of ImageNet's epochs is nearly eighty columns long; a step of many batches may take a minute."""
    file, screen, training = io.StringIO(), Screen(), trainer(epoch=123, batch=4000)
    monkeypatch.setattr(rich.console, "Console", partial(rich.console.Console, file=file, width=columns,
                                                         force_terminal=True, get_time=lambda: clock.now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    training.recipe.epochs, training.loader.steps = 124, 5004
    with screen.training(training):
        for _ in range(4):
            clock.now, training.batch = clock.now + 60, training.batch + 1
            screen.step(STEP)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue().rpartition("epoch")[2]).split()
    assert {"124/124", "4004/5004", "0.267", "images/s", "1.500", "accuracy", "25.0%", "16:40:00", "left"} <= set(last)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the bar's own thread
def test_a_terminal_that_is_closed_is_no_error_of_the_training(monkeypatch):
    class Terminal(io.StringIO):
        def write(self, text):
            if closed:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    closed = []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(rich.console, "Console", partial(rich.console.Console, file=Terminal(), force_terminal=True))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Screen().training(trainer()):
        closed.append(True)
    closed.clear()
    with pytest.raises(OSError, match="No space"), Screen().training(trainer()):
        closed.append(True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_bar_counts_the_batches_of_the_whole_training(clock, capsys, monkeypatch):
    class Bar:
        """Records what rich's progress bar is told."""

        def __init__(self):
            self.told = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_task(self, description, **numbers):
            self.told.append((description, numbers))
            return 7

        def update(self, task, description, **numbers):
            self.told.append((task, description.split("  ")[:2], numbers))

    bar, screen, training = Bar(), Screen(), trainer()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(screen, "_made_bar", lambda: bar)
    with screen.training(training):
        training.batch = 3
        screen.step(STEP)
        screen.waiting("validation")
    screen.waiting("more")  # the bar is gone
    assert bar.told == [("starting", {"total": 12, "completed": 4}), (7, ["epoch 2/3", "3/4"], {"completed": 7}),
                        (7, ["epoch 2", "validation"], {})]
    assert capsys.readouterr().out == ""
