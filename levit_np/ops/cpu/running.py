"""What the wrappers of training's kernels share: arrays as the kernels take them, scratch memory,
one call for a few steps."""

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
from .threads import MOST, run_with_threads, threads
from .training_step import FETCHES

ONE = np.ones(1, np.float32)
ONE.flags.writeable = False
FLOAT32 = np.dtype(np.float32)
LINE = 64  # bytes of a cache line
LARGE = 2 << 20  # bytes of a result: an L2 cache
AHEAD = 512 << 10  # of one that is read by what fetches ahead
_kept = threading.local()


def fits(*arrays) -> bool:
    """Whether the kernels take all of these: float32 of this machine's byte order, aligned, not empty."""
    for a in arrays:
        if not (isinstance(a, np.ndarray) and a.dtype == FLOAT32 and a.flags.aligned and a.size):
            return False
    return True


def _behind_head(a: np.ndarray) -> int:
    return ctypes.c_void_p.from_address(id(a) + object.__basicsize__).value


# Where an array's numbers begin.  A step of training asks a few thousand times: a.ctypes.data takes 1.4 µs; to read the
# pointer, which NumPy's C interface places right behind an object's header, takes 0.2 µs.
address = _behind_head if _behind_head(ONE) == ONE.ctypes.data else lambda a: a.ctypes.data


def addresses(arrays, beside) -> np.ndarray:
    """A table of the arrays' addresses, each with the numbers beside it."""
    if now := recording():
        now.require_known(arrays)
    return np.array([(address(a), *more) for a, more in zip(arrays, beside)], np.int64)


def contiguous(x):
    """x, a copy where its numbers do not lie side by side."""
    return x if x.flags.c_contiguous else computed(np.ascontiguousarray, x)


def rows_of(x, axis=-1):
    """x as a contiguous array (…, channels)."""
    return contiguous(x if axis == -1 else np.moveaxis(x, axis, -1))


def channels_at(rows, axis=-1):
    """The inverse: what stands last is the axis again."""
    return rows if axis == -1 else np.moveaxis(rows, -1, axis)


def whole(columns: int) -> int:
    """Columns padded to the kernels' smallest panel."""
    return -(-columns // 16) * 16


def empty(*shape) -> np.ndarray:
    """float32, whatever was there, from the start of a cache line on."""
    count = prod(shape)
    memory = _made(blocks.block(count + LINE // 4))
    start = -address(memory) % LINE // 4
    return memory[start : start + count].reshape(shape)


def unshared(*shape) -> np.ndarray:
    """float32, whatever was there, in memory that is no other array's: a gradient, which may be sent as it is."""
    return _made(blocks.unshared(prod(shape))).reshape(shape)


def _made(result):
    now = recording()
    if now:
        now.learn(result)
    return result


def without_padding(y, columns: int) -> np.ndarray:
    """The first columns of y (…, whole(columns)), side by side."""
    return contiguous(y[..., :columns])


def fetches_ahead() -> bool:
    """Whether products and gradients of linear maps fetch what they read next."""
    return library("training_kernels").instructions.lanes >= FETCHES


def past_caches(y, channels=16, product=False) -> bool:
    """Whether y, of empty, is better written past the caches (non-temporal stores): what is there need not be read
    first, and it would not stay in them until it is read, or is read by what fetches ahead (a product is not: BN's sums
    follow).  Rows of channels must then begin where vectors do."""
    least = LARGE if product or not fetches_ahead() else AHEAD
    return y.nbytes >= least and channels % 16 == 0


def scratch(size: int) -> tuple[int, int]:
    """(address, bytes a thread): at least `size` bytes for each thread of a call, kept for this caller's next; for a
    recording its own, which another thread may replay while this one computes."""
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
    """Each step: a kind and what stands in its columns, numbers or arrays, of which the kernels get the addresses."""
    numbers, before = [], None  # of Python's: a step has few, and an array takes each of them on its own
    for kind, columns in steps:
        if columns is not before:  # the steps of a BN have the same
            row, before = [0] * step.COLUMNS, columns
            for column, value in columns.items():
                row[column] = address(value) if isinstance(value, np.ndarray) else value
        row[0] = kind
        numbers += row
    if now := recording():
        now.steps(numbers, [a for _, columns in steps for a in columns.values() if isinstance(a, np.ndarray)])
    table = array("q", numbers)
    kernels, program = library("training_kernels"), table.buffer_info()[0]
    # There is scratch for so many; set_threads may have said more since.
    count = min(threads(), getattr(now.scratch if now else _kept, "threads", MOST))
    run_with_threads(lambda thread, counter: kernels.run(program, 0, len(steps), thread, count, counter), count)


@lru_cache(64)
def bits(value: float) -> int:
    """A float64 as a step holds it."""
    return int(np.float64(value).view(np.int64))
