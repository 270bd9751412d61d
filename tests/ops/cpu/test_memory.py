"""The memory of weights and buffers, on systems that give it differently."""

import errno
import mmap

import numpy as np
import pytest

from levit_np.ops.cpu import memory


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


def test_no_memory_is_a_memory_error(monkeypatch):
    monkeypatch.setattr(mmap, "mmap", refusing("__new__", errno.ENOMEM))
    with pytest.raises(MemoryError, match="16 MiB|18 MiB"):
        memory.Arena().numbers(1)
