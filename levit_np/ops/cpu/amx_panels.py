"""Training's product of a block of rows with one panel on AMX's tiles, float32 in three parts (see amx.py), tile after
tile.

A thread's scratch begins with the Job that amx.multiply is handed (step.Job): each tile is finished while the next one
is multiplied, so the last waits there. Behind it lies what these functions remember between two tiles."""

from typing import Any, NamedTuple

from numba import types

from . import amx_sizes
from .amx import PARTS, PASSES, TERMS
from .amx_sizes import GROUP
from .amx_split import ROW, SQUARE
from .intrinsics import get, put, set_float
from .jit import jit
from .panel_packing import fill
from .step import AMX_JOB, PLAIN, STREAM, TILE_SUMS, Job
from .training_step import AMX_HEADER

A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS = (int(n) for n in list(Job)[: Job.DONE])
DONE, C, LDC, BIAS, LDBIAS, FINISH = (int(n) for n in list(Job)[Job.DONE : Job.HALF])
ROWS, ROWS_A_STEP = int(Job.ROWS), int(Job.ROWS_A_STEP)
PRODUCTS, TURNS = sum(map(len, PASSES[PARTS])), len(PASSES[PARTS])
# Byte offsets in a thread's scratch: the Job, a bias of zeros, a table of one segment (offset 0), a 1.0, what is left
# to prefetch, a tile's sums, a square to pad with zeros (amx_split.py).
ZEROS = AMX_JOB
SEGMENT = ZEROS + ROW
ONE = SEGMENT + 32
NEXT, NEXT_SIZE, THEN, THEN_SIZE, EACH = (SEGMENT // 8 + 8 + n for n in range(5))  # int64 indices: schedule_prefetch
TILE = SEGMENT + 128
FILLED = TILE + TILE_SUMS
assert FILLED + SQUARE <= AMX_HEADER


class Panels(NamedTuple):
    """Functions of a thread's scratch."""

    begin: Any
    schedule_prefetch: Any
    multiply_panel: Any
    finish: Any


equal_part = jit(amx_sizes.equal_part)


def amx_panels(call):
    """call: the routines by name."""
    largest = amx_sizes.TILE_SIDE
    multiply, finish_last = call["amx_multiply"], call["amx_finish_last"]

    @jit
    def begin(scratch):
        """Prepares a thread's scratch for its first product."""
        fill(scratch, AMX_HEADER // 4)
        put(scratch, SEGMENTS, scratch + SEGMENT)
        put(scratch, COUNT, 1)
        put(scratch, SUMS, scratch + TILE)
        put(scratch, DONE, scratch + TILE)
        set_float(scratch + ONE, types.float32(1))

    @jit
    def schedule_prefetch(scratch, address, size, then, then_size, products):
        """Has two runs of memory, which the next block is made of, prefetched into L2, spread over the next `products`
        tiles."""
        put(scratch, NEXT, address)
        put(scratch, NEXT_SIZE, size)
        put(scratch, THEN, then)
        put(scratch, THEN_SIZE, then_size)
        put(scratch, EACH, (size + then_size + products - 1) // products)

    @jit
    def prefetch_next(scratch, turns):
        """Hands the next tile its share of that, spread over its `turns` passes through TERMS terms."""
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
    def multiply_panel(scratch, a, row, part, rows, terms, b, c, ldc, stream, totals, more, ends):
        """c (rows, COLUMNS) = a b: rows of a with `terms` terms, whole tile rows, times one panel b, both in parts.

        The terms are summed a group at a time, each tile's sums going to `totals`. more: they are added to what is
        there. ends: after the last group they become c, by non-temporal stores if `stream`. The last tile waits for the
        next product, or for finish_last."""
        count, group = (rows + largest - 1) // largest, equal_part(terms, GROUP)  # tiles; terms of a group
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
                prefetch_next(scratch, turns)
                put(scratch, A, a + at * row + start * 2)
                put(scratch, ROWS_A_STEP, (get(scratch, ROWS) + steps - 1) // steps)  # of the tile before
                multiply(stop - at, PARTS, scratch)
                put(scratch, C, c + at * ldc if last else total)
                put(scratch, LDC, ldc if last else ROW)
                put(scratch, FINISH, STREAM if stream and last else PLAIN)
                put(scratch, BIAS, scratch + ZEROS if first else total)
                put(scratch, LDBIAS, 0 if first else ROW)
                put(scratch, ROWS, stop - at)

    @jit
    def finish(scratch):
        finish_last(scratch)
        put(scratch, ROWS, 0)

    return Panels(begin, schedule_prefetch, multiply_panel, finish)
