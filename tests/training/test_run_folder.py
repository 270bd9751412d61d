"""A run's folder has one writer, and what is written there small: the lock, the log, the images that were skipped."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from levit_np.errors import TrainingError
from levit_np.training.folder import RunFolder
from levit_np.training.log import Log

from .small_run import run


def test_one_writer(tmp_path):
    path = tmp_path / "run"
    code = ("import sys; sys.path[:] = sys.argv[2:]\nfrom levit_np.training.folder import RunFolder\n"
            "with RunFolder(sys.argv[1]).locked(fresh=True):\n print(flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, path, *sys.path], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(TrainingError,
                           match=f"expected to be the only writer, found another, process '{other.pid}'"):
            run(path)
        other.kill()
    run(path)  # a kill leaves no lock
    with RunFolder(path).locked(fresh=False):
        pass


def test_one_writer_where_bytes_of_a_file_are_locked(tmp_path, monkeypatch):
    """Windows locks them from the file's position on, and lets nobody else read them."""
    taken = []

    def locking(descriptor, mode, count):
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        if place in taken:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        taken.append(place)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with RunFolder(tmp_path).locked(fresh=True):
        with pytest.raises(TrainingError, match=f"found another, process '{os.getpid()}'"):
            with RunFolder(tmp_path).locked(fresh=True):
                pass
        assert taken[0] >= (tmp_path / "lock").stat().st_size


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_written_to_with_a_warning(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="run: its file system has no locks"), \
            RunFolder(tmp_path / "run").locked(fresh=True):
        pass


def test_a_small_file_that_cannot_be_written_is_said_by_name(tmp_path):
    resource = pytest.importorskip("resource")
    folder, (soft, hard) = RunFolder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    for path, write in ((tmp_path / "lock", lambda: folder.locked(fresh=True).__enter__()),
                        (folder.skipped, lambda: folder.record_skipped("a.png: truncated"))):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # nothing has room
        try:
            with pytest.raises(OSError) as raised:
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))


def test_a_line_of_the_log_has_the_same_bytes_on_every_system(tmp_path, monkeypatch):
    """Windows writes \\r\\n for \\n to a file that was not opened as binary."""
    opened, flags = os.open, []
    monkeypatch.setattr(os, "O_BINARY", os.O_CLOEXEC, raising=False)  # which changes nothing here
    monkeypatch.setattr(os, "open", lambda path, how, *mode: flags.append(how) or opened(path, how, *mode))
    Log(tmp_path / "log.jsonl").append({"epoch": 1})
    assert flags[0] & os.O_BINARY
