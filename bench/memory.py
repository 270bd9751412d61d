"""The memory that a process used."""

import resource
import sys


def peak_mib() -> float:
    """The peak resident memory of this process or of its largest child, whichever is more.

    On Linux a process's own ru_maxrss starts with that of its parent, so VmHWM is read first."""
    unit = 2**20 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    try:
        line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        return max(children, int(line.split()[1]) / 1024)
    except (OSError, StopIteration):
        return max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
