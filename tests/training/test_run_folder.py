"""A run's folder: its lock, so that only one process writes there, its log, and its other small files."""

import errno
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from levit_np.errors import TrainingError
from levit_np.training.folder import RunFolder, require_same
from levit_np.training.log import Log

from . import small_run
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
    run(path)  # a killed run leaves no lock
    with RunFolder(path).locked(fresh=False):
        assert (path / "lock").read_text() == str(os.getpid())  # only the last process's number


@pytest.mark.parametrize("when", ["between steps", "while it validates"])
@pytest.mark.parametrize("done", ["moved", "emptied", "begun again"])
def test_a_run_whose_folder_is_moved_writes_into_no_other(tmp_path, monkeypatch, done, when):
    """Neither into a folder that somebody creates in its place, nor among that run's checkpoints and weights."""
    path, left, validate = tmp_path / "run", [], small_run.validate

    def taken(step):
        if left:
            return
        path.rename(tmp_path / "moved")
        if done != "moved":
            path.mkdir()
            (path / "checkpoints").mkdir()
        if done == "begun again":
            monkeypatch.setattr(small_run, "validate", validate)
            run(path)
        left.extend(contents(tmp_path))

    def validated(model):
        taken(None)
        return validate(model)

    if when != "between steps":
        monkeypatch.setattr(small_run, "validate", validated)
    with pytest.raises(TrainingError, match=f"{path}: expected the folder that this run has locked, found it moved"):
        run(path, each=taken if when == "between steps" else lambda step: None, save_seconds=0)
    assert contents(tmp_path) == left


def contents(path):
    return [(file, file.read_bytes()) for file in sorted(path.rglob("*")) if file.is_file()]


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    """A teacher's or a validation's code may change it."""
    monkeypatch.chdir(tmp_path)
    run("run", each=lambda step: monkeypatch.chdir("/"))
    assert (tmp_path / "run" / "best.h5").exists() and len(Log(tmp_path / "run" / "log.jsonl").lines()) == 3


def test_one_writer_on_windows(tmp_path, monkeypatch):
    """Windows locks bytes from the file's position on, and other processes cannot read them."""
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
    folder = RunFolder(tmp_path / "run")
    with pytest.warns(UserWarning, match="run: its file system has no locks"), folder.locked(fresh=True):
        os.replace(tmp_path / "run/lock", tmp_path / "run/other")
        folder.require_locked()  # which file is which is for such a system to say, each time anew


def test_an_error_writing_a_small_file_names_it(tmp_path):
    resource = pytest.importorskip("resource")
    folder, (soft, hard) = RunFolder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    for path, write in ((tmp_path / "lock", lambda: folder.locked(fresh=True).__enter__()),
                        (folder.skipped, lambda: folder.record_skipped("a.png: truncated"))):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file has room
        try:
            with pytest.raises(OSError) as raised:
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))


def test_a_line_of_the_log_has_the_same_bytes_on_every_system(tmp_path, monkeypatch):
    """Windows writes \\r\\n for \\n to files that were not opened as binary."""
    opened, flags = os.open, []
    monkeypatch.setattr(os, "O_BINARY", os.O_CLOEXEC, raising=False)  # changes nothing here
    monkeypatch.setattr(os, "open", lambda path, how, *mode: flags.append(how) or opened(path, how, *mode))
    Log(tmp_path / "log.jsonl").append({"epoch": 1})
    assert flags[0] & os.O_BINARY


def test_lines_of_epochs_are_kept_among_other_lines_of_a_log(tmp_path):
    """A resumed run writes the log again: a user's note in it must not lose the epochs after it."""
    log, lines = Log(tmp_path / "log.jsonl"), [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "note": "∞"}]
    assert log.lines() == []
    for line in lines:
        log.append(line)
    assert log.lines() == lines
    whole = log.path.read_bytes()
    for other in ("[3]", "3", '{"loss": 0.1}', '{"epoch": "3"}', '{"epoch": true}', "{", "# slower from here", "\0"):
        log.path.write_bytes(whole + f"{other}\n".encode() + b'{"epoch": 3}\n{"epoch": 4')
        assert log.lines() == [*lines, {"epoch": 3}]
    log.cut(3)
    assert log.path.read_bytes() == whole + b'{"epoch": 3}\n'
    log.cut(1)
    assert log.lines() == lines[:1]


def test_a_line_of_the_log_is_forced_to_the_disk_and_its_file_closed(tmp_path, monkeypatch):
    """A training has more epochs than a process may have open files."""
    log, forced = Log(tmp_path / "log.jsonl"), []
    monkeypatch.setattr("levit_np.training.log.force", lambda file: forced.append((file, log.path.read_bytes())))
    log.append({"epoch": 1})
    ((descriptor, text),) = forced
    assert text == b'{"epoch": 1}\n'
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_a_line_that_the_disk_has_no_room_for_leaves_the_log_as_it_was(tmp_path):
    resource = pytest.importorskip("resource")
    log, (soft, hard) = Log(tmp_path / "log.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.append({"epoch": 1})
    before = log.path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 4, hard))  # room for the first letters of another line
    try:
        with pytest.raises(OSError) as raised:
            log.append({"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(log.path))
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("name, there", [("config.json", True), ("checkpoints/step-000000001.h5", True),
                                         ("checkpoints/step-000000000.h5", False)])
def test_a_run_exists_once_it_has_a_configuration_or_a_step(tmp_path, name, there):
    """A run that was killed before it wrote config.json, or a step, begins again."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(TrainingError, match="expected no run yet, found one") if there else nullcontext():
        with RunFolder(tmp_path).locked(fresh=True):
            pass


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_refused_leaves_no_folder_of_its_own(tmp_path, there):
    """For example without images; an existing folder stays."""
    path = tmp_path / "run"
    if there:
        path.mkdir()
    with pytest.raises(TrainingError), RunFolder(path).locked(fresh=True):
        raise TrainingError("no images")
    assert path.exists() == there


@pytest.mark.parametrize("name", ["best.h5", "last.h5"])
def test_weights_that_belong_to_no_run_are_not_replaced(tmp_path, name):
    """For example kept from a run whose checkpoints and configuration were removed."""
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(TrainingError, match=f"{name}: expected no weights before a run, found some"):
        with RunFolder(tmp_path).locked(fresh=True):
            pass
    assert (tmp_path / name).read_bytes() == b"weights"


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left, kept = ([folder / name for folder in (tmp_path, tmp_path / "checkpoints")]
                  for name in (".levit_np-1.tmp", "mine.tmp"))
    for path in (*left, *kept):
        path.write_bytes(b"half")
    with RunFolder(tmp_path).locked(fresh=True):
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_a_configuration_comes_back_and_what_is_none_is_refused(tmp_path):
    folder, config = RunFolder(tmp_path), {"settings": {"seed": 1}, "network": {}, "preprocessing": {}}
    with pytest.raises(TrainingError, match="config.json: expected the configuration of a run, found: .*No such file"):
        folder.read_config()
    folder.write_config(config)
    assert folder.read_config() == config and folder.config.read_text().endswith("}\n")
    for text, message in (("{", "found: .*config.json"), ("[1]", r"found '\[1\]'")):
        folder.config.write_text(text)
        with pytest.raises(TrainingError, match=f"config.json: expected the configuration of a run, {message}"):
            folder.read_config()
    for key in config:
        folder.write_config({other: value for other, value in config.items() if other != key})
        with pytest.raises(TrainingError, match=f"expected the {key} of a run in config.json, found none"):
            folder.read_config()


@pytest.mark.parametrize("ours, theirs, message", [
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "run: a: c: expected 2 as the run began with, found 3"),
    ({"a": 1}, {"a": {"b": 1}}, "run: a: expected 1 as the run began with, found {'b': 1}"),
    ({"a": {"b": 1}}, {"a": 1}, "run: a: expected {'b': 1} as the run began with, found 1"),
    ({"a": 1}, {"a": 1, "b": None}, "run: b: expected None .*"),
    ({"a": 1, "b": None}, {"a": 1}, "run: b: expected None .*"),
    ({"a": {"b": 1}, "c": [1]}, {"c": [1], "a": {"b": 1}}, None)])
def test_the_first_difference_of_two_configurations_is_named(ours, theirs, message):
    with pytest.raises(TrainingError, match=f"^{message}$") if message else nullcontext():
        require_same(ours, theirs, "run")
