"""Functions that the tests run in child processes, which import them by name."""

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

from levit_np.errors import CheckpointError


THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"


def echo(*arguments: Any) -> list[Any]:
    return list(arguments)


def search_path() -> list[str]:
    return sys.path


def refuse(message: str) -> None:
    raise CheckpointError(message)


def fail() -> None:
    raise ValueError("one line\nand another")


def sleep_after_saying_who(path: str) -> None:
    """Also removes the file in the end, if it is allowed to get there."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)
    os.unlink(path)


def spin() -> None:
    while True:
        pass


def take_memory(count: int) -> int:
    return len(bytearray(count))


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def chatter() -> str:
    print("noise")
    os.write(1, b"more noise")
    os.write(2, b"and complaints")
    sys.stdout.flush()
    return "answer"


def answer_at_length(count: int) -> str:
    return "x" * count


def write_file(path: str, count: int) -> int:
    piece = bytes(1 << 20)
    with open(path, "wb", buffering=0) as file:
        return sum(file.write(piece) for _ in range(count // len(piece)))


def limits() -> dict[str, Any]:
    """The limits of this process, each as [soft, hard]; its alarm's time and handler; its number of BLAS threads."""
    import resource
    import signal

    names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_CORE", "RLIMIT_FSIZE")
    found = {name: resource.getrlimit(getattr(resource, name)) for name in names}
    return found | {"timer": signal.getitimer(signal.ITIMER_REAL)[0], "alarm": signal.getsignal(signal.SIGALRM),
                    "threads": [os.environ.get(name) for name in THREADS]}


def room() -> int:
    """How many bytes this process may add to its address space."""
    import resource

    with open("/proc/self/statm") as file:
        return resource.getrlimit(resource.RLIMIT_AS)[0] - int(file.read().split()[0]) * resource.getpagesize()


def replace_on_a_full_disk(path: str, size: int, limit: int) -> str:
    """Writes `size` bytes where the kernel allows files of at most `limit` bytes; returns the error."""
    import resource

    from levit_np.storage.atomic import replacing

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with replacing(path) as file:
            file.write(bytes(size))
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "no error"


def peak_megabytes(reader: str, path: str) -> float:
    """By how much reading `path` raises the peak memory of this process, in MiB."""
    import h5py
    import safetensors

    from levit_np.checkpoints import safetensors_file, torch_file
    from levit_np.storage import hdf5, strict_hdf5

    assert h5py and safetensors and strict_hdf5
    before = _peak()
    {"hdf5": hdf5, "safetensors": safetensors_file, "torch": torch_file}[reader].read(path)
    return (_peak() - before) / 1024


def peak_megabytes_of_writing(path: str, megabytes: int) -> float:
    """By how much writing an HDF5 file of this size raises the peak memory of this process, in MiB."""
    import h5py
    import numpy as np

    from levit_np.storage import hdf5

    assert h5py
    arrays = {f"part.{i}": np.ones((megabytes, 1 << 16), "f4") for i in range(4)}
    before = _peak()
    hdf5.write(path, arrays, {})
    return (_peak() - before) / 1024


def _peak() -> int:
    """The peak memory of this process or of its largest child, in KiB."""
    import resource

    # Not this process's ru_maxrss, which starts with that of the process that started it.
    return max(peak_kilobytes(os.getpid()), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def peak_kilobytes(process: int) -> int:
    """The peak memory of a running process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
