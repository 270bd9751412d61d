"""Runs a function on an untrusted file in a child process with limited time and memory."""

import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ..errors import CheckpointError

# With -I neither the working directory nor the environment adds modules; the caller's sys.path replaces the child's.
_CHILD = """
import json, sys
request = json.load(sys.stdin)
sys.path[:] = request["path"]
from levit_np.storage.confined import _answer
_answer(request)
"""
_LONGEST_REPLY = 1 << 20


def run(function: Callable[..., Any], *arguments: Any, seconds: float = 60, memory: int = 1 << 30) -> Any:
    """Calls `function(*arguments)` in a new process and returns its result.

    `function` is defined at the top level of a module; arguments and result are JSON values (a path may be a Path):
    nothing from a possibly subverted child is unpickled. `seconds` limits wall-clock and processor time, `memory` the
    bytes that the call may add to the child's address space (where the platform can limit that) and the size of a file
    that it writes. The child has ended when this returns or raises. Raises CheckpointError: the child's own if it
    raised one, else one that says how it failed (time, memory, a signal, another exception).
    """
    place = f"{function.__module__}.{function.__name__} in a child process"
    request = {"path": sys.path, "module": function.__module__, "function": function.__name__,
               "arguments": arguments, "seconds": seconds, "memory": memory}
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer:
        question.write(json.dumps(request, default=os.fspath).encode())
        question.seek(0)
        status = _wait(question, answer, seconds, place)
        answer.seek(0)
        return _result(answer.read(_LONGEST_REPLY), status, place)


def _wait(question: Any, answer: Any, seconds: float, place: str) -> int:
    """Runs the child until it ends or its time is up, and returns its exit status."""
    # A frozen program's executable is the program itself: the child would start another, and so on without end.
    if getattr(sys, "frozen", False) or not sys.executable:
        raise CheckpointError(f"{place}: expected a Python interpreter to start, found a program without one; a file "
                              "that levit-np convert wrote needs none")
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD],
        stdin=question, stdout=answer, stderr=subprocess.DEVNULL,
        # A thread pool for linear algebra would reserve address space for each processor, and is not needed here.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{place}: expected to end within {seconds:g} s, stopped after that") from None
    finally:
        process.kill()
        process.wait()


def _result(reply: bytes, status: int, place: str) -> Any:
    if status < 0:
        raise CheckpointError(f"{place}: ended by signal {-status} ({signal.strsignal(-status)})")
    try:
        outcome = json.loads(reply)
    except (ValueError, RecursionError):
        outcome = None
    match outcome:
        case {"result": result} if status == 0:
            return result
        case {"refusal": str(message)} if status == 0:
            raise CheckpointError(message)
        case {"failure": str(message)} if status == 0:
            raise CheckpointError(f"{place}: failed with {message}")
    raise CheckpointError(f"{place}: expected an answer, found exit status {status} and {len(reply)} bytes")


def _answer(request: dict[str, Any]) -> None:
    """All that the child does: sets the limits, calls the function, writes one JSON object to its standard output."""
    reply = os.dup(1)
    # Output of a library that prints must not mix with the answer.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    function = getattr(importlib.import_module(request["module"]), request["function"])
    _limit(request["seconds"], request["memory"])
    try:
        outcome = {"result": function(*request["arguments"])}
    except CheckpointError as error:
        outcome = {"refusal": str(error)}
    except MemoryError:
        outcome = {"failure": f"MemoryError: expected at most {request['memory'] >> 20} MB"}
    except Exception as error:
        outcome = {"failure": " ".join(f"{type(error).__name__}: {error}".split())}
    with open(reply, "w", encoding="utf-8") as file:
        json.dump(outcome, file)


def _limit(seconds: float, memory: int) -> None:
    """Limits this process, irrevocably. Windows has none of these limits; there only the parent's timeout applies."""
    try:
        import resource
    except ImportError:
        return
    # If the parent is killed, nobody else enforces the time limit: the kernel then ends this process.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: memory,
              resource.RLIMIT_CPU: math.ceil(usage.ru_utime + usage.ru_stime + seconds),
              resource.RLIMIT_AS: _address_space() + memory}
    for name, limit in limits.items():
        _, hard = resource.getrlimit(name)
        # A lower hard limit may not be raised, and stays; macOS does not allow RLIMIT_AS to be set.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (limit, hard if name == resource.RLIMIT_CPU else limit))


def _address_space() -> int:
    """Bytes of address space in use now; 0 on systems without /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
