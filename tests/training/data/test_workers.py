"""Worker processes that are killed, fail, hang or lose their parent; and that Ctrl-C leaves none of them behind."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest

from levit_np.errors import CheckpointError, DataError, ImageError, LevitError
from levit_np.training.data import workers as workers_module
from levit_np.training.data.folder import Folder
from levit_np.training.data.loader import Loader
from levit_np.training.data.pack import pack
from levit_np.training.data.packed import Packed
from levit_np.training.data.workers import rows_of
from levit_np.training.recipe import Recipe

from ...forked import forked
from ..image_folders import make_folder

CHILD = Path(__file__).with_name("loader_child.py")
ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images") / "train", classes=2, images=6)


class Deadly(Folder):
    """A source that kills or stops the process that reads one of its images, or raises an unexpected error there."""

    victim, how = 7, signal.SIGKILL

    def read(self, index):
        if index == self.victim and multiprocessing.parent_process():
            if self.how != "raise":
                os.kill(os.getpid(), self.how)
            raise ZeroDivisionError("a bug")
        return super().read(index)


class Faulty(Deadly):
    how = "raise"


class Hanging(Deadly):
    how = signal.SIGSTOP


class Large(Folder):
    """A source of images for which there is too little memory."""

    def read(self, index):
        np.empty(1 << 60, np.uint8)


class Slow(Folder):
    """A source that takes long to read one image."""

    slow = 0

    def read(self, index):
        if index == self.slow:
            time.sleep(0.5)
        return super().read(index)


class Logged(Folder):
    """A source that writes down how many images were read."""

    def read(self, index):
        with open(Path(self.root).with_name("log"), "ab") as file:
            file.write(b".")
        return super().read(index)


def loader(source, **options):
    usual = {"image_size": (24, 24), "in_channels": 3, "batch": 12, "seed": 0}
    return Loader(source, Recipe(repeats=1), **usual | options)


def test_a_worker_that_dies_is_an_error_that_names_the_file(root):
    with loader(Deadly(root), workers=2) as deadly:
        with pytest.raises(DataError, match=r"class1/001.png: expected a process that prepares images to live, found "
                                            r"it ended by signal 9 \(Killed\)"):
            list(deadly.epoch(0))
        assert not multiprocessing.active_children()
        with pytest.raises(DataError, match="class1/001.png"):   # it starts new workers, which fail in the same way
            list(deadly.epoch(1))


def test_a_worker_that_hangs_is_reported_with_the_file(root, monkeypatch):
    def warn(text, **more):
        if not text.startswith("workers: "):  # starting the process may take longer
            raise UserWarning(text)

    monkeypatch.setattr(workers_module, "LONG", 0.1)
    monkeypatch.setattr(workers_module.warnings, "warn", warn)
    with loader(Hanging(root), workers=1) as waiting, pytest.raises(UserWarning, match=(
            "^class1/001.png: expected a process that prepares images to go on, found it at the same place for 0.1 s")):
        list(waiting.epoch(0))


def test_a_worker_killed_at_its_first_image_is_not_blamed_on_the_script(root):
    with loader(Deadly(root), workers=1) as deadly, pytest.raises(DataError, match=r"signal 9 \(Killed\)$"):
        next(deadly.epoch(0))


def test_an_unexpected_error_comes_with_its_file_and_its_traceback(root):
    with loader(Faulty(root), workers=2) as faulty, pytest.raises(RuntimeError) as caught:
        list(faulty.epoch(0))
    assert str(caught.value).startswith("class1/001.png: ") and not isinstance(caught.value, LevitError)
    assert "in read" in str(caught.value) and "ZeroDivisionError: a bug" in str(caught.value)


@pytest.mark.parametrize("replaced, words", [(True, "expected the file that was opened before, found another"),
                                             (False, "No such file or directory")])
def test_a_packed_file_that_is_gone_before_the_workers_start(root, tmp_path, capfd, replaced, words):
    """The workers of a validation start hours after its file was opened. The error must not be reported as a bug, nor
    as a missing guard of the script."""
    pack(Folder(root), tmp_path / "a.h5")
    with loader(Packed(tmp_path / "a.h5"), workers=2) as packed:
        (tmp_path / "a.h5").unlink()
        if replaced:
            pack(Folder(make_folder(tmp_path / "others", classes=2)), tmp_path / "a.h5")
        with pytest.raises(CheckpointError, match=f"a.h5: {words}"):
            list(packed.epoch(0))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_too_little_memory_is_a_memory_error(root, workers):
    """The command prints it as one line; a bug has its traceback."""
    with loader(Large(root), workers=workers) as large, pytest.raises(MemoryError, match="Unable to allocate 1.00 EiB"):
        list(large.epoch(0))


def test_nothing_is_imported_from_the_current_folder(root, tmp_path, monkeypatch):
    (tmp_path / "types.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    with loader(Folder(root), workers=2) as batches:
        next(batches.epoch(0))
    assert not (tmp_path / "imported").exists() and "PYTHONSAFEPATH" not in os.environ


def test_workers_start_where_no_signals_can_be_blocked(root, monkeypatch):
    """As on Windows, where multiprocessing's resource tracker cannot be started either."""
    def tracked():
        raise ModuleNotFoundError("No module named '_posixsubprocess'")

    resource_tracker.ensure_running()  # multiprocessing needs it here, and starts it with signals blocked
    monkeypatch.delattr(signal, "pthread_sigmask")
    monkeypatch.setattr(resource_tracker, "ensure_running", tracked)
    with loader(Folder(root), workers=2) as batches:
        assert len(next(batches.epoch(0)).images) == 12


def test_only_as_many_processes_start_as_have_work(root):
    """A worker for a pair of images of each of two steps; any number of workers may be asked for."""
    with loader(Folder(root), batch=2, workers=10**30) as many:
        names = [batch.names for batch in many.epoch(0)]
        assert len(multiprocessing.active_children()) == 2
    assert names == [batch.names for batch in loader(Folder(root), batch=2).epoch(0)]


def test_if_not_all_processes_can_start_none_remains(root, monkeypatch):
    """For example because there may be no more processes or open files."""
    process = multiprocessing.get_context("spawn").Process
    start = process.start

    def refused(self):
        if multiprocessing.active_children():
            raise OSError(errno.EMFILE, "Too many open files")
        start(self)

    monkeypatch.setattr(process, "start", refused)
    with loader(Folder(root), workers=3) as few:
        with pytest.raises(DataError, match="^workers: expected to start 3 processes that prepare images, found after "
                                            "1: Too many open files$"):
            next(few.epoch(0))
        assert not multiprocessing.active_children()


def test_an_error_of_shared_memory_names_the_processes(root, monkeypatch):
    """This OSError names no file, so the command would report it as an error of its output."""
    def refused(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(multiprocessing.get_context("spawn"), "RawArray", refused)
    with loader(Folder(root), workers=2) as two, pytest.raises(DataError, match="^workers: expected to start 2 "
                                                               ".*, found after 0: Cannot allocate memory$"):
        next(two.epoch(0))


def test_a_worker_killed_from_outside(root):
    with loader(Folder(root), batch=4, workers=2) as killed, pytest.raises(DataError, match="signal 9"):
        for epoch in range(1000):
            for _ in killed.epoch(epoch):
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def test_of_several_errors_that_of_the_first_row_is_raised(tmp_path):
    """Whichever worker found one first: a single process would have stopped at this one."""
    folder = Slow(make_folder(tmp_path / "d", classes=2, images=8))
    first, second = next(loader(folder, batch=16).epoch(0)).indices[[4, 6]]   # two workers' pairs
    for index in (first, second):
        folder.path(index).write_bytes(b"no image")
    for folder.slow in (first, second):
        for workers in (0, 2):
            with loader(folder, batch=16, workers=workers) as two, pytest.raises(ImageError, match=folder.name(first)):
                list(two.epoch(0))


def test_two_steps_are_prepared_ahead_and_no_more(tmp_path):
    folder = Logged(make_folder(tmp_path / "d", classes=2, images=10))
    log = tmp_path / "log"
    with loader(folder, batch=4, workers=2) as ahead:
        for taken in (1, 2):
            next(ahead.epoch(0, taken - 1))
            end = time.monotonic() + 60
            while log.stat().st_size < 4 * (taken + 2) and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(0.1)
            assert log.stat().st_size == 4 * (taken + 2)


def test_an_interrupted_wait_ends_the_processes_and_the_loader_can_go_on(root, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with loader(Folder(root), batch=4, workers=2) as resumed:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(workers_module, "wait", interrupted)
            next(resumed.epoch(0))
        assert not multiprocessing.active_children()
        assert next(resumed.epoch(0)).names == next(loader(Folder(root), batch=4).epoch(0)).names


@linux
def test_workers_never_see_a_signal_that_ends_the_parent_not_even_while_they_start(root):
    with loader(Folder(root), batch=4, workers=2) as blocked:
        next(blocked.epoch(0))
        for process in multiprocessing.active_children():
            status = Path(f"/proc/{process.pid}/status").read_text()
            mask = int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)
            assert all(mask >> number - 1 & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_closing_ends_the_processes_and_the_loader_can_go_on(root):
    with loader(Folder(root), batch=4, workers=2) as closed:
        first = next(closed.epoch(0))
        assert len(multiprocessing.active_children()) == 2
        closed.close()
        assert not multiprocessing.active_children()
        assert next(closed.epoch(0)).names == first.names
    assert not multiprocessing.active_children()


def test_an_unused_loader_ends_its_processes(root):
    forgotten = loader(Folder(root), batch=4, workers=1)
    next(forgotten.epoch(0))
    assert multiprocessing.active_children()
    del forgotten
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_that_ends_leaves_the_workers_alive(root):
    """It closes its copy of the loader at the end, but the workers are the parent's."""
    with loader(Folder(root), batch=4, workers=1) as parents:
        next(parents.epoch(0))
        assert forked(lambda: parents.close() is None) == 0
        assert [process.is_alive() for process in multiprocessing.active_children()] == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_workers_of_its_own(root):
    """With the parent's workers it would send in the parent's name, and read answers meant for the parent."""
    with loader(Folder(root), batch=4, workers=1) as parents:
        first, *rest = [batch.names for batch in parents.epoch(0)]
        next(parents.epoch(0))
        before = parents._workers

        def goes_on():
            found = next(parents.epoch(0, 1)).names
            return found == rest[0] and parents._workers is not before

        assert forked(goes_on) == 0
        assert [batch.names for batch in parents.epoch(0, 1)] == rest


def descendants(session):
    """(process, command) of the living processes of that session."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if folder.name.isdigit() and int(fields[3]) == session and fields[0] not in "ZX":
                found.append((int(folder.name), (folder / "cmdline").read_bytes()))
        except (OSError, IndexError):   # gone by now, or not a process
            continue
    return found


def started(root, *arguments):
    child = subprocess.Popen([sys.executable, str(CHILD), str(root), *arguments], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, start_new_session=True, text=True,
                             env=os.environ | {"PYTHONPATH": str(ROOT)})
    for _ in range(3):
        assert child.stdout.readline() == "step\n", child.stderr.read()
    return child


def nothing_left(child, seconds=60):
    """Whether all processes end; they may be slow on a busy machine."""
    end = time.monotonic() + seconds
    while descendants(child.pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not descendants(child.pid)


@linux
def test_ctrl_c_leaves_no_process_and_no_output_of_a_worker(root):
    """As from a terminal, Ctrl-C goes to every process of the group; only the parent's traceback is printed."""
    child = started(root, "2")
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt")
    assert nothing_left(child)


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_no_process_and_no_memory(root, how):
    child = started(root, "2")
    assert len(descendants(child.pid)) >= 3
    child.send_signal(how)
    child.communicate(timeout=60)
    assert nothing_left(child)
    # Where multiprocessing keeps shared memory: names of its files begin with pym- and the process's number, or with
    # psm_.
    assert not list(Path("/dev/shm").glob(f"pym-{child.pid}-*"))


def test_a_script_without_a_guard_is_an_error_that_says_so(root):
    """Each worker imports the script. If that starts workers again, the guard `if __name__ == "__main__"` is
    missing."""
    done = subprocess.run([sys.executable, str(CHILD), str(root), "1", "unguarded"], capture_output=True, text=True,
                          timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.endswith('a script that starts workers does so below `if __name__ == "__main__":`')
    assert "Error: expected a process that prepares images to live" in said  # no image was begun, so none is named


class Plan:
    """As much of a plan of steps as is needed to divide units among workers."""

    def __init__(self, batch, unit):
        self.shape, self.unit = (batch,), unit

    def indices(self, epoch, step):
        return range(self.shape[0])


@pytest.mark.parametrize("batch, unit", [(8, 2), (2, 2), (7, 1), (1, 1)])
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_every_row_is_prepared_by_one_worker_and_all_workers_have_some(batch, unit, workers):
    plan, made = Plan(batch, unit), {worker: 0 for worker in range(workers)}
    steps = 16 * unit
    for step in range(steps):
        rows = []
        for worker in range(workers):
            for unit_rows in rows_of(plan, 0, step, worker, workers):
                assert len(unit_rows) == unit
                rows += unit_rows
                made[worker] += len(unit_rows)
        assert sorted(rows) == list(range(batch))
    assert max(made.values()) - min(made.values()) <= unit


def test_a_worker_reports_the_image_that_it_reads_and_none_afterwards():
    """Otherwise, if the worker ended then, an image would be blamed."""
    at, arrived = [-1, -1], []

    class Filling(Plan):
        def fill(self, epoch, step, rows, images, targets, arrive):
            for row in rows:
                arrive(10 + row)
                arrived.append(list(at))
            return []

    assert workers_module._units(Filling(8, 2), 0, 0, None, None, at, worker=1, workers=2) == ([], None)
    assert arrived == [[-1, 12], [-1, 13], [-1, 16], [-1, 17]] and at == [-1, -1]
