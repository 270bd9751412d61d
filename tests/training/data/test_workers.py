"""Worker processes that are killed, fail, or lose their parent; and that a Ctrl-C leaves nothing behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from levit_np.errors import DataError, LevitError
from levit_np.training.data.folder import Folder
from levit_np.training.data.loader import Loader
from levit_np.training.data.workers import rows_of
from levit_np.training.recipe import Recipe

from ..image_folders import make_folder

CHILD = Path(__file__).with_name("loader_child.py")
ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images") / "train", classes=2, images=6)


class Deadly(Folder):
    """Kills the process that reads one of its images, or raises there what no reader should."""

    victim, how = 7, "kill"

    def read(self, index):
        if index == self.victim and multiprocessing.parent_process():
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("a bug")
        return super().read(index)


class Faulty(Deadly):
    how = "raise"


def loader(source, **options):
    return Loader(source, Recipe(repeats=1), **{"image_size": (24, 24), "in_channels": 3, "batch": 12, "seed": 0, **options})


def test_a_worker_that_dies_is_an_error_that_names_the_file(root):
    with loader(Deadly(root), workers=2) as deadly:
        with pytest.raises(DataError, match=r"class1/001.png: expected the process that prepares this image to live, found "
                                            r"it ended by signal 9 \(Killed\)"):
            list(deadly.epoch(0))
        assert not multiprocessing.active_children()
        with pytest.raises(DataError, match="class1/001.png"):   # it starts new ones, which meet the same end
            list(deadly.epoch(1))


def test_an_unexpected_error_comes_with_its_file_and_its_traceback(root):
    with loader(Faulty(root), workers=2) as faulty, pytest.raises(RuntimeError) as caught:
        list(faulty.epoch(0))
    assert str(caught.value).startswith("class1/001.png: ") and not isinstance(caught.value, LevitError)
    assert "in read" in str(caught.value) and "ZeroDivisionError: a bug" in str(caught.value)


def test_a_worker_killed_from_outside(root):
    with loader(Folder(root), batch=4, workers=2) as killed, pytest.raises(DataError, match="signal 9"):
        for epoch in range(1000):
            for _ in killed.epoch(epoch):
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def test_closing_ends_the_processes_and_the_loader_can_go_on(root):
    with loader(Folder(root), batch=4, workers=2) as closed:
        first = next(closed.epoch(0))
        assert len(multiprocessing.active_children()) == 2
        closed.close()
        assert not multiprocessing.active_children()
        assert next(closed.epoch(0)).names == first.names
    assert not multiprocessing.active_children()


def test_a_loader_that_is_forgotten_ends_its_processes(root):
    forgotten = loader(Folder(root), batch=4, workers=1)
    next(forgotten.epoch(0))
    assert multiprocessing.active_children()
    del forgotten
    assert not multiprocessing.active_children()


def descendants(session):
    """(process, its command) of those of that session that live."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if folder.name.isdigit() and int(fields[3]) == session and fields[0] not in "ZX":
                found.append((int(folder.name), (folder / "cmdline").read_bytes()))
        except (OSError, IndexError):   # gone meanwhile, or no process
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
    """Processes may be slow on a busy machine; they end, or this is False."""
    end = time.monotonic() + seconds
    while descendants(child.pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not descendants(child.pid)


@linux
def test_a_ctrl_c_leaves_no_process_and_no_word_of_a_worker(root):
    """As from a terminal, to every process of the group; the parent's own traceback is all that is said."""
    child = started(root, "2")
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt")
    assert nothing_left(child)


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_no_process_and_no_memory(root, how):
    def shared():
        return {name for name in os.listdir("/dev/shm") if name.startswith(("pym-", "psm_"))} if Path("/dev/shm").exists() else {}

    before = shared()
    child = started(root, "2")
    assert len(descendants(child.pid)) >= 3
    child.send_signal(how)
    child.communicate(timeout=60)
    assert nothing_left(child)
    assert not {name for name in set(shared()) - set(before) if name.startswith(f"pym-{child.pid}-")}


def test_a_script_without_a_guard_is_told_of_it(root):
    """Each worker imports the script; that it then starts workers itself is the usual mistake."""
    done = subprocess.run([sys.executable, str(CHILD), str(root), "1", "unguarded"], capture_output=True, text=True,
                          timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith('a script that starts workers does so below `if __name__ == "__main__":`')


class Plan:
    """As much of a plan as the dealing of units needs."""

    def __init__(self, batch, unit):
        self.shape, self.unit = (batch,), unit

    def indices(self, epoch, step):
        return range(self.shape[0])


@pytest.mark.parametrize("batch, unit", [(8, 2), (2, 2), (7, 1), (1, 1)])
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_every_row_is_made_by_one_worker_and_all_workers_have_some(batch, unit, workers):
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
