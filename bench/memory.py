"""How much memory a process took."""

import resource
import sys


def peak_mib() -> float:
    """The largest resident memory of this process or of one that it started, whichever is more.

    Linux lets a process's own ru_maxrss begin at what its parent had, so the kernel's other count comes first."""
    unit = 2**20 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    try:
        line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        return max(children, int(line.split()[1]) / 1024)
    except (OSError, StopIteration):
        return max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
