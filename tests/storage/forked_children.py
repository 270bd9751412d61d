"""Fuzzes HDF5 files without a seal, each in a child process with `confined`'s limits.

The child does what `hdf5.read` does in a new process for a stranger's file, but is forked from a process that has
everything imported: starting a hundred thousand interpreters would take a day."""

import collections
import io
import os
import random
import signal
import time
from pathlib import Path

from tests.mutations import mutated

_MEMORY = 256 << 20


def fuzz(libver: str, times: int, seed: int, seconds: float, directory: str) -> tuple[dict[str, int], float]:
    """How often a file was 'read', 'refused', ended by a signal, or anything else; and the seconds of the slowest."""
    import h5py
    import numpy as np

    from levit_np.errors import CheckpointError
    from levit_np.storage import confined, hdf5, strict_hdf5

    assert strict_hdf5
    file = io.BytesIO()
    with h5py.File(file, "w", libver=libver) as written:
        written["stages/0/weight"] = np.arange(12, dtype="f4").reshape(3, 4)
        written["stages/0/steps"] = np.array(5)
        for i in range(12):
            written[f"wide/{i}"] = np.arange(2.0)
        written["documents/config"] = np.frombuffer(b'{"a": 1}', "u1")
    sound, rng = file.getvalue(), random.Random(seed)
    path, copy = Path(directory, "a.h5"), Path(directory, "sealed.h5")
    count: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for _ in range(times):
        path.write_bytes(mutated(sound, rng))
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            status = 3
            try:
                confined._limit(seconds, _MEMORY)
                hdf5._seal_stranger(str(path), str(copy))
                status = 0
            except CheckpointError:
                status = 1
            except MemoryError:
                status = 2
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        slowest = max(slowest, time.perf_counter() - start)
        if os.WIFSIGNALED(ended):
            count[signal.Signals(os.WTERMSIG(ended)).name] += 1
            continue
        count[("read", "refused", "out of memory", "another exception")[os.WEXITSTATUS(ended)]] += 1
        if os.WEXITSTATUS(ended) == 0:
            found, _ = hdf5._read_sealed(copy.read_bytes(), "file")
            assert sum(array.nbytes for array in found.values()) <= path.stat().st_size
    return dict(count), slowest
