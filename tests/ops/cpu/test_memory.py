"""The memory of weights and buffers, on systems that give it differently."""

import errno
import mmap
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from levit_np.ops.cpu import memory

from ...can_start import NEEDS_INTERPRETER


def refusing(name, number):
    """mmap.mmap, of a system whose call of that name fails."""
    def refuse(*_, **__):
        raise OSError(number, "refused")

    return type("Refusing", (mmap.mmap,), {name: refuse})


@pytest.mark.parametrize("change", ["a kernel without", "a system without"])
def test_large_pages_are_not_needed(monkeypatch, change):
    if change == "a kernel without":
        monkeypatch.setattr(mmap, "mmap", refusing("madvise", errno.EINVAL))
    else:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    numbers = memory.Arena().numbers(1000)
    assert not numbers.any() and numbers.ctypes.data % memory.ALIGNMENT == 0
    numbers += 1
    assert numbers.sum() == 1000 and numbers.dtype == np.float32


HEAP = """
import numpy as np
from levit_np.ops.cpu.memory import trim_heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

arrays = [np.ones(1 << 17) for _ in range(16)]  # 16 MiB
del arrays
before = resident()
trim_heap()
print(before - resident() >> 20)
"""


@NEEDS_INTERPRETER
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="GNU's malloc has a trim")
def test_what_malloc_keeps_is_given_back():
    """It keeps 32 MiB here for later, as it does of itself where an array half as large was freed before."""
    keeping = "glibc.malloc.trim_threshold=33554432:glibc.malloc.mmap_threshold=16777216"
    child = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True,
                           env=os.environ | {"GLIBC_TUNABLES": keeping})
    assert child.returncode == 0 and int(child.stdout) >= 12, child.stderr


def test_a_system_without_that_trim(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.trim_heap()


def test_no_memory_is_a_memory_error(monkeypatch):
    monkeypatch.setattr(mmap, "mmap", refusing("__new__", errno.ENOMEM))
    with pytest.raises(MemoryError, match="16 MiB|18 MiB"):
        memory.Arena().numbers(1)
