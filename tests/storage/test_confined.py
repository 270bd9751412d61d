"""Running a function in a confined child process: if it misbehaves in any way, that is a CheckpointError in one line,
and the child is dead."""

import _thread
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from levit_np.errors import CheckpointError
from levit_np.storage import confined
from tests.storage import child_functions as functions


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_arguments_and_result_pass_as_json():
    found = confined.run(functions.echo, 1, 2.5, "é\udcff\n", None, [1, {"a": True}], Path("/tmp/x"))
    assert found == [1, 2.5, "é\udcff\n", None, [1, {"a": True}], "/tmp/x"]


def test_a_function_of_the_standard_library_is_found():
    assert confined.run(os.path.basename, "/a/b") == "b"


def test_neither_the_working_directory_nor_the_environment_adds_a_module(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert confined.run(functions.echo, 1) == [1]
    assert confined.run(functions.search_path) == sys.path


def test_the_package_is_found_from_anywhere_without_being_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert confined.run(functions.echo) == []


@pytest.mark.parametrize("name, value", [("frozen", True), ("executable", None), ("executable", "")])
def test_a_program_without_an_interpreter_starts_nothing(name, value, monkeypatch):
    """Itself least of all, as a frozen one would."""
    monkeypatch.setattr(sys, name, value, raising=False)
    monkeypatch.setattr(confined.subprocess, "Popen", None)
    with pytest.raises(CheckpointError, match="expected a Python interpreter to start, found a program without one"):
        confined.run(functions.refuse, "no")


def test_a_refusal_keeps_its_message():
    with pytest.raises(CheckpointError, match="^weights.pth: expected this, found 'é'$"):
        confined.run(functions.refuse, "weights.pth: expected this, found 'é'")


def test_another_exception_is_named_in_one_line():
    with pytest.raises(CheckpointError, match="functions.fail in a child process: failed with ValueError: one line and "
                                             "another$"):
        confined.run(functions.fail)


@pytest.mark.parametrize(
    ("function", "words"),
    [(functions.segfault, f"functions.segfault in a child process: ended by signal {int(signal.SIGSEGV)} .Segm"),
     (os.abort, f"abort in a child process: ended by signal {int(signal.SIGABRT)} .Abort"),
     (functions.leave, "leave in a child process: expected an answer, found exit status 3 and 0 bytes")],
)
def test_a_crash_is_named(function, words):
    with pytest.raises(CheckpointError, match=words):
        confined.run(function)


def test_too_much_memory_is_named():
    assert confined.run(functions.take_memory, 50 << 20, memory=100 << 20) == 50 << 20
    with pytest.raises(CheckpointError, match="MemoryError: expected at most 100 MB"):
        confined.run(functions.take_memory, 101 << 20, memory=100 << 20)


def test_a_file_larger_than_the_memory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="File too large"):
        confined.run(functions.write_file, tmp_path / "a", 33 << 20, memory=32 << 20)


def test_all_limits_are_set(monkeypatch):
    for name in functions.THREADS:
        monkeypatch.setenv(name, "7")  # each thread of a linear-algebra library would reserve address space
    found = confined.run(functions.limits, seconds=20, memory=64 << 20)
    assert 20 <= found["RLIMIT_CPU"][0] <= 25
    assert 20 < found["timer"] <= 21
    # The second number is the limit up to which a subverted child could raise the first.
    assert found["RLIMIT_CORE"] == [0, 0]
    assert found["threads"] == ["1"] * 3
    assert found["RLIMIT_FSIZE"] == [64 << 20, 64 << 20]


def test_a_child_that_takes_too_much_processor_time_gets_a_signal_before_it_is_killed():
    resource = pytest.importorskip("resource")
    assert confined.run(functions.limits)["RLIMIT_CPU"][1] == resource.getrlimit(resource.RLIMIT_CPU)[1]


@pytest.mark.parametrize("refusal", [ValueError("not allowed to raise maximum limit"), OSError(errno.ENOSYS, "no")])
def test_each_limit_is_set_that_the_system_allows(monkeypatch, refusal):
    """macOS has no /proc and refuses to limit the address space. Processor time that was used before does not count."""
    tried = {}

    def no_such_file(*arguments, **options):
        raise FileNotFoundError

    def set_limit(name, limits):
        tried[name] = limits
        if name == "address space":
            raise refusal

    resource = SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_utime=100.25, ru_stime=50.5), setrlimit=set_limit,
        getrlimit=lambda name: (7, 999), RLIMIT_AS="address space", RLIMIT_CPU="time", RLIMIT_FSIZE="file",
        RLIMIT_CORE="core")
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(confined, "signal", SimpleNamespace(SIGALRM=14, SIG_DFL=0, ITIMER_REAL=0,
                                                            signal=lambda *_: None, setitimer=lambda *_: None))
    monkeypatch.setattr(confined, "open", no_such_file, raising=False)
    confined._limit(2.5, 64)
    assert tried == {"core": (0, 0), "file": (64, 64), "time": (154, 999), "address space": (64, 64)}


def test_where_the_system_has_no_such_limits_there_is_only_the_parents(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    confined._limit(1, 64)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the address space is read there")
def test_the_address_space_may_grow_by_the_memory_and_no_more():
    assert 63 << 20 < confined.run(functions.room, memory=64 << 20) <= 64 << 20
    soft, hard = confined.run(functions.limits, memory=64 << 20)["RLIMIT_AS"]
    assert soft == hard


def test_a_parent_that_ignores_the_alarm_does_not_make_the_child_immortal():
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        assert confined.run(functions.limits)["alarm"] == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGALRM, before)


def test_too_much_time_is_named():
    with pytest.raises(CheckpointError, match="expected to end within 1 s"):
        confined.run(functions.spin, seconds=1)


def test_the_child_is_dead_when_its_time_is_over(tmp_path):
    who = tmp_path / "who"
    with pytest.raises(CheckpointError, match="expected to end within 3 s"):
        confined.run(functions.sleep_after_saying_who, who, seconds=3)
    assert not is_running(int(who.read_text()))


def test_an_interrupt_of_the_parent_ends_the_child(tmp_path):
    who = tmp_path / "who"

    def interrupt() -> None:
        while not (who.exists() and who.read_text()):
            time.sleep(0.01)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        confined.run(functions.sleep_after_saying_who, who)
    thread.join()
    assert not is_running(int(who.read_text()))


def test_a_child_whose_parent_was_killed_ends_by_itself(tmp_path):
    who = tmp_path / "who"
    code = (f"import sys; sys.path[:] = {sys.path!r}\n"
            "from levit_np.storage import confined\nfrom tests.storage import child_functions\n"
            f"confined.run(child_functions.sleep_after_saying_who, {str(who)!r}, seconds=3)")
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        while not (who.exists() and who.read_text()):
            assert parent.poll() is None
            time.sleep(0.01)
        parent.kill()
    child = int(who.read_text())
    patience = time.monotonic() + 30
    # An orphan that no process collects remains in the process table as a zombie.
    while is_running(child) and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < patience
        time.sleep(0.05)


def test_what_the_function_prints_is_not_the_answer(capfd):
    assert confined.run(functions.chatter) == "answer"
    assert capfd.readouterr() == ("", "")


def test_an_endless_answer_is_refused():
    assert len(confined.run(functions.answer_at_length, 1 << 19)) == 1 << 19
    with pytest.raises(CheckpointError, match="expected an answer, found exit status 0"):
        confined.run(functions.answer_at_length, 1 << 20)


@pytest.mark.parametrize(
    "reply", [b"", b"[]", b"{}", b'{"result"', b'{"refusal": 1}', b'{"failure": 1}', b"\xff", b"[" * 100_000, b"null"]
)
def test_an_answer_that_is_not_valid_is_refused(reply):
    with pytest.raises(CheckpointError, match="expected an answer"):
        confined._result(reply, 0, "place")


@pytest.mark.parametrize("reply", [b'{"result": 1}', b'{"refusal": "no"}', b'{"failure": "no"}'])
def test_an_answer_of_a_child_that_then_fails_is_ignored(reply):
    with pytest.raises(CheckpointError, match="exit status 1"):
        confined._result(reply, 1, "place")
