"""The cache of compiled kernels on disk: compiled once, and a file is used only if it is complete, the user's own and
made from these sources.

These tests compile nothing: `compiled` is the real result of one compilation, returned by a counter instead of the
compiler."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from levit_np import BackendError
from levit_np.ops.cpu import instruction_set, library, machine_code

from ...at_once import at_once
from ...can_start import NEEDS_INTERPRETER

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and permissions")
# A process that evaluates a small network, with the package found through PYTHONPATH.
CHILD = """
import sys, numpy as np, levit_np
model = levit_np.create("levit_digits")
print(model(np.ones((1, 1, 32, 32), np.float32)).shape, *sorted({"numba", "llvmlite"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def compiled():
    """A sealed result of the compiler, from the cache that the whole suite shares."""
    code, entry = library._code("kernels", instruction_set.chosen())
    return machine_code.packed(code, entry)


@pytest.fixture
def compilations(compiled, tmp_path, monkeypatch):
    """An empty cache, and the list of instruction sets that are compiled from now on."""
    done = []
    monkeypatch.setenv("LEVIT_NP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_compile", lambda part, instructions: done.append(instructions.name) or compiled)
    return done


def code():
    return library._code("kernels", instruction_set.chosen())


def entries(tmp_path):
    return sorted((tmp_path / "cache").iterdir())


def test_compiled_once(compilations, compiled, tmp_path):
    assert machine_code.packed(*code()) == compiled and len(compilations) == 1
    assert machine_code.packed(*code()) == compiled and len(compilations) == 1
    (entry,) = entries(tmp_path)
    assert entry.read_bytes() == compiled
    if hasattr(os, "geteuid"):
        assert entry.stat().st_mode & 0o777 == 0o600 and entry.parent.stat().st_mode & 0o777 == 0o700


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:10], lambda data: data[:40], lambda data: data[:-1], lambda data: data + b"\0",
    lambda data: flipped(data, 3), lambda data: flipped(data, 30), lambda data: flipped(data, 60),
    lambda data: flipped(data, len(data) // 2), lambda data: flipped(data, len(data) - 1),
], ids=("empty", "magic", "seal", "short", "long", "in magic", "in seal", "in head", "in code", "at end"))
def test_damage_costs_one_compilation(compilations, compiled, tmp_path, damage):
    code()
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage(compiled))
    assert machine_code.packed(*code()) == compiled and len(compilations) == 2
    assert entry.read_bytes() == compiled and entries(tmp_path) == [entry]
    code()
    assert len(compilations) == 2


def test_a_directory_in_the_files_place(compilations, tmp_path):
    code()
    (entry,) = entries(tmp_path)
    entry.unlink()
    entry.mkdir()
    code()
    assert entry.is_file() and len(compilations) == 2
    entry.unlink()
    (entry / "somebody's").mkdir(parents=True)
    code()
    code()
    assert entry.is_dir() and len(compilations) == 4 and entries(tmp_path) == [entry]  # nothing else is left


def test_a_folder_that_cannot_be_written(compilations, compiled, tmp_path, capsys, monkeypatch):
    """A file in the folder's place is refused even for root. A folder that may not be looked at (say, in the home of
    the user who called sudo) is treated like one whose name is too long."""
    (tmp_path / "cache").write_bytes(b"kept")
    for place in (tmp_path / "cache", tmp_path / "cache" / "below", tmp_path / ("a" * 300)):
        monkeypatch.setenv("LEVIT_NP_CACHE", str(place))
        assert machine_code.packed(*code()) == compiled
        said = capsys.readouterr().err  # the notice says "once"
        assert said.count("\n") == 1 and said.startswith(f"levit_np: {place}: the kernels cannot be kept there (")
    assert len(compilations) == 3 and (tmp_path / "cache").read_bytes() == b"kept"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=("full", "Ctrl-C"))
@pytest.mark.parametrize("step", ["write", "replace"])
def test_no_partial_file_is_left(compilations, tmp_path, monkeypatch, error, step):
    def fail(*_):
        raise error

    def opened(**options):
        file = tempfile.NamedTemporaryFile(**options)
        file.write = fail
        return file

    if step == "write":
        monkeypatch.setattr(library, "tempfile", SimpleNamespace(NamedTemporaryFile=opened))
    else:
        monkeypatch.setattr(library.os, "replace", fail)
    if isinstance(error, OSError):
        code()
    else:
        with pytest.raises(KeyboardInterrupt):
            code()
    assert entries(tmp_path) == [] and len(compilations) == 1


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702])
def test_a_folder_where_others_may_write_is_left_alone(compilations, compiled, tmp_path, mode):
    code()
    (entry,) = entries(tmp_path)
    entry.write_bytes(b"theirs")
    (tmp_path / "cache").chmod(mode)
    with pytest.warns(UserWarning, match=f"{tmp_path / 'cache'}: other users may write there"):
        assert machine_code.packed(*code()) == compiled
    assert entry.read_bytes() == b"theirs" and len(compilations) == 2


@POSIX
def test_another_users_file_is_not_run(compilations, tmp_path, monkeypatch):
    code()
    (entry,) = entries(tmp_path)
    entry.chmod(0o666)
    code()
    assert len(compilations) == 2 and entry.stat().st_mode & 0o777 == 0o600  # replaced
    real = os.fstat

    def of_another(descriptor):
        status = list(real(descriptor))
        status[4] = os.geteuid() + 1
        return os.stat_result(status)

    monkeypatch.setattr(library.os, "fstat", of_another)
    code()
    assert len(compilations) == 3


def test_the_key_depends_on_everything_that_the_code_depends_on(tmp_path, monkeypatch):
    chosen = instruction_set.chosen()
    keys = [library._key("kernels", chosen)]
    assert library._key("kernels", chosen) == keys[0]
    copy = tmp_path / "cpu"
    shutil.copytree(Path(library.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(library, "__file__", str(copy / "library.py"))
    assert library._key("kernels", chosen) == keys[0]
    for source in sorted(copy.glob("*.py")):
        text = source.read_bytes()
        source.write_bytes(text + b"#")
        keys.append(library._key("kernels", chosen))
        source.write_bytes(text)
    (copy / "another.py").write_text("")
    keys.append(library._key("kernels", chosen))
    (copy / "another.py").unlink()
    versions = tmp_path / "_version.py"
    versions.write_text("version = 'next'")
    for package in ("numba", "llvmlite"):
        real = library._version_file
        with monkeypatch.context() as changed:
            changed.setattr(library, "_version_file", lambda name: versions if name == package else real(name))
            keys.append(library._key("kernels", chosen))
    for host in ("", "another"):
        with monkeypatch.context() as changed:
            changed.setattr(library.processor, "description", lambda: "another processor")
            keys.append(library._key("kernels", chosen._replace(cpu=host)))
    with monkeypatch.context() as changed:
        changed.setattr(library.sys, "version_info", (3, 99, 0))
        keys.append(library._key("kernels", chosen))
    assert len(set(keys)) == len(keys) > 15


@pytest.mark.parametrize("name", ["all.zip/levit_np/ops/cpu/library.py", "compiled/library.pyc"])
def test_the_key_where_there_are_no_source_files(tmp_path, monkeypatch, name):
    """In an archive the key depends on the archive; beside compiled modules without sources, on these modules."""
    (tmp_path / "all.zip").write_bytes(b"one")
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "library.pyc").write_bytes(b"one")
    monkeypatch.setattr(library, "__file__", str(tmp_path / name))
    keys = []
    for content in (b"one", b"one", b"two"):
        (tmp_path / "all.zip").write_bytes(content)
        (tmp_path / "compiled" / "library.pyc").write_bytes(content)
        keys.append(library._key("kernels", instruction_set.chosen()))
    assert keys[0] == keys[1] != keys[2]


def test_old_entries_are_removed(compilations, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for age in range(library.KEPT + 5):
        path = folder / f"avx0-{age}.kernels{'.tmp' if age % 2 else ''}"
        path.write_bytes(b"old")
        os.utime(path, (time.time() - 1000 - age,) * 2)
    (folder / "levit_256.h5").write_bytes(b"weights")
    code()
    left = entries(tmp_path)
    assert len(left) == library.KEPT + 1 and folder / "levit_256.h5" in left and folder / "avx0-0.kernels" in left
    assert folder / f"avx0-{library.KEPT + 4}.kernels" not in left
    code()
    assert len(compilations) == 1


def test_old_entries_that_another_process_removes(compilations, tmp_path, capsys, monkeypatch):
    """While this process lists them: its own entry is kept, and nothing is printed."""
    def gone(folder):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(library, "_prune", gone)
    code()
    code()
    assert len(compilations) == len(entries(tmp_path)) == 1 and capsys.readouterr().err == ""


def test_threads_at_the_same_time_compile_once(compilations, monkeypatch):
    monkeypatch.setattr(library, "_libraries", {})
    slow = library._compile
    monkeypatch.setattr(library, "_compile", lambda part, instructions: time.sleep(0.2) or slow(part, instructions))
    found = []
    at_once(lambda _: found.append(library.library()), 4)
    assert len(compilations) == 1 and len(found) == 4 and len(set(map(id, found))) == 1


# A stand-in for the compiler; the environment variable SLOW makes it wait and FAIL makes it fail.
COMPILER = """#!{python}
import os, sys, time
if os.environ.get("FAIL"):
    sys.exit("LLVM ERROR: out of registers")
time.sleep(float(os.environ.get("SLOW", "0")))
sys.stdout.buffer.write(open({result!r}, "rb").read())
"""


@pytest.fixture
def compiler(compiled, tmp_path, monkeypatch):
    """A fast stand-in for the child that compiles, and an empty cache."""
    (tmp_path / "result").write_bytes(compiled)
    script = tmp_path / "compiler"
    script.write_text(COMPILER.format(python=sys.executable, result=str(tmp_path / "result")))
    script.chmod(0o700)
    monkeypatch.setenv("LEVIT_NP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library.sys, "executable", str(script))
    return script


@POSIX
@NEEDS_INTERPRETER
def test_a_notice_once(compiler, capsys):
    for _ in range(3):
        code()
    found = capsys.readouterr()
    assert found.err == library.NOTICE + "\n" and found.out == ""


@POSIX
@NEEDS_INTERPRETER
@pytest.mark.parametrize("closed", [True, False], ids=("closed", "unread"))
def test_a_notice_that_cannot_be_printed(compiler, compiled, capsys, monkeypatch, closed):
    """The kernels are compiled all the same, and the notice is not mixed into the result."""
    def fail(*_):
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", None if closed else SimpleNamespace(write=fail, flush=fail))
    assert machine_code.packed(*code()) == compiled
    assert capsys.readouterr().out == ""


@POSIX
@NEEDS_INTERPRETER
def test_output_before_the_result_is_ignored(compiler, compiled, tmp_path):
    """For example by a sitecustomize that prints a greeting when Python starts."""
    (tmp_path / "result").write_bytes(b"Welcome to the cluster\n" + compiled)
    assert machine_code.packed(*code()) == compiled
    assert [entry.read_bytes() for entry in entries(tmp_path)] == [compiled]


@POSIX
@NEEDS_INTERPRETER
def test_a_compiler_that_fails_says_why(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(BackendError, match="expected the kernels to compile for .*, found: LLVM ERROR: out of reg"):
        code()
    monkeypatch.delenv("FAIL")
    (tmp_path / "result").write_bytes(b"a greeting from sitecustomize")
    with pytest.raises(BackendError, match="expected the kernels to compile for .*, found"):
        code()
    assert not (tmp_path / "cache").exists()


@NEEDS_INTERPRETER
def test_a_package_in_the_current_folder_is_not_compiled(tmp_path, monkeypatch):
    """Kernels of another version in the current folder must not be kept as this version's."""
    (tmp_path / "levit_np").mkdir()
    (tmp_path / "levit_np" / "__init__.py").write_text("raise SystemExit('another levit_np')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackendError, match="found: ModuleNotFoundError: No module named 'levit_np.ops.cpu.no_kernels'"):
        library._compile("no_kernels", instruction_set.chosen())


@NEEDS_INTERPRETER
def test_warnings_of_the_compiling_process_are_no_errors(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with pytest.raises(BackendError, match="found: ModuleNotFoundError: No module named 'levit_np.ops.cpu.no_kernels'"):
        library._compile("no_kernels", instruction_set.chosen())


@POSIX
@NEEDS_INTERPRETER
def test_numba_is_found_in_a_folder_that_the_program_added(compiler, tmp_path, monkeypatch):
    """A folder that the program added to its path; the levit_np that compiles is still this one."""
    versions = tmp_path / "vendored" / "numba" / "_version.py"
    versions.parent.mkdir(parents=True)
    versions.write_text("version = 'vendored'")
    real = library._version_file
    monkeypatch.setattr(library, "_version_file", lambda name: versions if name == "numba" else real(name))
    interpreter = compiler.read_text().splitlines()[0]
    compiler.write_text(f"{interpreter}\nimport os, sys\nsys.exit(os.environ['PYTHONPATH'])\n")
    with pytest.raises(BackendError) as found:
        code()
    paths = str(found.value).partition("found: ")[2].split(os.pathsep)
    assert paths[:2] == [str(Path(library.__file__).parents[3]), str(tmp_path / "vendored")]


@POSIX
def test_compiled_in_a_forked_process_where_none_can_be_started(compiler, compiled, tmp_path, monkeypatch):
    """The executable is not a program; or Python is embedded in a program and has no executable; or the program is
    frozen and `sys.executable` is the program itself."""
    monkeypatch.setattr(library.build, "write", lambda part, name, file: os.write(file, compiled))
    compiler.write_bytes(b"\x7fELF of another processor")
    assert machine_code.packed(*code()) == compiled
    for none in (None, ""):
        shutil.rmtree(tmp_path / "cache")
        with monkeypatch.context() as changed:
            changed.setattr(library.sys, "executable", none)
            assert machine_code.packed(*code()) == compiled
    shutil.rmtree(tmp_path / "cache")
    compiler.write_text("#!/bin/sh\necho started again")
    monkeypatch.setattr(library.sys, "frozen", True, raising=False)
    assert machine_code.packed(*code()) == compiled

    def fail(part, name, file):
        raise MemoryError("no room")

    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(library.build, "write", fail)
    with pytest.raises(BackendError, match="expected the kernels to compile for .*, found: MemoryError: no room"):
        code()


@POSIX
@NEEDS_INTERPRETER
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # subprocess kills it and does not wait
def test_interrupted_while_it_compiles(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW", "60")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            code()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - start < 30 and not (tmp_path / "cache").exists()


def child(folder, **variables):
    """A process that evaluates, with `folder` as its cache."""
    paths = str(Path(library.__file__).parents[3]), os.environ.get("PYTHONPATH")
    environment = os.environ | {"LEVIT_NP_CACHE": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", CHILD], env=environment | variables, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@NEEDS_INTERPRETER
@pytest.mark.parametrize("variables", [{}, {"NUMBA_BOUNDSCHECK": "1", "NUMBA_DISABLE_JIT": "1"}],
                         ids=("plain", "numba's"))
def test_a_second_process_compiles_nothing(compilations, tmp_path, variables):
    """Nor does it load a compiler. Numba's own switches change nothing, as the kernels work with addresses (which
    tests/inference/test_program_bounds.py checks)."""
    code()
    started = child(tmp_path / "cache", **variables)
    out, err = started.communicate()
    assert (started.returncode, err) == (0, "")
    # elsewhere llvmlite links the object file
    assert out.split()[4:] == [] if machine_code.IS_IMAGE else "numba" not in out


@pytest.mark.slow
def test_two_processes_that_compile_at_once(tmp_path):
    """With the real compiler."""
    start = time.monotonic()
    both = [child(tmp_path / "cache", NUMBA_BOUNDSCHECK="1") for _ in range(2)]
    for started in both:
        out, err = started.communicate()
        assert started.returncode == 0 and out.startswith("(1, 10)"), err
        assert err == library.NOTICE + "\n"
    print(f"two compilations at once: {time.monotonic() - start:.1f} s")
    assert len(entries(tmp_path)) == 1
