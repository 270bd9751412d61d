"""Atomic writing: whatever fails, and whenever, a file has all of its old or all of its new content, and no temporary
file is left."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from levit_np.storage import confined
from levit_np.storage.atomic import replacing
from tests.storage import child_functions

OLD, NEW = b"old" * 1000, b"new" * 2000
FAILURES = (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), MemoryError())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "weights.h5"
    path.write_bytes(OLD)
    return path


def replace(path: Path) -> None:
    with replacing(path) as file:
        file.write(NEW)


def test_the_new_content_is_there_and_nothing_else(target):
    replace(target)
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == [target.name]


def test_no_descriptor_stays_open(target):
    """A training writes thousands of files."""
    def next_one() -> int:
        with open(os.devnull) as file:
            return file.fileno()

    before = next_one()
    replace(target)
    assert next_one() == before


def test_in_a_current_folder_that_was_removed_the_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    with pytest.raises(FileNotFoundError) as caught:
        replace(Path("weights.h5"))
    assert str(caught.value.filename) == "weights.h5"


def test_the_file_can_be_read_and_changed_before_it_appears(tmp_path):
    with replacing(tmp_path / "a") as file:
        file.write(b"seal:content")
        file.seek(5)
        assert file.read() == b"content"
        file.seek(0)
        file.write(b"SEAL")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"SEAL:content"


def test_a_path_without_a_directory_is_one_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", b"b"):
        replace(name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == NEW


def test_data_is_forced_to_the_disk_before_the_rename_and_the_rename_after(target, monkeypatch):
    steps = []
    fsync, rename = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        steps.append("directory" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(descriptor)

    def recorded_replace(source: str, destination: str) -> None:
        steps.append("rename")
        rename(source, destination)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    replace(target)
    assert steps == [f"{len(NEW)} bytes", "rename", "directory"]


@pytest.mark.parametrize("known", [True, False])
def test_on_macos_the_disks_own_cache_is_flushed(target, monkeypatch, known):
    fcntl = pytest.importorskip("fcntl")
    whole, synced = [], []

    def full(descriptor: int, command: int) -> None:
        if not known:  # refused by a file system, for example on a network
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        whole.append(command)

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
    replace(target)
    assert target.read_bytes() == NEW
    assert (whole, len(synced)) == (([51, 51], 0) if known else ([], 2))  # fsync of the file and of its folder


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("step", ["fsync", "replace", "chmod", "open", "block", "block after writing"])
def test_a_failure_before_the_rename_leaves_the_old_file_alone(target, monkeypatch, step, failure):
    def fails(*arguments: object, **options: object) -> None:
        raise failure

    if step == "open":
        monkeypatch.setattr("builtins.open", fails)
    elif "block" not in step:
        monkeypatch.setattr(os, step, fails)
    with pytest.raises(type(failure)) as caught, replacing(target) as file:
        if step == "block":
            fails()
        file.write(NEW)
        if step == "block after writing":
            fails()
    monkeypatch.undo()
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == [target.name]
    if isinstance(failure, OSError):
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failure_after_the_rename_leaves_the_new_file_whole(target, monkeypatch, failure):
    fsync = os.fsync

    def fails_for_the_directory(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise failure
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_the_directory)
    with pytest.raises(type(failure)):
        replace(target)
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_a_directory_is_no_failure(target, monkeypatch, code):
    fsync = os.fsync

    def fails_for_the_directory(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_the_directory)
    replace(target)
    assert target.read_bytes() == NEW


# 100 bytes stay in Python's buffer until flush; more are written, and fail, at once.
@pytest.mark.parametrize(("size", "limit"), [(100, 10), (1 << 20, 1 << 16)])
def test_a_full_disk_leaves_the_old_file_alone(target, size, limit):
    error = confined.run(child_functions.replace_on_a_full_disk, target, size, limit)
    assert error == f"OSError: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{target}'"
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == [target.name]


def test_an_error_of_the_block_about_another_file_keeps_its_name(target):
    with pytest.raises(FileNotFoundError) as caught, replacing(target):
        open("/no/such/file").close()
    assert caught.value.filename == "/no/such/file"


def test_an_error_of_the_block_without_a_number_keeps_its_words(target):
    """For example libhdf5's errors."""
    with pytest.raises(OSError, match="^Unable to write$"), replacing(target):
        raise OSError("Unable to write")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        replace(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o640, 0])
def test_an_existing_file_keeps_its_permissions(target, mode):
    target.chmod(mode)
    replace(target)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_where_a_read_only_file_can_be_neither_replaced_nor_removed_nothing_is_left(target, monkeypatch):
    """As on Windows."""
    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    unlink = os.unlink
    target.chmod(0o444)
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr(os, "replace", refused)
        windows.setattr(os, "unlink", lambda path: unlink(path) if os.stat(path).st_mode & stat.S_IWUSR else refused())
        with pytest.raises(PermissionError) as caught, replacing(str(target)) as file:
            file.write(NEW)
    assert caught.value.filename == str(target)
    assert target.read_bytes() == OLD and os.listdir(target.parent) == [target.name]


def test_windows_cannot_sync_a_directory(target, monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr(os, "open", lambda *_: pytest.fail("was opened"))
        replace(str(target))
    assert target.read_bytes() == NEW


def test_a_symbolic_link_stays_and_the_file_behind_it_is_replaced(target, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.h5"
    link.symlink_to("../weights.h5")
    replace(link)
    assert link.is_symlink() and target.read_bytes() == NEW
    assert os.listdir(link.parent) == [link.name]


def test_a_symbolic_link_to_nothing_gets_a_file(tmp_path):
    (tmp_path / "link").symlink_to("file")
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == NEW


@pytest.mark.parametrize(
    ("make", "words"), [(Path.mkdir, os.strerror(errno.EISDIR)), (os.mkfifo, "expected a regular file")],
    ids=["directory", "pipe"],
)
def test_only_regular_files_are_replaced(tmp_path, make: Callable[[Path], None], words):
    make(tmp_path / "a")
    kind = stat.S_IFMT(os.stat(tmp_path / "a").st_mode)
    with pytest.raises(OSError, match=f"{words}: '{tmp_path / 'a'}'"):
        replace(tmp_path / "a")
    assert stat.S_IFMT(os.stat(tmp_path / "a").st_mode) == kind
    assert os.listdir(tmp_path) == ["a"]


def test_a_missing_directory_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        replace(tmp_path / "missing" / "a")
    assert caught.value.filename == str(tmp_path / "missing" / "a")


_WRITER = """
import sys
sys.path[:] = sys.argv[2:]
from levit_np.storage.atomic import replacing
for version in range(1 << 30):
    with replacing(sys.argv[1]) as file:
        for _ in range(16):
            file.write(b"%08d" % version * 2048)
    if version == 0:
        print(flush=True)
"""


def kill_while_writing(path: Path, delay: float) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, path, *sys.path], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)


def check_killing(directory: Path, times: int) -> None:
    rng = random.Random(0)
    target = directory / "a"
    for _ in range(times):
        kill_while_writing(target, rng.uniform(0, 0.02))
        content = target.read_bytes()
        assert content == content[:8] * (16 * 2048)
        assert all(name == "a" or name.startswith(".levit_np-") for name in os.listdir(directory))


def test_a_kill_at_any_time_leaves_a_whole_version(tmp_path):
    check_killing(tmp_path, 12)


@pytest.mark.slow
def test_a_thousand_kills_leave_a_whole_version(tmp_path):
    check_killing(tmp_path, 1000)
