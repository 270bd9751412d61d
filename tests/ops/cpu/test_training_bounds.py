"""Training's kernels stay within their arrays, as evaluation's do (tests/inference/test_program_bounds.py): inputs,
results and scratch memory are placed beside protected pages, in a child process."""

import sys
from importlib import import_module

import numpy as np
import pytest

import levit_np
from levit_np.ops import cpu
from levit_np.ops.cpu import running
from levit_np.ops.cpu.library import library
from levit_np.ops.cpu.threads import threads

from ...forked import forked
from ...inference.fenced import Fence
from .operation_calls import LARGE, SMALL, changed, draw, perform

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
NAMES = "activation", "attention", "convolution", "filtering", "linear", "normalization", "optimizer", "scatter"
WRAPPERS = {name: import_module(f"levit_np.ops.cpu.{name}") for name in NAMES}
# Sizes with whole and partial tiles and panels of AMX's products.
TILES = {"linear": (draw(130, 300), draw(96, 300)), "linear_backward": (draw(130, 96), draw(130, 300), draw(96, 300)),
         "convolution": (draw(2, 32, 23, 40), draw(48, 32, 3, 3), 2, 1),
         "convolution_backward": (draw(2, 96, 12, 20), draw(2, 32, 23, 40), draw(96, 32, 3, 3), 2, 1)}
# A kernel wider than the image: some of its cells are in the border wherever it is.
NARROW = {"convolution": (draw(2, 3, 7, 1), draw(4, 3, 5, 5), 1, 2),
          "convolution_backward": (draw(2, 4, 7, 1), draw(2, 3, 7, 1), draw(4, 3, 5, 5), 1, 2)}
SIZES = {"small": SMALL, "large": LARGE, "tiles": TILES, "narrow": NARROW}


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Compiled once, before children with a time limit are started."""
    library("training_kernels")


class Numpy:
    """NumPy, except that new arrays and copies are placed beside a protected page; uninitialised ones contain NaN."""

    def __init__(self, side):
        self.side = side

    def __getattr__(self, name):
        return getattr(np, name)

    def numbers(self, shape, dtype=float, alignment=None):
        dtype = np.dtype(dtype)
        array = Fence(self.side, alignment=alignment or dtype.itemsize).numbers(int(np.prod(shape)), dtype)
        array.view(np.uint8)[...] = 255
        return array.reshape(shape)

    def empty(self, shape, dtype=float):
        return self.numbers(shape, dtype)

    def zeros(self, shape, dtype=float):
        array = self.numbers(shape, dtype)
        array[...] = 0
        return array

    def empty_like(self, array):
        """An array with the same memory order of axes."""
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        return self.numbers([array.shape[axis] for axis in order], array.dtype).transpose(np.argsort(order))

    def zeros_like(self, array):
        new = self.empty_like(array)
        new[...] = 0
        return new

    def ascontiguousarray(self, array, dtype=None):
        new = self.numbers(np.shape(array), dtype or array.dtype)
        new[...] = array
        return new


def fence(side):
    """From now on, this process' kernels get fenced memory. Returns the function that copies an input there."""
    fenced = Numpy(side)
    size_of = lambda size: -(-size // 64) * 64
    for module in (*WRAPPERS.values(), running):
        module.np = fenced
        for name, replacement in {
                "empty": lambda *shape: fenced.numbers(shape, np.float32, 64),  # aligned like running.empty's
                "scratch": lambda size: (fenced.numbers(size_of(size) * threads(), np.uint8, 64).ctypes.data,
                                         size_of(size))}.items():
            if hasattr(module, name):
                setattr(module, name, replacement)
    return fenced.ascontiguousarray


def same_against_a_fence(sizes, side, stream=False, bug=None):
    running.LARGE = running.AHEAD = 0 if stream else 1 << 60
    plain = {name: perform(cpu, name, arguments) for name, arguments in sizes.items()}
    put = fence(side)
    if bug:
        setattr(*bug)
    for count in (1, 3):
        levit_np.set_threads(count)
        running._kept.threads = count
        for name, arguments in sizes.items():
            print(count, name, file=sys.stderr, flush=True)  # the last name printed is the one that crashed
            found = perform(cpu, name, changed(arguments, put))
            assert all(np.array_equal(a, b) for a, b in zip(found, plain[name], strict=True)), name
            Fence.kept.clear()
    return True


@pytest.mark.parametrize("stream", [False, True], ids=["stores", "non-temporal stores"])
@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize("sizes", SIZES)
def test_nothing_outside_of_an_array_is_accessed(sizes, side, stream):
    assert forked(lambda: same_against_a_fence(SIZES[sizes], side, stream), patience=600) == 0


@pytest.mark.parametrize("module, size, bug", [
    ("attention", "padded", lambda columns: columns), ("linear", "padded", lambda columns: columns),
    ("linear", "packed_size", lambda terms, outputs: 4 * terms * outputs), ("convolution", "HEADER", 0)])
def test_memory_that_is_too_small_is_detected(module, size, bug):
    """With rows too short for a whole panel, or scratch memory too small, the child crashes, or its answer differs
    where it overwrote another part of the scratch memory."""
    assert forked(lambda: same_against_a_fence(SMALL, "end", bug=(WRAPPERS[module], size, bug))) not in (0, None)
