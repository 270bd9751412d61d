"""A child process that runs the strict HDF5 reader on whatever its standard input brings, and its parent.

libhdf5 crashes or hangs on some damaged files; here that costs a worker and is counted.
"""

import collections
import os
import select
import struct
import subprocess
import sys

from tests.storage.child_functions import peak_kilobytes

_LENGTH = struct.Struct("<I")


def serve() -> None:
    """Reads length-prefixed files; answers one byte each: 'a'ccepted, 'r'efused, or 'x' for another
    exception."""
    from levit_np.errors import CheckpointError
    from levit_np.storage import extents, strict_hdf5

    while prefix := sys.stdin.buffer.read(_LENGTH.size):
        data = sys.stdin.buffer.read(_LENGTH.unpack(prefix)[0])
        try:
            extents.copies(data, strict_hdf5.find(data, "file"), "file")
            answer = b"a"
        except CheckpointError:
            answer = b"r"
        except BaseException:
            answer = b"x"
        os.write(1, answer)


class Worker:
    """Restarts the child when it dies or takes longer than `seconds`; `count` has what became of each
    file."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.count: collections.Counter[str] = collections.Counter()
        self.peak_kilobytes = 0
        self._start()

    def read(self, data: bytes) -> str:
        """'a', 'r', 'x', 'crash' or 'hang'."""
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
        """Kills the child and takes note of its peak memory."""
        with self._process:
            if self._process.poll() is None:
                self.peak_kilobytes = max(self.peak_kilobytes, peak_kilobytes(self._process.pid))
            self._process.kill()

    def _start(self) -> None:
        code = "import sys; sys.path[:] = sys.argv[1:]; from tests.storage.harsh_worker import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *sys.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )
