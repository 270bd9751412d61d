"""Packed matrices: what stands on the right of training's products, which change at every step and are packed as they
come.

A packed b (terms, columns) is panels of `width` columns, the last perhaps narrower, each (terms, its columns); columns
are padded with zeros to whole grains."""

from typing import Any, NamedTuple

from numba import types

from .intrinsics import get_float, set_float


class Packing(NamedTuple):
    """Functions: of sizes, of a thread's scratch, and those that pack."""

    whole: Any
    panels: Any
    prepare: Any
    fill: Any
    pack_rows: Any
    pack_columns: Any


def panel_packing(instructions, jit, call):
    """call: the routines by name."""
    width, lanes, grain = instructions.width, instructions.lanes, instructions.tail * instructions.lanes
    transpose_square, pack_panels = call["transpose"], call["pack"]

    @jit
    def whole(columns):
        """Columns padded to whole grains."""
        return (columns + grain - 1) // grain * grain

    @jit
    def panels(columns):
        return (columns + width - 1) // width

    @jit
    def prepare(scratch):
        set_float(scratch, types.float32(1))

    @jit
    def fill(target, count):
        for i in range(count):
            set_float(target + 4 * i, types.float32(0))

    @jit
    def pack_rows(source, row, terms, columns, first, last, scale, target):
        """Panels first to last of b (terms, columns), each number times the one at `scale`."""
        full = min(last, columns // width)
        if first < full:
            pack_panels(source + first * width * 4, row, target + first * terms * width * 4, terms, full - first, scale)
        for j in range(max(first, full), last):
            wide = whole(columns) - j * width
            present = columns - j * width
            to = target + j * terms * width * 4
            factor = get_float(scale)
            for k in range(terms):
                for i in range(present):
                    set_float(to + (k * wide + i) * 4, get_float(source + k * row + (j * width + i) * 4) * factor)
                fill(to + (k * wide + present) * 4, wide - present)

    @jit
    def pack_columns(source, row, terms, columns, first, last, target):
        """The same of b's transpose (columns, terms)."""
        for j in range(first, last):
            wide = min(width, whole(columns) - j * width)
            to = target + j * terms * width * 4
            for o in range(0, wide, lanes):
                here = source + (j * width + o) * row
                present = max(0, min(lanes, columns - j * width - o))
                squares = terms // lanes * lanes if present == lanes else 0
                for k in range(0, squares, lanes):
                    transpose_square(here + k * 4, row, to + (k * wide + o) * 4, wide * 4)
                for k in range(squares, terms):
                    for i in range(present):
                        set_float(to + (k * wide + o + i) * 4, get_float(here + i * row + k * 4))
                    fill(to + (k * wide + o + present) * 4, lanes - present)

    return Packing(whole, panels, prepare, fill, pack_rows, pack_columns)
