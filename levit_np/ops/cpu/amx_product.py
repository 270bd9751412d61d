"""Evaluation's matrix products on AMX's tiles: of bfloat16, or of float32 in three parts (see amx.py).

While the tile unit multiplies, the vector units finish the tile before (bias, activation, rounding) and split the
weights that come next, so that neither waits for the other."""

from . import step
from .amx import COLUMNS, PARTS, PASSES, TERMS
from .intrinsics import get, put
from .jit import jit
from .product_division import divide
from .step import AMX_JOB, PLAIN, TILE, TILE_SUMS, Job

ROW, SIX = COLUMNS * 4, sum(map(len, PASSES[PARTS]))
# Numba compiles plain integers, not members of an IntEnum.
A, LDA, A_PART, SEGMENTS, COUNT, LENGTH, B, B_PART, AHEAD, ADVANCE, SUMS = (int(n) for n in list(Job)[: Job.DONE])
DONE, C, LDC, BIAS, LDBIAS, FINISH, HALF, LDHALF, HALF_PART, ROWS, ROWS_A_STEP = (
    int(n) for n in list(Job)[Job.DONE : Job.SOURCE])
SOURCE, TARGET, PART, FURTHER, FIRST, LAST, PAIRS_A_STEP = (int(n) for n in list(Job)[Job.SOURCE :])


def amx_product(call):
    """The kernel (step, thread, threads).  call: the routines by name."""
    multiply, finish_last, split = call["amx_multiply"], call["amx_finish_last"], call["split_panel"]
    P_TILES, P_A, P_LDA, P_SEGMENTS, P_GROUPS, P_COUNT, P_LENGTH, P_B, P_B_PANEL, P_C, P_LDC, P_C_PANEL, P_BIAS, \
        P_FINISH, P_BLOCK, P_PARTS, P_A_PART, P_HALF, P_HALF_PART, P_SCRATCH, P_SCRATCH_SIZE = (
            int(step.Product[name]) for name in (
                "TILES A LDA SEGMENTS GROUPS COUNT LENGTH B B_PANEL C LDC C_PANEL BIAS FINISH BLOCK PARTS A_PART HALF "
                "HALF_PART SCRATCH SCRATCH_SIZE").split())

    @jit
    def begin(s, job, terms):
        """Fills in what all tiles have in common; nothing to finish yet, nothing to split."""
        for n in range(AMX_JOB // 8):
            put(job, n, 0)
        put(job, LDA, get(s, P_LDA))
        put(job, A_PART, get(s, P_A_PART))
        put(job, COUNT, get(s, P_COUNT))
        put(job, LENGTH, get(s, P_LENGTH))
        put(job, HALF_PART, get(s, P_HALF_PART))
        put(job, LDHALF, get(s, P_LDC) // 2)
        put(job, SUMS, job + AMX_JOB)
        put(job, DONE, job + AMX_JOB)
        if get(s, P_PARTS) == PARTS:
            put(job, B_PART, terms * ROW)
            put(job, PART, terms * ROW)
            put(job, FURTHER, get(s, P_B_PANEL))

    @jit
    def to_finish(s, job, tile, j, total, group, steps):
        """Notes how the tile just multiplied is to be finished during the next one. The first group starts from the
        bias, each later one from the groups before it, in `total`; the last becomes the result."""
        offset = get(tile, 2) + j * get(s, P_C_PANEL)
        last = group == get(s, P_GROUPS) - 1
        put(job, BIAS, total if group else get(s, P_BIAS) + j * ROW)
        put(job, LDBIAS, ROW if group else 0)
        put(job, C, total if not last else get(s, P_C) + offset if get(s, P_C) else 0)
        put(job, LDC, get(s, P_LDC) if last else ROW)
        put(job, FINISH, get(s, P_FINISH) if last else PLAIN)
        put(job, HALF, get(s, P_HALF) + offset // 2 if last and get(s, P_HALF) else 0)
        put(job, ROWS, get(tile, 0))
        put(job, ROWS_A_STEP, (get(tile, 0) + steps - 1) // steps)

    @jit
    def all_tiles(s, job, start, stop, j, group, pairs, steps):
        """Multiplies tiles start to stop by one group of terms of panel j, splitting `pairs` pairs of rows of the next
        group's weights meanwhile."""
        source, count, parts, panel = get(job, B), stop - start, get(s, P_PARTS), get(s, P_B_PANEL)
        put(job, SEGMENTS, get(s, P_SEGMENTS) + group * get(s, P_COUNT) * 8)
        for n in range(count):
            tile = get(s, P_TILES) + TILE * (start + n)
            put(job, A, get(s, P_A) + get(tile, 1))
            if parts == PARTS:
                put(job, FIRST, pairs * n // count)
                put(job, LAST, pairs * (n + 1) // count)
                put(job, PAIRS_A_STEP, (get(job, LAST) - get(job, FIRST) + steps - 1) // steps)
            else:  # bfloat16 needs no splitting: prefetch the next panel instead, a share in each tile
                put(job, AHEAD, source + panel + panel * n // count)
                put(job, ADVANCE, panel // count // steps)
            multiply(get(tile, 0), parts, job)
            to_finish(s, job, tile, j, job + AMX_JOB + (n + 1) * TILE_SUMS, group, steps)

    @jit
    def product(s, thread, threads):
        """Blocks of tiles × panels × groups of terms: a group's part of a panel stays in L1 while all tiles of the
        block use it."""
        first, last, left, right = divide(s, thread, threads)
        if first == last or left == right:
            return
        groups, block, panel, several = get(s, P_GROUPS), get(s, P_BLOCK), get(s, P_B_PANEL), get(s, P_PARTS) == PARTS
        terms = get(s, P_COUNT) * get(s, P_LENGTH)  # of a group, in pairs
        steps, chunks = terms // TERMS * (SIX if several else 1), (right - left) * groups
        size = terms * ROW * (2 if several else 1)  # bytes of a group's weights
        job = get(s, P_SCRATCH) + thread * get(s, P_SCRATCH_SIZE)
        weights = job + AMX_JOB + (1 + block) * TILE_SUMS  # two buffers of split weights: these and the next
        turn, turn_size = 0, PARTS * terms * ROW
        begin(s, job, terms)
        if several:
            split(get(s, P_B) + left * panel, ROW, weights, terms * ROW, panel, 0, terms)
        start = first
        while start < last:  # range() could raise, for a step of 0
            stop = min(start + block, last)
            for n in range(chunks):
                pairs = 0
                put(job, B, get(s, P_B) + (left + n // groups) * panel + n % groups * size)
                if several:
                    put(job, B, weights + turn * turn_size)
                    turn = 1 - turn
                    if n + 1 < chunks or stop < last:
                        after, pairs = (n + 1) % chunks, terms
                        put(job, SOURCE, get(s, P_B) + (left + after // groups) * panel + after % groups * size)
                        put(job, TARGET, weights + turn * turn_size)
                all_tiles(s, job, start, stop, left + n // groups, n % groups, pairs, steps)
            start = stop
        finish_last(job)

    return product
