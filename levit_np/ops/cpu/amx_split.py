"""Float32 matrices -> three bfloat16 parts in the layout that AMX's tiles read (see amx.py): the left operand of a
product by rows, the right one by panels."""

from . import amx_sizes
from .amx import COLUMNS
from .intrinsics import get_float, set_float
from .jit import jit
from .panel_packing import fill

ROW = COLUMNS * 4
SQUARE = 1024  # bytes of a buffer in which a partial vector, square or pair of rows is padded with zeros
padded_terms, row_size = jit(amx_sizes.padded_terms), jit(amx_sizes.row_size)


def amx_split(lanes, call):
    """(split_rows, split_columns, split_panel_of), each of which is handed the address of a SQUARE.  call: the routines
    by name."""
    split_row, split_square, split_panel = (call[name] for name in ("split_row", "split_square", "split_panel"))

    @jit
    def split_rows(a, lda, rows, terms, target, part, square):
        """a (rows, terms) -> rows in parts, padded with zeros to whole tile rows."""
        row, vectors = row_size(terms), terms // lanes
        done = vectors * lanes
        more = (padded_terms(terms) - done) // lanes
        for i in range(rows):
            split_row(a + i * lda, target + i * row, part, vectors)
            if more:
                fill(square, 2 * lanes)
                for k in range(done, terms):
                    set_float(square + (k - done) * 4, get_float(a + i * lda + k * 4))
                split_row(square, target + i * row + done * 2, part, more)

    @jit
    def split_columns(a, lda, terms, columns, target, part, square):
        """a (terms, columns) -> its columns as rows in parts, padded likewise."""
        row, own = row_size(terms), lanes * 4
        for c in range(0, columns, lanes):
            for k in range(0, padded_terms(terms), lanes):
                source, source_row, to = a + k * lda + c * 4, lda, target + c * row + k * 2
                if k + lanes > terms or c + lanes > columns:
                    fill(square, lanes * lanes)
                    for i in range(max(0, min(lanes, terms - k))):
                        for j in range(min(lanes, columns - c)):
                            set_float(square + (i * lanes + j) * 4, get_float(source + i * lda + j * 4))
                    source, source_row = square, own
                split_square(source, source_row, to, row, part)

    @jit
    def split_panel_of(b, row, terms, j, target, square):
        """Panel j of b (terms, columns), which has all its columns, -> a panel in parts; terms padded with zeros."""
        pairs = padded_terms(terms) // 2
        source = b + j * ROW
        split_panel(source, row, target, pairs * ROW, 0, 0, terms // 2)
        if terms // 2 < pairs:
            for n in range(terms // 2, pairs):
                fill(square, 2 * COLUMNS)
                if 2 * n < terms:
                    for c in range(COLUMNS):
                        set_float(square + 4 * c, get_float(source + 2 * n * row + 4 * c))
                split_panel(square, ROW, target + n * ROW, pairs * ROW, 0, 0, 1)

    return split_rows, split_columns, split_panel_of
