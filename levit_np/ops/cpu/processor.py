"""Which processor this is, without asking the compiler: on Linux /proc/cpuinfo says it, elsewhere llvmlite.

Loading llvmlite would take more memory than the kernels do.
"""

import platform
from functools import cache

# What tells one kind of processor from another, in the words of x86 and of Arm; speed and numbering are left out.
_KIND = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU implementer", "CPU architecture",
         "CPU variant", "CPU part", "CPU revision", "Features"}


@cache
def description() -> str:
    """Changes with whatever the compiler looks at when it compiles for this processor."""
    try:
        return _first_processor()
    except OSError:
        from llvmlite import binding

        return f"{binding.get_host_cpu_name()}\nflags: {binding.get_host_cpu_features().flatten()}"


@cache
def features() -> frozenset[str]:
    """The names of its instruction sets, without the hyphens and underscores in which Linux and LLVM differ."""
    for line in description().splitlines():
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = words.replace(",", " ").split()
            return frozenset(word.lstrip("+").replace("_", "").replace("-", "") for word in found if word[0] != "-")
    return frozenset()


def is_arm() -> bool:
    return platform.machine().lower() in ("arm64", "aarch64")


def is_amd() -> bool:
    """By Linux's name of the vendor or LLVM's of its cores."""
    return "AuthenticAMD" in description() or description().startswith("znver")


def _first_processor() -> str:
    lines = []
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                break  # the system makes these lines as they are read, and there may be hundreds of processors
            if line.partition(":")[0].strip() in _KIND:
                lines.append(line)
    return "".join(lines)
