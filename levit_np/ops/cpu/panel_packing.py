"""Packing the right operand of training's products, at every call, as the weights change with every step.

A packed b (terms, columns) is one panel after another, each (terms, `width`), the last perhaps narrower; columns are
padded with zeros to a multiple of the narrowest panel's."""

from typing import Any, NamedTuple

from numba import types

from .intrinsics import get_float, set_float
from .jit import jit


class Packing(NamedTuple):
    """Functions: of sizes, and those that pack."""

    padded: Any
    panels: Any
    pack_rows: Any
    pack_columns: Any


@jit
def init_scratch(scratch):
    """Puts the 1.0 at the start of a thread's scratch: the `scale` of pack_rows where none is wanted."""
    set_float(scratch, types.float32(1))


@jit
def fill(target, count):
    """Writes `count` zeros."""
    for i in range(count):
        set_float(target + 4 * i, types.float32(0))


def panel_packing(instructions, call):
    """call: the routines by name."""
    width, lanes, grain = instructions.width, instructions.lanes, instructions.tail * instructions.lanes
    transpose_square, pack_panels = call["transpose"], call["pack"]

    @jit
    def padded(columns):
        """Columns rounded up to the narrowest panel's width."""
        return (columns + grain - 1) // grain * grain

    @jit
    def panels(columns):
        return (columns + width - 1) // width

    @jit
    def pack_rows(source, row, terms, columns, first, last, scale, target):
        """Packs panels first to last of b (terms, columns), each number times the one at address `scale`."""
        full = min(last, columns // width)
        if first < full:
            pack_panels(source + first * width * 4, row, target + first * terms * width * 4, terms, full - first, scale)
        for j in range(max(first, full), last):
            wide = padded(columns) - j * width
            present = columns - j * width
            to = target + j * terms * width * 4
            factor = get_float(scale)
            for k in range(terms):
                for i in range(present):
                    set_float(to + (k * wide + i) * 4, get_float(source + k * row + (j * width + i) * 4) * factor)
                fill(to + (k * wide + present) * 4, wide - present)

    @jit
    def pack_columns(source, row, terms, columns, first, last, target):
        """The same where memory holds bᵀ, (columns, terms)."""
        for j in range(first, last):
            wide = min(width, padded(columns) - j * width)
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

    return Packing(padded, panels, pack_rows, pack_columns)
