"""Which processor this is, without the compiler: on Linux /proc/cpuinfo tells, elsewhere llvmlite.

Loading llvmlite would take more memory than the kernels do."""

import platform
from functools import cache

# Lines that identify a kind of processor, on x86 and on Arm; clock speeds and core numbers are left out.
_KIND = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU implementer", "CPU architecture",
         "CPU variant", "CPU part", "CPU revision", "Features"}


@cache
def description() -> str:
    """A text that changes with whatever the compiler considers when it compiles for this processor."""
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
    """By Linux's vendor name, or LLVM's name of the core."""
    return "AuthenticAMD" in description() or description().startswith("znver")


def _first_processor() -> str:
    lines = []
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                break  # one processor is enough: the system generates these lines on reading, perhaps for hundreds
            if line.partition(":")[0].strip() in _KIND:
                lines.append(line)
    return "".join(lines)
