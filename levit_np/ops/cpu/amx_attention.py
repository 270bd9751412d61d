"""Evaluation's attention in bfloat16: what tile_attention.py computes, with both products, q kᵀ and p v, on AMX's
tiles. A thread takes blocks of 32 queries of one head; scores exist for one block at a time."""

from . import step
from .amx import COLUMNS
from .barrier import share
from .intrinsics import get, put, set_float
from .jit import jit
from .step import AMX_JOB, TILE_SUMS, Job
from .value_pairs import value_pairs

SQUARE = 16  # a tile register's rows

HEADS, QUERIES, KEYS, KEY, VALUE, IMAGES, Q, Q_PANEL, K, K_PANEL, V, V_PANEL, BIAS, OUT, LDO, SCRATCHES, \
    SCRATCH_SIZE, FINISH, HALF = (int(step.Attention[name]) for name in (
        "HEADS QUERIES KEYS KEY VALUE IMAGES Q Q_PANEL K K_PANEL V V_PANEL BIAS OUT LDO SCRATCH "
        "SCRATCH_SIZE FINISH HALF").split())
A, LDA, SEGMENTS, COUNT, LENGTH, B, SUMS = (int(Job[name]) for name in "A LDA SEGMENTS COUNT LENGTH B SUMS".split())
HALF_ROW = COLUMNS * 2


def amx_attention(call):
    """The kernel (step, thread, threads).  call: the routines by name."""
    multiply, finish_scaled, scores_of, softmax_columns = (
        call[name] for name in ("amx_multiply", "amx_finish_scaled", "amx_scores", "softmax_columns"))
    transpose_square, round_square = call["transpose"], call["transpose_round"]
    values = value_pairs(call["interleave"])

    @jit
    def attention(s, thread, threads):
        heads, queries, keys, key, value = get(s, HEADS), get(s, QUERIES), get(s, KEYS), get(s, KEY), get(s, VALUE)
        row, ldo = COLUMNS * 4, get(s, LDO)
        pieces, panels, padded = key // COLUMNS, value // COLUMNS, (keys + COLUMNS - 1) // COLUMNS * COLUMNS
        job = get(s, SCRATCHES) + thread * get(s, SCRATCH_SIZE)
        sums = job + AMX_JOB
        inverses = sums + TILE_SUMS
        one_piece = inverses + row
        across = one_piece + 64  # the transposed queries: (pieces, 16 pairs, 32)
        scores = across + pieces * SQUARE * row
        powers = scores + padded * row  # (32 queries, padded keys), bfloat16
        pairs = powers + COLUMNS * padded * 2
        blocks = (queries + COLUMNS - 1) // COLUMNS
        first, last = share(get(s, IMAGES) * heads * blocks, thread, threads)
        for n in range(AMX_JOB // 8):
            put(job, n, 0)
        put(job, A, powers)
        put(job, LDA, padded * 2)
        put(job, SEGMENTS, one_piece)
        put(job, COUNT, 1)
        put(job, LENGTH, padded // 2)
        put(job, SUMS, sums)
        before = -1
        for unit in range(first, last):
            head, block, image = unit // blocks % heads, unit % blocks, unit // blocks // heads
            if unit // blocks != before:
                before = unit // blocks
                values(get(s, V) + head * panels * get(s, V_PANEL) + image * keys * HALF_ROW, get(s, V_PANEL), panels,
                       keys, padded, pairs)
            start = block * COLUMNS
            present = min(COLUMNS, queries - start)
            squares = (present + SQUARE - 1) // SQUARE
            q = get(s, Q) + head * pieces * get(s, Q_PANEL) + (image * queries + start) * HALF_ROW
            for p in range(pieces):
                for j in range(squares):
                    transpose_square(q + p * get(s, Q_PANEL) + j * SQUARE * HALF_ROW, HALF_ROW,
                                     across + p * SQUARE * row + j * 64, row)
            k = get(s, K) + head * pieces * get(s, K_PANEL) + image * keys * HALF_ROW
            bias = get(s, BIAS) + (head * blocks + block) * keys * row
            scores_of(k, get(s, K_PANEL), pieces, across, bias, scores, (keys + SQUARE - 1) // SQUARE)
            for j in range(squares):
                softmax_columns(scores + j * 64, row, keys, inverses + j * 64)
            for i in range(keys * row, padded * row, 4):
                set_float(scores + i, 0.0)
            for j in range(squares):
                for at in range(0, padded, SQUARE):
                    round_square(scores + at * row + j * 64, row, powers + j * SQUARE * padded * 2 + at * 2, padded * 2)
            offset = (image * queries + start) * ldo + head * value * 4
            for j in range(panels):
                to = offset + j * row
                put(job, B, pairs + j * padded * HALF_ROW)
                multiply(present, 1, job)
                finish_scaled(sums, get(s, OUT) + to if get(s, OUT) else 0, ldo, inverses, 4, get(s, FINISH),
                              get(s, HALF) + to // 2, ldo // 2, 0, 0, present)

    return attention
