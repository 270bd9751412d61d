"""A worker process that runs the strict HDF5 reader on the files sent to its standard input, and the class that
controls it.

libhdf5 crashes or hangs on some damaged files; then only the worker is lost, and the file is counted."""

import collections
import contextlib
import os
import select
import struct
import subprocess
import sys

from tests.storage.child_functions import peak_kilobytes

_LENGTH = struct.Struct("<I")


def serve() -> None:
    """Reads length-prefixed files; answers each with one byte: 'a'ccepted, 'r'efused, or 'x' for any other
    exception."""
    from levit_np.errors import CheckpointError
    from levit_np.storage import extents, strict_hdf5

    while prefix := sys.stdin.buffer.read(_LENGTH.size):
        data = sys.stdin.buffer.read(_LENGTH.unpack(prefix)[0])
        try:
            extents.content(data, strict_hdf5.find(data, "file"), "file")
            answer = b"a"
        except CheckpointError:
            answer = b"r"
        except BaseException:
            answer = b"x"
        os.write(1, answer)


class Worker:
    """Restarts the worker if it dies or takes longer than `seconds`; `count` counts the outcomes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.count: collections.Counter[str] = collections.Counter()
        self.peak_kilobytes = 0
        self._start()

    def read(self, data: bytes) -> str:
        """The outcome: 'a', 'r', 'x', 'crash' or 'hang'."""
        self._process.stdin.write(_LENGTH.pack(len(data)) + data)
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self.seconds)
        answer = self._process.stdout.read(1).decode() if ready else "hang"
        answer = answer or "crash"
        self.count[answer] += 1
        if len(answer) > 1:
            self.close()
            self._start()
        return answer

    def close(self) -> None:
        """Kills the worker and records its peak memory."""
        with self._process:
            # One that has crashed may still be ending, when it has no memory any more.
            if self._process.poll() is None:
                with contextlib.suppress(StopIteration):
                    self.peak_kilobytes = max(self.peak_kilobytes, peak_kilobytes(self._process.pid))
            self._process.kill()

    def _start(self) -> None:
        code = "import sys; sys.path[:] = sys.argv[1:]; from tests.storage.harsh_worker import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *sys.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )
