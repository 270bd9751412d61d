"""Attention's v in bfloat16, as dot products of pairs read it: the numbers of two keys side by side."""

from .intrinsics import set_float
from .jit import jit

ROW = 64  # bytes of a row of v: 32 bfloat16


def interleave(v, first, second, target):
    """Two rows of bfloat16 -> one row of pairs."""
    numbers = 2 * v.lanes
    v.store_shuffled(v.load_pairs(first), v.load_pairs(second), [n // 2 + n % 2 * numbers for n in range(2 * numbers)],
                     target)


def value_pairs(interleave):
    """The function that does a whole head.  interleave: the routine above."""
    @jit
    def pair(v, panel, panels, keys, padded, target):
        """One head's v, (panels, keys, 32) -> (panels, padded / 2, 32, 2): pairs of keys, zeros after the last."""
        for j in range(panels):
            source, to = v + j * panel, target + j * padded * ROW
            for k in range(0, keys - 1, 2):
                interleave(source + k * ROW, source + (k + 1) * ROW, to + k * ROW)
            start = keys // 2 * 2
            for i in range(0, (padded - start) * ROW, 4):
                set_float(to + start * ROW + i, 0.0)
            # The last key pairs with a row of zeros: the row after it, or the next panel's, is not written yet.
            if keys % 2:
                interleave(source + (keys - 1) * ROW, to + (padded - 1) * ROW, to + start * ROW)

    return pair
