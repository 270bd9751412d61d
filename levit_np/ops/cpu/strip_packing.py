"""Packing the left operand of training's gradients (aᵀ b): strips of as many columns of a as a tile has rows.

A packed a (terms, columns) is one strip after another, each (terms, its columns), the last perhaps narrower, with room
for a vector behind each."""

from .intrinsics import get_float, set_float
from .jit import jit


def strip_packing(instructions, call):
    """(strip_size, pack_strips).  call: the routines by name."""
    wide, lanes = instructions.rows, instructions.lanes
    read = -(-wide // lanes) * lanes  # columns read at a time, some of them the next strip's
    copy_strips = call["strips"]

    @jit
    def strip_size(terms):
        """Bytes from a strip to the next."""
        return (terms * wide + lanes) * 4

    @jit
    def pack_strips(source, row, terms, columns, target):
        """Packs a (terms, columns), `row` bytes a row."""
        full = (columns - read) // wide + 1 if columns >= read else 0
        copy_strips(source, row, target, terms, full, strip_size(terms))
        for j in range(full, (columns + wide - 1) // wide):
            to, present = target + j * strip_size(terms), min(wide, columns - j * wide)
            for k in range(terms):
                for i in range(present):
                    set_float(to + (k * wide + i) * 4, get_float(source + k * row + (j * wide + i) * 4))

    return strip_size, pack_strips
