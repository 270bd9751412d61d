"""Arrays for the kernels placed directly beside protected pages: an access one byte beyond the end (or before the
start) crashes the process. This checks every memory access of the compiled code."""

import ctypes
import mmap
from math import prod

import numpy as np

import levit_np
from levit_np.inference import cpu, lowering, program
from levit_np.ops.cpu.memory import ALIGNMENT, SLACK
from levit_np.ops.cpu.step import Kind

from ..random_model import random_model

PAGE = mmap.PAGESIZE
_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
SMALL = {"image_size": (33, 47), "num_classes": 37}
# The last one has so many channels in its stem that a convolution by minimal filtering has scratch memory of its own
# size.
CHANGES = {"levit_digits": {}, "levit_384_s8": {"image_size": 32}, "levit_192": SMALL | {"image_size": (48, 32)},
           "levit_128s_a7": SMALL | {"image_size": 32, "stem": [[256, 3, 2], [128, 3, 2]]}}


def protect(address, size, access):
    if size:  # an emulator refuses to protect an empty range
        assert _protect(address, size, access) == 0, ctypes.get_errno()


class Fence:
    """numbers(count, dtype) -> a zeroed array like Arena's, on its own pages between two protected pages.

    side: "end" or "start": which end of the array touches a protected page. missing: bytes that are left out at that
    side, to test that the fence works. slack: bytes after the array that may be read and contain NaN, for kernels that
    read rows beyond the last and drop them. alignment: of the address; up to so many bytes may be between the array's
    end and the protected page."""

    kept = []

    def __init__(self, side, missing=0, slack=0, alignment=ALIGNMENT):
        self.side, self.missing, self.slack, self.alignment = side, missing, slack, alignment

    def numbers(self, count, dtype=np.float32):
        size = count * np.dtype(dtype).itemsize
        padded = -(-size // self.alignment) * self.alignment
        pages = -(-padded // PAGE) * PAGE
        memory = np.frombuffer(mmap.mmap(-1, pages + 2 * PAGE + self.slack), np.uint8)
        first = memory.ctypes.data
        assert first % PAGE == 0
        behind = PAGE + pages
        memory[behind : behind + self.slack] = 255  # NaN in any format
        protect(first + behind, self.slack, mmap.PROT_READ)
        protect(first, PAGE, 0)
        protect(first + behind + self.slack, PAGE, 0)
        at = behind - padded + self.missing if self.side == "end" else PAGE - self.missing
        self.kept.append(memory)
        return memory[at : at + size].view(dtype)


def evaluated(name, half, side, missing=0):
    """Compares the model's answers on fenced and on ordinary memory; returns the names of the kinds of step that ran.
    To be called in its own process, as it replaces the package's source of memory."""
    model = random_model(name, backend="cpu", **CHANGES.get(name, SMALL))
    executors = [cpu.CpuExecutor(model, half)]
    slack = SLACK if executors[0].kernels.instructions.bfloat16 == "tiles" else 0
    plain, most = program.Arena, program.MAX_THREADS
    lowering.Arena = program.Arena = lambda: Fence(side, missing, slack)
    executors.append(cpu.CpuExecutor(model, half))
    random = np.random.default_rng(1)
    for batch in (1, 5, 17):
        shape = batch, model.config.in_channels, *model.config.image_size
        images = Fence(side).numbers(prod(shape)).reshape(shape)
        images[...] = random.standard_normal(shape)
        for count in (1, 3):
            levit_np.set_threads(count)
            program.Arena, program.MAX_THREADS = plain, most
            expected = executors[0](images)
            # Scratch memory for only as many threads as run, so that the fence comes directly after the last thread's.
            program.Arena, program.MAX_THREADS = lambda: Fence(side, missing, slack), count
            executors[1]._idle.clear()
            found = executors[1](images)
            assert np.isfinite(expected).all() and np.array_equal(found, expected), (name, batch, count)
    kinds = {kind for kept in executors[1]._idle.values() for kind in kept[0].table[:, 0]}
    lowering.Arena = program.Arena = plain
    program.MAX_THREADS = most
    Fence.kept.clear()
    return {Kind(kind).name for kind in kinds}
