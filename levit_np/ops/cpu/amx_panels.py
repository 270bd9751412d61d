"""One panel of a training's product on AMX's tiles, a tile after the other: each number is in three parts (see amx.py).

What a thread has of scratch begins with the job that the tile is handed (step.Job), whose last tile waits to be
finished while the next one is multiplied; behind it stands what these functions keep between two tiles."""

from typing import Any, NamedTuple

from numba import types

from . import parts
from .amx import PARTS, PASSES, TERMS
from .amx_split import ROW, SQUARE
from .intrinsics import get, put, set_float
from .parts import GROUP
from .step import AMX_JOB, PAST, PLAIN, TILE_SUMS, Job
from .training_step import AMX_HEAD

A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS = (int(n) for n in list(Job)[: Job.DONE])
DONE, C, LDC, BIAS, LDBIAS, FINISH = (int(n) for n in list(Job)[Job.DONE : Job.HALF])
ROWS, ROWS_A_STEP = int(Job.ROWS), int(Job.ROWS_A_STEP)
PRODUCTS, TURNS = sum(map(len, PASSES[PARTS])), len(PASSES[PARTS])
# A thread's scratch: the job, a bias of zeros, a table of one segment, a 1.0, what to bring
# to the L2 cache, a tile's sums, a square to be filled up.
ZEROS = AMX_JOB
SEGMENT = ZEROS + ROW
ONE = SEGMENT + 32
NEXT, NEXT_SIZE, THEN, THEN_SIZE, EACH = (SEGMENT // 8 + 8 + n for n in range(5))  # see bring
TILE = SEGMENT + 128
FILLED = TILE + TILE_SUMS
assert FILLED + SQUARE <= AMX_HEAD


class Panels(NamedTuple):
    """Functions of a thread's scratch."""

    begin: Any
    bring: Any
    multiply_panel: Any
    finish: Any


def amx_panels(jit, call, fill):
    """call: the routines by name."""
    largest, equal_part = parts.WHOLE, jit(parts.equal_part)
    multiply, finish_last = call["amx_multiply"], call["amx_finish_last"]

    @jit
    def begin(scratch):
        """A thread's scratch before its first product."""
        fill(scratch, AMX_HEAD // 4)
        put(scratch, SEGMENTS, scratch + SEGMENT)
        put(scratch, COUNT, 1)
        put(scratch, SUMS, scratch + TILE)
        put(scratch, DONE, scratch + TILE)
        set_float(scratch + ONE, types.float32(1))

    @jit
    def bring(scratch, address, size, then, then_size, products):
        """Two runs of memory, of which the next block is made, come to the L2 cache with so many products of tiles."""
        put(scratch, NEXT, address)
        put(scratch, NEXT_SIZE, size)
        put(scratch, THEN, then)
        put(scratch, THEN_SIZE, then_size)
        put(scratch, EACH, (size + then_size + products - 1) // products)

    @jit
    def fetch_next(scratch, turns):
        """What of it comes with the next tile."""
        address, size = get(scratch, NEXT), min(get(scratch, EACH), get(scratch, NEXT_SIZE))
        put(scratch, AHEAD, address)
        put(scratch, ADVANCE, (size + turns - 1) // turns)
        put(scratch, NEXT, address + size)
        put(scratch, NEXT_SIZE, get(scratch, NEXT_SIZE) - size)
        if not get(scratch, NEXT_SIZE):
            put(scratch, NEXT, get(scratch, THEN))
            put(scratch, NEXT_SIZE, get(scratch, THEN_SIZE))
            put(scratch, THEN_SIZE, 0)

    @jit
    def multiply_panel(scratch, a, row, part, rows, terms, b, c, ldc, past, totals, more, ends):
        """c (rows, COLUMNS) = a b for whole rows of terms of a and one panel b, both in parts.

        A group of terms at a time its sums go to `totals`, tile by tile; `more`: they are added to what is there;
        `ends`: in the end they become c, written past the caches if `past`.  The last tile waits until another is
        multiplied, or for finish_last."""
        count, group = (rows + largest - 1) // largest, equal_part(terms, GROUP)
        put(scratch, LDA, row)
        put(scratch, A_PART, part)
        put(scratch, B_PART, terms // 2 * ROW)
        for n in range((terms + group - 1) // group):
            start = n * group
            pairs = min(group, terms - start) // 2
            turns, steps = pairs // TERMS * TURNS, pairs // TERMS * PRODUCTS
            first, last = not more and not n, ends and start + group >= terms
            put(scratch, LENGTH, pairs)
            put(scratch, B, b + start // 2 * ROW)
            for t in range(count):
                at, stop, total = rows * t // count, rows * (t + 1) // count, totals + t * TILE_SUMS
                fetch_next(scratch, turns)
                put(scratch, A, a + at * row + start * 2)
                put(scratch, ROWS_A_STEP, (get(scratch, ROWS) + steps - 1) // steps)  # of the tile before
                multiply(stop - at, PARTS, scratch)
                put(scratch, C, c + at * ldc if last else total)
                put(scratch, LDC, ldc if last else ROW)
                put(scratch, FINISH, PAST if past and last else PLAIN)
                put(scratch, BIAS, scratch + ZEROS if first else total)
                put(scratch, LDBIAS, 0 if first else ROW)
                put(scratch, ROWS, stop - at)

    @jit
    def finish(scratch):
        finish_last(scratch)
        put(scratch, ROWS, 0)

    return Panels(begin, bring, multiply_panel, finish)
