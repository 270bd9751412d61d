"""What the wrappers of training's kernels share: checks, arrays as the kernels take them, scratch memory, and `run`,
which executes a few steps in one call."""

import ctypes
import threading
from array import array
from functools import lru_cache
from math import prod

import numpy as np

from . import blocks
from . import training_step as step
from .library import library
from .memory import Pieces
from .recording import computed, recording
from .step import LINE
from .threads import MAX_THREADS, run_with_threads, threads
from .training_step import PREFETCH_LANES

ONE = np.ones(1, np.float32)
ONE.flags.writeable = False
FLOAT32 = np.dtype(np.float32)
LARGE = 2 << 20  # bytes of a result from which on streaming pays: an L2 cache
AHEAD = 512 << 10  # the same for one whose reader prefetches
_kept = threading.local()


def fits(*arrays) -> bool:
    """Whether the kernels take all of these: float32 in native byte order, aligned, not empty."""
    for a in arrays:
        if not (isinstance(a, np.ndarray) and a.dtype == FLOAT32 and a.flags.aligned and a.size):
            return False
    return True


def _behind_head(a: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(a) + object.__basicsize__).value


# Address of an array's first number. A training step asks a few thousand times: a.ctypes.data takes 1.4 µs, reading the
# pointer that NumPy's C API places right behind an object's header 0.2 µs.
address = _behind_head if _behind_head(ONE) == ONE.ctypes.data else lambda a: a.ctypes.data


def addresses(arrays, beside) -> np.ndarray:
    """An int64 table of the arrays' addresses, each followed by the numbers in `beside`."""
    if now := recording():
        now.require_known(arrays)
    return np.array([(address(a), *more) for a, more in zip(arrays, beside)], np.int64)


def contiguous(x):
    """x, or a C-contiguous copy."""
    return x if x.flags.c_contiguous else computed(np.ascontiguousarray, x)


def rows_of(x, axis=-1):
    """x as a contiguous array (…, channels), `axis` being the channels'."""
    return contiguous(x if axis == -1 else np.moveaxis(x, axis, -1))


def channels_at(rows, axis=-1):
    """The inverse: moves the last axis back to `axis`."""
    return rows if axis == -1 else np.moveaxis(rows, -1, axis)


def padded(columns: int) -> int:
    """Columns rounded up to the narrowest panel's width."""
    return -(-columns // 16) * 16


def empty(*shape) -> np.ndarray:
    """Uninitialised float32 that begins at a cache line."""
    count = prod(shape)
    memory = _made(blocks.block(count + LINE // 4))
    start = -address(memory) % LINE // 4
    return memory[start : start + count].reshape(shape)


def unshared(*shape) -> np.ndarray:
    """Uninitialised float32 in memory of its own: a gradient, which may be sent as it is."""
    return _made(blocks.unshared(prod(shape))).reshape(shape)


def _made(result):
    now = recording()
    if now:
        now.learn(result)
    return result


def without_padding(y, columns: int) -> np.ndarray:
    """The first columns of y (…, padded(columns)), contiguous."""
    return contiguous(y[..., :columns])


def prefetches() -> bool:
    """Whether products and gradients of linear maps prefetch what they read next."""
    return library("training_kernels").instructions.lanes >= PREFETCH_LANES


def worth_streaming(y, channels=16, product=False) -> bool:
    """Whether y, made by `empty`, is better written with non-temporal stores: they spare the read before each write,
    and pay where y would leave the caches before it is read, or its reader prefetches (a product's does not: BN's sums
    follow). Rows of channels must then begin where vectors do."""
    least = LARGE if product or not prefetches() else AHEAD
    return y.nbytes >= least and channels % 16 == 0


def scratch(size: int) -> tuple[int, int]:
    """(address, bytes a thread): at least `size` bytes for each thread of a call, reused by this thread's next call. A
    recording has its own, as another thread may replay it while this one computes."""
    size, now = -(-size // 64) * 64, recording()
    kept = now.scratch if now else _kept
    kept.threads = now.threads if now else threads()
    total = size * kept.threads
    if getattr(kept, "size", 0) < total:
        kept.memory, kept.size = Pieces().numbers(total, np.uint8), total
        kept.address = address(kept.memory)
    _made(kept.memory)
    return kept.address, size


def run(*steps) -> None:
    """Executes steps, each (kind, {column: number or array}); the kernels get the arrays' addresses."""
    numbers, before = [], None  # Python numbers: a step sets few columns, and writing each to an array is slow
    for kind, columns in steps:
        if columns is not before:  # the steps of a BN share their columns
            row, before = [0] * step.COLUMNS, columns
            for column, value in columns.items():
                row[column] = address(value) if isinstance(value, np.ndarray) else value
        row[0] = kind
        numbers += row
    if now := recording():
        now.steps(numbers, [a for _, columns in steps for a in columns.values() if isinstance(a, np.ndarray)])
    table = array("q", numbers)
    kernels, program = library("training_kernels"), table.buffer_info()[0]
    # There is scratch for so many; set_threads may have been called since.
    count = min(threads(), getattr(now.scratch if now else _kept, "threads", MAX_THREADS))
    run_with_threads(lambda thread, counter: kernels.run(program, 0, len(steps), thread, count, counter), count)


@lru_cache(64)
def bits(value: float) -> int:
    """A float64 as a step's column holds it."""
    return int(np.float64(value).view(np.int64))
