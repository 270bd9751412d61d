"""What stands on the left of a gradient, transposed: strips of as many columns as a tile has rows.

a (terms, columns) is strips, each (terms, its columns), the last perhaps narrower; behind each is room for a vector."""

from .intrinsics import get_float, set_float


def strip_packing(instructions, jit, call):
    """(strip, pack_strips).  call: the routines by name."""
    wide, lanes = instructions.rows, instructions.lanes
    read = -(-wide // lanes) * lanes  # columns at a time, of which the next strip has some
    copy_strips = call["strips"]

    @jit
    def strip(terms):
        """Bytes from a strip to the next."""
        return (terms * wide + lanes) * 4

    @jit
    def pack_strips(source, row, terms, columns, target):
        full = (columns - read) // wide + 1 if columns >= read else 0
        copy_strips(source, row, target, terms, full, strip(terms))
        for j in range(full, (columns + wide - 1) // wide):
            to, present = target + j * strip(terms), min(wide, columns - j * wide)
            for k in range(terms):
                for i in range(present):
                    set_float(to + (k * wide + i) * 4, get_float(source + k * row + (j * wide + i) * 4))

    return strip, pack_strips
