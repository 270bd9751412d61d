"""Matrices of float32 in three parts, as AMX's tiles take them (see amx.py): what is on the left of a product row by
row, what is on the right panel by panel."""

from .amx import COLUMNS
from .intrinsics import get_float, set_float
from .parts import row_size as plain_row_size
from .parts import whole_terms as plain_whole_terms

ROW = COLUMNS * 4
SQUARE = 1024  # bytes in which what fills no vector, square or pair of rows is filled up with zeros


def amx_split(jit, lanes, call, fill):
    """(split_rows, split_columns, split_panel_of).  call: the routines by name; fill(address, count) writes zeros.
    Each is handed the address of a SQUARE."""
    split_row, split_square, split_panel = (call[name] for name in ("split_row", "split_square", "split_panel"))
    whole_terms, row_size = jit(plain_whole_terms), jit(plain_row_size)

    @jit
    def split_rows(a, lda, rows, terms, target, part, square):
        """a (rows, terms), zeros behind the last term up to whole rows of a tile."""
        row, vectors = row_size(terms), terms // lanes
        done = vectors * lanes
        more = (whole_terms(terms) - done) // lanes
        for i in range(rows):
            split_row(a + i * lda, target + i * row, part, vectors)
            if more:
                fill(square, 2 * lanes)
                for k in range(done, terms):
                    set_float(square + (k - done) * 4, get_float(a + i * lda + k * 4))
                split_row(square, target + i * row + done * 2, part, more)

    @jit
    def split_columns(a, lda, terms, columns, target, part, square):
        """The columns of a (terms, columns) as rows, filled up with zeros likewise."""
        row, own = row_size(terms), lanes * 4
        for c in range(0, columns, lanes):
            for k in range(0, whole_terms(terms), lanes):
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
        """Panel j of b (terms, columns) in parts, its columns all there; the last terms filled up with zeros."""
        pairs = whole_terms(terms) // 2
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
