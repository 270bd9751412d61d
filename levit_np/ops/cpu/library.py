"""The compiled kernels for this processor: read from the cache on disk, or compiled now, and loaded into the process.

A cache file is named after a hash of all that determines its content (kernel sources, versions, processor). One that is
missing, damaged or cannot be written costs a compilation, nothing else. Since its content is executed, a file or folder
that another user could have written is ignored."""

import contextlib
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

from ... import cache
from ...errors import BackendError, say
from ...lock import Lock
from . import build, machine_code, processor
from .instruction_set import InstructionSet, chosen

NOTICE = "levit_np: compiling the kernels for this processor (once, ten to twenty seconds)"
SUFFIX = ".kernels"
KEPT = 16  # files; a new one evicts the oldest


def _key(part: str, instructions: InstructionSet) -> str:
    """A file name that identifies everything the machine code depends on."""
    digest = hashlib.sha256(machine_code.MAGIC)
    folder = Path(__file__).parent
    own = sorted(folder.glob("*.py")) or sorted(folder.glob("*.pyc"))
    if not own:  # the modules lie in an archive, or in a frozen program
        own = [next(filter(Path.is_file, folder.parents), Path(sys.executable))]
    for source in (*own, *map(_version_file, ("numba", "llvmlite"))):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    parts = part, instructions, sys.version_info[:3], sys.platform, instructions.cpu or processor.description()
    digest.update(repr(parts).encode())
    return f"{instructions.name}-{digest.hexdigest()[:32]}"


def _version_file(package: str) -> Path:
    """The file in which an installed package states its version; importing the package would take longer."""
    found = find_spec(package)
    if found is None:
        raise BackendError(f"cpu: expected {package} to be installed, found no such package")
    return Path(found.origin).parent / "_version.py"


def _kept(path: Path):
    """(code, entry) from a cached file, or None if it is missing, damaged, or perhaps another user's."""
    try:
        with open(path, "rb") as file:
            if cache.is_ours(os.fstat(file.fileno())):
                return machine_code.unpacked(file.read())
    except OSError:
        pass


def _keep(path: Path, data: bytes) -> None:
    """Moves the file into place in one step, so that other processes see all of it or nothing."""
    name = None
    try:
        with tempfile.NamedTemporaryFile(dir=cache.make(), prefix=".", suffix=SUFFIX + ".tmp", delete=False) as file:
            name = file.name
            file.write(data)
        if path.is_dir():
            path.rmdir()
        os.replace(name, path)
    except BaseException as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        if not isinstance(error, OSError):
            raise
        say(f"levit_np: {path.parent}: the kernels cannot be kept there ({error.strerror}), and each process compiles "
            "them; LEVIT_NP_CACHE may name another folder")
    else:
        with contextlib.suppress(OSError):  # another process may prune at the same time
            _prune(path.parent)


def _prune(folder: Path) -> None:
    """Deletes all but the newest files; temporary ones of killed processes count as files too."""
    files = sorted(folder.glob(f"*{SUFFIX}*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in files[KEPT:]:
        old.unlink()


def _compile(part: str, instructions: InstructionSet) -> bytes:
    say(NOTICE)
    # The program may have added Numba's folder to its own path; all of that path, and its own folder, would come before
    # Python's modules.
    needed = [_version_file(package).parents[1] for package in ("numba", "llvmlite", "numpy")]
    paths = *map(str, (Path(__file__).resolve().parents[3], *needed)), os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, dict.fromkeys(paths)))}
    for name in [name for name in environment if name.startswith("NUMBA_")]:
        del environment[name]  # debug switches and the like: the code must not depend on the user's Numba settings
    environment["NUMBA_OPT"] = "0"  # see build.py
    try:
        # In a frozen program `sys.executable` is the program itself; where Python is embedded it may be None.
        if getattr(sys, "frozen", False) or not sys.executable:
            raise OSError("a program without an interpreter of its own")
        # -P: do not import the levit_np of the folder that the user happens to be in. -W: PYTHONWARNINGS may turn
        # warnings of Numba and Python into errors.
        command = [sys.executable, "-P", "-W", "ignore", "-m", f"{__package__}.build", part, instructions.name]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        status, output, errors = done.returncode, done.stdout, done.stderr
    except OSError as error:
        if not hasattr(os, "fork"):
            raise BackendError(f"cpu: expected to start {sys.executable!r}, which compiles the kernels, found: {error}"
                               ) from error
        status, output, errors = _forked(part, instructions.name, environment)
    output = output[max(0, output.find(machine_code.MAGIC)) :]  # skip what a sitecustomize, say, has printed
    if status or machine_code.unpacked(output) is None:
        reason = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {status}"]
        raise BackendError(f"cpu: expected the kernels to compile for {instructions.name}, found: {reason[0]}")
    return output


def _forked(part: str, name: str, environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    """(exit status, output, errors) of the same compilation in a fork of this process, where no interpreter can be
    started: in a frozen program, or under an emulator unknown to the system."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            try:
                os.environ.clear()
                os.environ.update(environment)
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                build.write(part, name, 1)
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(1)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:  # Ctrl-C
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        output.seek(0)
        errors.seek(0)
        return status, output.read(), errors.read()


def _code(part: str, instructions: InstructionSet):
    """(machine code, its entry), compiled if need be."""
    folder = Path(cache.directory())
    path = folder / f"{_key(part, instructions)}{SUFFIX}"
    try:
        trusted = cache.is_ours(folder.stat())
    except OSError:  # no such folder, or one that can be neither read nor written
        trusted = True
    if trusted and (found := _kept(path)):
        return found
    data = _compile(part, instructions)
    if trusted:
        _keep(path, data)
    else:
        warnings.warn(f"{folder}: other users may write there: compiled kernels are neither read from it nor kept in "
                      "it; let nobody else write there, or set LEVIT_NP_CACHE to another folder", stacklevel=2)
    return machine_code.unpacked(data)


class Library:
    """A loaded set of kernels: `part`, a module's name, says which; `run` releases the GIL."""

    def __init__(self, part: str, instructions: InstructionSet):
        self.instructions = instructions
        self._memory, address = machine_code.loaded(*_code(part, instructions))
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 7)
        self._run, self._nothing = kind(address), ctypes.create_string_buffer(64)
        self._result = ctypes.addressof(self._nothing)
        self._give_way = ctypes.cast(_give_way(), ctypes.c_void_p).value

    def run(self, program: int, first: int, last: int, thread: int, threads: int, counter: int) -> None:
        """Runs steps first to last of the program at that address, as one of `threads` threads that all make this call;
        counter: the address of an int64 that starts at 0."""
        status = self._run(self._result, self._result + 8, program, first, last, thread, threads, counter,
                           self._give_way)
        assert status == 0, "no kernel raises"


def _give_way():
    """The system's function that yields the core to another thread."""
    if sys.platform == "win32":
        return ctypes.windll.kernel32.SwitchToThread
    return ctypes.CDLL(None).sched_yield


_libraries: dict[str, Library] = {}
_lock = Lock()


def library(part: str = "kernels") -> Library:
    """The set of kernels `part`, for this processor's best instruction set or the one that LEVIT_NP_INSTRUCTIONS names.
    """
    try:
        return _libraries[part]
    except KeyError:
        with _lock:
            if part not in _libraries:
                _libraries[part] = Library(part, chosen())
            return _libraries[part]
