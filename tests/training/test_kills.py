"""Training that is killed at any time or runs out of disk: only the time since the last checkpoint is lost, and nothing
is mixed.

Child processes are forked from this one, which has everything imported: starting an interpreter for each of a thousand
kills would take a day."""

import errno
import os
import random
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from levit_np.errors import TrainingError
from levit_np.storage import atomic
from levit_np.training.checkpoint import Checkpoints

from .small_run import STEPS, digest, end_of, interrupted_at, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(the files with which a run ends, {steps: digests of the states saved then}) of a run that is not disturbed."""
    path, states, save = tmp_path_factory.mktemp("whole") / "run", {}, Checkpoints.save

    def noted(self, arrays, document):
        states.setdefault(document["steps"], set()).add(digest(arrays, document))
        save(self, arrays, document)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", noted)
        run(path, save_seconds=0)
    return end_of(path), states


def child(work) -> int:
    """Forks a process that does `work` and exits with 0, or with 1 after an OSError; returns its number."""
    number = os.fork()
    if number:
        return number
    try:
        os.fsync = lambda descriptor: None  # what was written survives the process without it
        work()
        status = 0
    except OSError:
        status = 1
    except BaseException:
        status = 2
    finally:
        os._exit(status)


def ended(number) -> int:
    """The child's exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def begun(path) -> bool:
    return (path / "config.json").exists()


def check(path, states, least):
    """Checks that the newest checkpoint is a complete state of the undisturbed run, after at least `least` steps, and
    that there are no more than four. (The log is compared with the files of a finished run.)"""
    if not begun(path):
        assert least < 0
        return
    arrays, document, skipped = Checkpoints(path / "checkpoints").newest()
    assert not skipped and least <= document["steps"]
    assert digest(arrays, document) in states[document["steps"]]
    assert 1 <= len(Checkpoints(path / "checkpoints").paths()) <= 4  # one more while the oldest is being removed


def kill_at_random(folder, undisturbed, times, seed=0):
    """Kills one run again and again until it ends by itself, then the next one; returns the number of kills and of
    finished runs."""
    chance, kills, ends = random.Random(seed), 0, 0
    whole, states = undisturbed
    while kills < times:
        path, status = folder / f"run{ends}", None
        reports = folder / f"saved{ends}"
        reports.write_bytes(b"")
        while status != 0 and kills < times:
            number = child(lambda: run(path, resume=begun(path), save_seconds=0, saved=reports))
            time.sleep(chance.uniform(0, 0.15))
            os.kill(number, signal.SIGKILL)
            status = ended(number)
            assert status in (0, -signal.SIGKILL)
            kills += status != 0
            check(path, states, max([-1, *reports.read_bytes()]))
        if status != 0:
            run(path, resume=begun(path))
        assert end_of(path) == whole
        ends += 1
    return kills, ends


def test_fifty_kills_at_random(tmp_path, undisturbed):
    kills, ends = kill_at_random(tmp_path, undisturbed, 50)
    assert kills == 50 and ends


@pytest.mark.slow
def test_a_thousand_kills_at_random(tmp_path, undisturbed):
    kills, ends = kill_at_random(tmp_path, undisturbed, 1000)
    print(f"\n{kills} kills, {ends} runs ended, each with the bytes of the undisturbed one")


class Calls:
    """Counts what reaches the disk (each write, fsync, rename and unlink of this process), and calls `then` at the call
    number `fatal`."""

    def __init__(self, fatal, then):
        self.count, self.fatal, self.then = 0, fatal, then

    def happens(self, do, part=None):
        """Calls do(); at the fatal call `part` of it first, if given, and then `then`."""
        self.count += 1
        if self.count == self.fatal:
            if part:
                part()
            self.then()
        return do()

    def plant(self):
        """Replaces the functions in this process, permanently."""
        fsync, replace, unlink, write, opened = os.fsync, os.replace, os.unlink, os.write, open
        calls = self

        class File:
            """The file that atomic.replacing writes to."""

            def __init__(self, file):
                self.file = file

            def write(self, data):
                half = bytes(memoryview(data)[: len(data) // 2])
                return calls.happens(lambda: self.file.write(data), lambda: (self.file.write(half), self.file.flush()))

            def __getattr__(self, name):
                return getattr(self.file, name)

        os.fsync = lambda descriptor: calls.happens(lambda: fsync(descriptor))
        os.replace = lambda *names: calls.happens(lambda: replace(*names))
        os.unlink = lambda path, **more: calls.happens(lambda: unlink(path, **more))
        Path.unlink = lambda path, missing_ok=False: os.unlink(path)
        os.write = lambda descriptor, data: calls.happens(
            lambda: write(descriptor, data), lambda: write(descriptor, data[: len(data) // 2]))
        atomic.open = lambda *arguments: File(opened(*arguments))


@contextmanager
def disk(calls):
    """calls.plant() is permanent, as suits a child; this undoes it, for counting."""
    kept = os.fsync, os.replace, os.unlink, os.write, Path.unlink
    calls.plant()
    try:
        yield
    finally:
        os.fsync, os.replace, os.unlink, os.write, Path.unlink = kept
        del atomic.open


def calls_of(work) -> int:
    calls = Calls(0, None)
    with disk(calls):
        work()
    return calls.count


def two_saves(path):
    """Most of the run exists already; what is killed is its continuation through a checkpoint, an epoch's end, the
    removal of old checkpoints, and the log."""
    run(path, resume=True, save_seconds=0)


@pytest.fixture
def nearly_done(tmp_path, undisturbed):
    """A function that makes the folder of a run before its last step."""
    import shutil

    from levit_np.training.interrupt import Stopped

    with pytest.raises(Stopped):
        run(tmp_path / "start", each=interrupted_at(STEPS - 1), save_seconds=0)

    def copy(name):
        return Path(shutil.copytree(tmp_path / "start", tmp_path / name))
    return copy


def test_killed_at_every_write_fsync_rename_and_unlink(nearly_done, undisturbed):
    whole, states = undisturbed
    total = calls_of(lambda: two_saves(nearly_done("counted")))
    assert total > 12
    for fatal in range(1, total + 1):
        path = nearly_done(f"at{fatal}")

        def work():
            Calls(fatal, lambda: os._exit(9)).plant()
            two_saves(path)

        assert ended(child(work)) == 9
        check(path, states, STEPS - 1)
        run(path, resume=True)
        assert end_of(path) == whole, fatal
        assert not list(path.rglob("*.tmp"))


def test_killed_at_every_such_call_of_the_beginning(tmp_path, undisturbed):
    """A run exists as soon as its config.json does; before, it can begin again."""
    (whole, states), there = undisturbed, []
    for fatal in range(1, 12):
        path = tmp_path / f"at{fatal}"

        def work():
            Calls(fatal, lambda: os._exit(9)).plant()
            run(path)

        assert ended(child(work)) == 9
        there.append(begun(path))
        check(path, states, 0 if there[-1] else -1)
        run(path, resume=begun(path))
        assert end_of(path) == whole, fatal
    assert there == [False] * 10 + [True]


def test_the_disk_full_at_every_write(nearly_done, undisturbed):
    """Old checkpoints are complete, temporary files are gone, the log has complete lines; with room again the run
    continues."""
    whole, states = undisturbed

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    total = calls_of(lambda: two_saves(nearly_done("counted")))
    for fatal in range(1, total + 1):
        path = nearly_done(f"at{fatal}")

        def work():
            Calls(fatal, full).plant()
            two_saves(path)

        assert ended(child(work)) == 1, fatal
        assert not list(path.rglob("*.tmp"))
        check(path, states, STEPS - 1)
        assert (path / "log.jsonl").read_bytes().endswith(b"}\n")
        run(path, resume=True)
        assert end_of(path) == whole, fatal


def test_a_full_disk_names_the_file(nearly_done, monkeypatch):
    path = nearly_done("full")

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with disk(Calls(4, full)), pytest.raises(OSError) as caught:
        two_saves(path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename.startswith(str(path))


def test_a_disk_that_is_full_from_the_first_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(OSError):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_check_detects_a_mixed_state(nearly_done, undisturbed):
    """A file with arrays of two checkpoints, correctly sealed, as a writer that is not atomic could leave it."""
    path = nearly_done("mixed")
    check(path, undisturbed[1], STEPS - 1)
    checkpoints = Checkpoints(path / "checkpoints")
    arrays, document, _ = checkpoints.newest()
    checkpoints.paths()[0].unlink()
    older, _, _ = checkpoints.newest()
    checkpoints.save(arrays | {"model.head.weight": older["model.head.weight"]}, document)
    assert not checkpoints.newest()[2]  # the file itself is whole: only the digest of the state can detect the mixture
    with pytest.raises(AssertionError):
        check(path, undisturbed[1], STEPS - 1)
    for checkpoint in checkpoints.paths():
        checkpoint.unlink()
    with pytest.raises(TrainingError, match="expected a whole checkpoint"):
        check(path, undisturbed[1], STEPS - 1)
