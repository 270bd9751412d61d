"""Allocation of memory for weights and buffers, on systems that lack large pages or malloc_trim, or have no memory
left."""

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
    """A stand-in for mmap.mmap whose call of that name fails."""
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
def test_trim_heap_returns_memory_that_malloc_keeps():
    """The settings make malloc keep 32 MiB, as it does by itself after freeing an array half as large."""
    keeping = "glibc.malloc.trim_threshold=33554432:glibc.malloc.mmap_threshold=16777216"
    child = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True,
                           env=os.environ | {"GLIBC_TUNABLES": keeping})
    assert child.returncode == 0 and int(child.stdout) >= 12, child.stderr


def test_trim_heap_does_nothing_without_malloc_trim(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.trim_heap()


def test_no_memory_is_a_memory_error(monkeypatch):
    monkeypatch.setattr(mmap, "mmap", refusing("__new__", errno.ENOMEM))
    with pytest.raises(MemoryError, match="16 MiB|18 MiB"):
        memory.Arena().numbers(1)
