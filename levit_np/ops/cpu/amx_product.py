"""Products on AMX's tiles, of bfloat16 or of float32 in three parts.

While the tiles multiply, the vector units finish the tile before (bias, activation, rounding) and split the weights that
come next, so that neither waits for the other.
"""

from . import step
from .amx import COLUMNS, PARTS, TERMS
from .amx import SCRATCH as SUMS_BYTES
from .intrinsics import amx_functions, get, put
from .step import AMX_JOB, Job

ROW = COLUMNS * 4
# Numba takes whole numbers, not names of an enumeration.
LDA, A_PART, COUNT, LENGTH, A, SEGMENTS, B, B_PART, AHEAD, ADVANCE, MORE, SUMS = (int(Job[name]) for name in (
    "LDA A_PART COUNT LENGTH A SEGMENTS B B_PART AHEAD ADVANCE MORE SUMS").split())
DONE, C, LDC, BIAS, FINISH, HALF, LDHALF, HALF_PART, ROWS, ROWS_A_STEP = (int(n) for n in list(Job)[Job.DONE : Job.SOURCE])
SOURCE, TARGET, PART, FURTHER, FIRST, LAST, PAIRS_A_STEP = (int(n) for n in list(Job)[Job.SOURCE :])


def amx_product(jit, lanes, divide):
    """The kernel (step, thread, threads); divide(step, thread, threads): which tiles and panels are a thread's."""
    multiply, finish, _, split = amx_functions(lanes)
    P_TILES, P_A, P_LDA, P_SEGMENTS, P_GROUPS, P_COUNT, P_LENGTH, P_B, P_B_PANEL, P_C, P_LDC, P_C_PANEL, P_BIAS, P_FINISH, \
        P_BLOCK, P_PAIRS, P_A_PART, P_HALF, P_HALF_PART, P_SCRATCH, P_SCRATCH_SIZE = (int(step.Product[name]) for name in (
            "TILES A LDA SEGMENTS GROUPS COUNT LENGTH B B_PANEL C LDC C_PANEL BIAS FINISH BLOCK PAIRS A_PART HALF HALF_PART "
            "SCRATCH SCRATCH_SIZE").split())

    @jit
    def begin(s, job, terms):
        """What is the same for all tiles; nothing to finish yet, nothing to split."""
        for n in range(AMX_JOB // 8):
            put(job, n, 0)
        for from_, to in ((P_LDA, LDA), (P_A_PART, A_PART), (P_COUNT, COUNT), (P_LENGTH, LENGTH), (P_LDC, LDC),
                          (P_FINISH, FINISH), (P_HALF_PART, HALF_PART)):
            put(job, to, get(s, from_))
        put(job, LDHALF, get(s, P_LDC) // 2)
        if get(s, P_PAIRS) == PARTS:
            put(job, B_PART, terms * ROW)
            put(job, PART, terms * ROW)
            put(job, FURTHER, get(s, P_B_PANEL))

    @jit
    def wait_for_finish(s, job, rows, offset, j, steps):
        """The tile just multiplied is to be finished during the next."""
        put(job, DONE, get(job, SUMS))
        put(job, C, get(s, P_C) + offset if get(s, P_C) else 0)
        put(job, HALF, get(s, P_HALF) + offset // 2 if get(s, P_HALF) else 0)
        put(job, BIAS, get(s, P_BIAS) + j * ROW)
        put(job, ROWS, rows)
        put(job, ROWS_A_STEP, (rows + steps - 1) // steps)

    @jit
    def product(s, thread, threads):
        first, last, left, right = divide(s, thread, threads)
        if first == last or left == right:
            return
        groups, block, panel, parts = get(s, P_GROUPS), get(s, P_BLOCK), get(s, P_B_PANEL), get(s, P_PAIRS)
        terms = get(s, P_COUNT) * get(s, P_LENGTH)  # pairs of numbers, of a group
        steps, chunks = terms // TERMS * (6 if parts == PARTS else 1), (right - left) * groups
        size = terms * ROW * (2 if parts == PARTS else 1)  # bytes of a group's weights
        job = get(s, P_SCRATCH) + thread * get(s, P_SCRATCH_SIZE)
        sums = job + AMX_JOB
        weights = sums + block * SUMS_BYTES  # two turns of weights in parts
        turn, turns = 0, PARTS * terms * ROW
        begin(s, job, terms)
        if parts == PARTS:
            split(get(s, P_B) + left * panel, weights, terms * ROW, panel, 0, terms)
        start = first
        while start < last:  # a range whose step may be 0 could raise
            stop = min(start + block, last)
            for n in range(chunks):
                # A group of terms at a time: its part of the panel stays in the L1 cache while all tiles of the block
                # use it, and rounding does not grow with the length of a row.
                j, group = left + n // groups, n % groups
                source, there = get(s, P_B) + j * panel + group * size, 0
                put(job, B, weights + turn * turns if parts == PARTS else source)
                put(job, LAST, 0)
                if parts == PARTS and (n + 1 < chunks or stop < last):
                    m = n + 1 if n + 1 < chunks else 0
                    put(job, SOURCE, get(s, P_B) + (left + m // groups) * panel + m % groups * size)
                    put(job, TARGET, weights + (1 - turn) * turns)
                    there = terms
                for t in range(start, stop):
                    tile, count = get(s, P_TILES) + 24 * t, stop - start
                    rows = get(tile, 0)
                    put(job, A, get(s, P_A) + get(tile, 1))
                    put(job, SEGMENTS, get(s, P_SEGMENTS) + group * get(s, P_COUNT) * 8)
                    put(job, MORE, group)
                    if parts == PARTS:
                        put(job, SUMS, sums + (t - start) * SUMS_BYTES)
                        put(job, FIRST, there * (t - start) // count)
                        put(job, LAST, there * (t - start + 1) // count)
                        put(job, PAIRS_A_STEP, (get(job, LAST) - get(job, FIRST) + steps - 1) // steps)
                    else:  # the next panel is fetched meanwhile, each tile's share of it
                        put(job, SUMS, sums)
                        put(job, AHEAD, source + panel + panel * (t - start) // count)
                        put(job, ADVANCE, panel // count // steps)
                    multiply(rows, parts, job)
                    put(job, ROWS, 0)
                    if group == groups - 1:
                        wait_for_finish(s, job, rows, get(tile, 2) + j * get(s, P_C_PANEL), j, steps)
                turn = 1 - turn
            start = stop
        finish(get(job, DONE), get(job, C), get(job, LDC), get(job, BIAS), get(job, FINISH), get(job, HALF),
               get(job, LDHALF), get(job, HALF_PART), 0, get(job, ROWS))

    return product
