"""Evaluation's kernels besides products and attention, each for one kind of step: copying, padding, adding, summing and
rounding rows, layer normalization."""

from . import step
from .barrier import share
from .intrinsics import get, get_float, set_float
from .jit import jit
from .step import LINE

I_IMAGES, I_CHANNELS, I_HEIGHT, I_WIDTH, I_SOURCE, I_TARGET, I_TARGET_ROW, I_TARGET_CHANNEL, I_PIXELS = (
    int(c) for c in step.Pad)
R_OFFSETS, R_COUNT, R_SOURCE, R_TARGET, R_VECTORS = (int(c) for c in step.Rows)
S_IMAGES, S_TOKENS, S_SOURCE, S_SOURCE_ROW, S_SOURCE_IMAGE, S_TARGET, S_TARGET_ROW, S_VECTORS = (
    int(c) for c in step.Sum)
D_IMAGES, D_TOKENS, D_SOURCE, D_SOURCE_ROW, D_TARGET, D_TARGET_ROW, D_VECTORS = (int(c) for c in step.Add)
O_ROWS, O_SOURCE, O_SOURCE_ROW, O_TARGET, O_TARGET_ROW, O_VECTORS, O_PART = (int(c) for c in step.Round)
L_ROWS, L_CHANNELS, L_SOURCE, L_TARGET, L_ROW, L_GAMMA, L_BETA, L_EPS, L_VECTORS = (int(c) for c in step.LayerNorm)

AHEAD = 8  # rows, between the one that is written to and the one that is asked for


def row_kernels(instructions, call):
    """(pad, rows, total, add, to_bfloat16, layer_norm), each (step, thread, threads).  call: the routines by name."""
    copy_row, add_row = call["copy"], call["add"]
    to_bfloat16 = jit(lambda s, thread, threads: None)  # takes no steps without bfloat16
    if instructions.bfloat16_inputs:
        to_bfloat16 = _to_bfloat16(call["round"])
    round_pixels = call.get("round_pixels", jit(lambda source, plane, target, columns: None))
    pad = _pad(instructions.lanes, copy_row, call["prefetch_target"], round_pixels)
    return (pad, _rows(copy_row), _total(copy_row, add_row), _add(add_row), to_bfloat16,
            _layer_norm(call["layer_norm"]))


def _pad(lanes, copy_row, prefetch_target, round_pixels):
    @jit
    def pad(s, thread, threads):
        height, columns = get(s, I_HEIGHT), get(s, I_WIDTH)
        first, last = share(get(s, I_IMAGES) * get(s, I_CHANNELS) * height, thread, threads)
        for row in range(first, last):
            line = row
            if get(s, I_PIXELS):
                line += row // height * 2 * height  # of an image's three planes
            source = get(s, I_SOURCE) + line * columns * 4
            target = get(s, I_TARGET) + row // height * get(s, I_TARGET_CHANNEL) + row % height * get(s, I_TARGET_ROW)
            prefetch_target(target + AHEAD * get(s, I_TARGET_ROW), get(s, I_TARGET_ROW) // LINE + 1)
            if get(s, I_PIXELS):
                round_pixels(source, height * columns * 4, target, columns)
            else:
                copy_row(source, target, columns // lanes)
                for i in range(columns // lanes * lanes, columns):
                    set_float(target + 4 * i, get_float(source + 4 * i))

    return pad


def _rows(copy_row):
    @jit
    def rows(s, thread, threads):
        first, last = share(get(s, R_COUNT), thread, threads)
        for i in range(first, last):
            pair = get(s, R_OFFSETS) + 16 * i
            copy_row(get(s, R_SOURCE) + get(pair, 0), get(s, R_TARGET) + get(pair, 1), get(s, R_VECTORS))

    return rows


def _total(copy_row, add_row):
    @jit
    def total(s, thread, threads):
        first, last = share(get(s, S_IMAGES), thread, threads)
        for image in range(first, last):
            source = get(s, S_SOURCE) + image * get(s, S_SOURCE_IMAGE)
            target = get(s, S_TARGET) + image * get(s, S_TARGET_ROW)
            copy_row(source, target, get(s, S_VECTORS))
            for i in range(1, get(s, S_TOKENS)):
                add_row(source + i * get(s, S_SOURCE_ROW), target, get(s, S_VECTORS))

    return total


def _add(add_row):
    @jit
    def add(s, thread, threads):
        first, last = share(get(s, D_IMAGES) * get(s, D_TOKENS), thread, threads)
        for i in range(first, last):
            add_row(get(s, D_SOURCE) + i % get(s, D_TOKENS) * get(s, D_SOURCE_ROW),
                    get(s, D_TARGET) + i * get(s, D_TARGET_ROW), get(s, D_VECTORS))

    return add


def _to_bfloat16(round_row):
    @jit
    def to_bfloat16(s, thread, threads):
        first, last = share(get(s, O_ROWS), thread, threads)
        for i in range(first, last):
            round_row(get(s, O_SOURCE) + i * get(s, O_SOURCE_ROW), get(s, O_TARGET) + i * get(s, O_TARGET_ROW),
                      get(s, O_VECTORS), get(s, O_PART))

    return to_bfloat16


def _layer_norm(normalize_row):
    @jit
    def layer_norm(s, thread, threads):
        first, last = share(get(s, L_ROWS), thread, threads)
        channels, row, vectors_ = get(s, L_CHANNELS), get(s, L_ROW), get(s, L_VECTORS)
        for i in range(first, last):
            normalize_row(get(s, L_SOURCE) + i * row, get(s, L_TARGET) + i * row, vectors_, channels, get(s, L_GAMMA),
                          get(s, L_BETA), get(s, L_EPS))

    return layer_norm
