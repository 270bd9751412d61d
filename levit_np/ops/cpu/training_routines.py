"""The micro-kernels of training as routines that kernels call by name (routines.py): register tiles, packing,
transposes, functions of rows."""

from functools import partial

from . import amx, filtering_rows
from .routines import emits
from .row_functions import if_not_zero, row_functions
from .rows import transpose
from .step import LINE
from .tile import emit_loop, emit_switch, row_offsets
from .training_step import PREFETCH_LANES
from .vector import I64, Vectors, number

UNROLL = 4
PACKED = 8  # rows packed at a time
STORE, ACCUMULATE, STREAM = range(3)  # modes: c = the product, c += it, or c = it with non-temporal stores


def training_routines(instructions):
    """{name: (number of arguments, emit(builder, arguments))}."""
    lanes = instructions.lanes
    found = row_functions(lanes) | _filtering(lanes) | {
        "multiply": (10, _rows(instructions, _multiply)),
        "multiply_transposed": (9, _rows(instructions, _multiply_transposed)),
        "multiply_strips": (10, _multiply_strips(instructions)), "transpose": emits(lanes, 4, transpose),
        "copy_fours": emits(4, 5, _copy_fours), "pack": (6, _pack(lanes, instructions.width)),
        "strips": (6, _strips(lanes, instructions.rows))}
    if instructions.double_rows:
        found["multiply_double"] = 10, _double(instructions)
    return found | _amx(lanes) if instructions.bfloat16 == "tiles" else found


def _filtering(lanes):
    """The routines of filtering_kernels.py."""
    def sums(stream):
        return lambda builder, arguments: filtering_rows.sums(Vectors(builder, lanes, stream), *arguments[:7])

    return {"window": emits(lanes, 5, filtering_rows.window),
            "window_backward": emits(lanes, 5, filtering_rows.window_backward),
            "square_sums": (8, if_not_zero(7, sums(True), sums(False))),  # last argument: non-temporal stores or not
            "square_sums_backward": emits(lanes, 6, filtering_rows.sums_backward),
            "kernel_terms": emits(lanes, 3, filtering_rows.kernel_terms),
            "kernel_terms_backward": emits(lanes, 3, filtering_rows.kernel_terms_backward)}


def _amx(lanes):
    """The routines of amx_training.py."""
    return {"configure": emits(lanes, 0, amx.configure), "release": emits(lanes, 0, amx.release),
            "amx_multiply": emits(lanes, 3, amx.multiply), "amx_finish_last": emits(lanes, 1, amx.finish_last),
            "split_row": emits(lanes, 4, amx.split_row), "split_square": emits(lanes, 5, amx.split_square),
            "split_panel": emits(lanes, 7, amx.split_panel)}


def _rows(instructions, emit):
    """f(a, step, rows, terms, b, vectors, c, ldc, mode[, ahead]): all rows in as few tiles as possible, the larger ones
    first; emit makes one tile. One call for many tiles, as a call costs as much as twenty terms."""
    def every(b, arguments):
        a, step, rows, terms, weights, vectors, c, ldc, mode, *ahead = arguments

        def of_width(width):
            def tile(size, a, c, *ahead):
                emit(Vectors(b, instructions.lanes), size, width, a, step, terms, weights, c, ldc, mode, *ahead)

            row = number(4) if emit is _multiply_transposed else step
            _in_tiles(b, rows, instructions.rows, row, ldc, terms, [a, c, *ahead], tile)

        emit_switch(b, vectors, {width: partial(of_width, width)
                                 for width in sorted({instructions.vectors, instructions.tail})})

    return every


def _double(instructions):
    """f(a, lda, rows, terms, b, b_panel, c, ldc, mode, ahead): the same of c = a b in tiles of two panels, b_panel
    bytes apart, which load fewer numbers a multiplication: 6 + 4 for 24, where 14 rows of one panel load 14 + 2 for 28.
    """
    def every(b, arguments):
        a, lda, rows, terms, weights, b_panel, c, ldc, mode, ahead = arguments

        def tile(size, a, c, ahead):
            _multiply_double(Vectors(b, instructions.lanes), size, instructions.vectors, a, lda, terms, weights,
                             b_panel, c, ldc, mode, ahead)

        _in_tiles(b, rows, instructions.double_rows, lda, ldc, terms, [a, c, ahead], tile)

    return every


def _in_tiles(b, rows, largest, row, ldc, terms, start, tile):
    """tile(size, a, c[, ahead]) for all rows.  row, ldc: bytes from a row of a, of c, to the next."""
    with b.if_then(b.icmp_signed(">", rows, number(0))):
        tiles = b.sdiv(b.add(rows, number(largest - 1)), number(largest))
        least, more = b.sdiv(rows, tiles), b.srem(rows, tiles)

        def each(i, carried):
            size = b.add(least, b.zext(b.icmp_signed("<", i, more), I64))
            emit_switch(b, size, {n: partial(tile, n, *carried) for n in range(1, largest + 1)})
            return [b.add(carried[0], b.mul(size, row)), b.add(carried[1], b.mul(size, ldc)),
                    *(_further(b, at, terms) for at in carried[2:])]

        emit_loop(b, number(0), tiles, 1, start, each)


def _multiply_strips(instructions):
    """f(a, strip, strips, terms, b, vectors, c, ldc, mode, ahead): c = aᵀ b, or c += aᵀ b, for `a` packed in strips,
    `strip` bytes apart, each (terms, rows of the largest tile)."""
    rows = instructions.rows

    def every(b, arguments):
        a, strip, strips, terms, weights, vectors, c, ldc, mode, ahead = arguments
        steps, offsets = ([number(4 * n * i) for i in range(count)] for n, count in ((rows, UNROLL + 1), (1, rows)))

        def of_width(width):
            def each(i, carried):
                a, c, ahead = carried
                v = Vectors(b, instructions.lanes)
                _tile(v, rows, width, a, steps, offsets, terms, weights, c, ldc, mode, ahead)
                return [b.add(a, strip), b.add(c, b.mul(ldc, number(rows))), _further(b, ahead, terms)]

            emit_loop(b, number(0), strips, 1, [a, c, ahead], each)

        emit_switch(b, vectors, {width: partial(of_width, width)
                                 for width in sorted({instructions.vectors, instructions.tail})})

    return every


def _further(b, ahead, terms):
    """Where a tile of so many terms stops prefetching."""
    return b.add(ahead, b.mul(b.sdiv(terms, number(UNROLL)), number(LINE)))


def _multiply(v, rows, vectors, a, lda, terms, b, c, ldc, mode, ahead):
    """A register tile of c = a b, or c += a b: rows of a lda bytes apart, b a panel (terms, vectors · lanes)."""
    offsets = row_offsets(v, lda, rows)
    _tile(v, rows, vectors, a, [number(4 * u) for u in range(UNROLL + 1)], offsets, terms, b, c, ldc, mode, ahead)


def _multiply_double(v, rows, vectors, a, lda, terms, b, b_panel, c, ldc, mode, ahead):
    """The same with two panels, b_panel bytes apart."""
    offsets, steps = row_offsets(v, lda, rows), [number(4 * u) for u in range(UNROLL + 1)]
    _tile(v, rows, vectors, a, steps, offsets, terms, b, c, ldc, mode, ahead, (number(0), b_panel))


def _multiply_transposed(v, rows, vectors, a, term, terms, b, c, ldc, mode):
    """A register tile of c = aᵀ b: `term` bytes from a term of a to the next; the tile's rows are columns of a."""
    steps = [v.builder.mul(term, number(u)) for u in range(UNROLL + 1)]
    _tile(v, rows, vectors, a, steps, [number(4 * i) for i in range(rows)], terms, b, c, ldc, mode)


def _tile(v, rows, vectors, a, steps, offsets, terms, b, c, ldc, mode, ahead=None, panels=(number(0),)):
    """The register tile behind them. steps[u]: bytes from a term to the u-th after it; offsets[i]: bytes to row i;
    ahead: where prefetching into L2 begins, a cache line every UNROLL terms; panels: bytes to each panel of b."""
    build, row, across = v.builder, vectors * v.lanes * 4, len(panels) * vectors
    prefetching = [] if ahead is None or v.lanes < PREFETCH_LANES else [ahead]

    def some(count):
        def body(at, carried):
            weights, *sums = carried
            if prefetching:
                line = sums.pop()
                v.prefetch(line)
            for u in range(count):
                right = [v.load(v.at(v.at(weights, panel), u * row + j * v.lanes * 4))
                         for panel in panels for j in range(vectors)]
                for i in range(rows):
                    x = v.spread(v.load_scalar(v.at(v.at(at, offsets[i]), steps[u])))
                    for j, w in enumerate(right):
                        sums[i * across + j] = v.fma(x, w, sums[i * across + j])
            return [v.at(weights, count * row), *sums, *([v.at(line, LINE)] if prefetching else [])]
        return body

    with build.if_then(build.icmp_signed("!=", mode, number(STREAM))):
        for i in range(rows):  # a gradient, added to repeatedly, is larger than the caches
            v.prefetch(v.at(c, build.mul(ldc, number(i))), writing=True)
    stop = v.at(a, build.mul(terms, steps[1]))
    at, carried = emit_loop(build, a, stop, steps[UNROLL], [b, *[v.splat(0.0)] * (rows * across), *prefetching],
                            some(UNROLL))
    _, (_, *sums) = emit_loop(build, at, stop, steps[1], carried, some(1))
    sums = sums[: rows * across]
    places = [v.at(v.at(c, build.mul(ldc, number(n // across))), n % across * v.lanes * 4) for n in range(len(sums))]

    def store(stream=False):
        to = Vectors(build, v.lanes, stream)
        for y, place in zip(sums, places):
            to.store(y, place)

    def add():
        for y, place in zip(sums, places):
            v.store(build.fadd(v.load(place), y), place)

    emit_switch(build, mode, {STORE: store, ACCUMULATE: add, STREAM: partial(store, v.lanes >= PREFETCH_LANES)})


def _copy_fours(v, source, step, target, row, count):
    """Copies `count` times four numbers, `step` bytes apart in the source and `row` bytes in the target."""
    def each(i, carried):
        here, there = carried
        v.store(v.load(here), there)
        return [v.at(here, step), v.at(there, row)]

    emit_loop(v.builder, number(0), count, 1, [source, target], each)


def _pack(lanes, columns):
    """f(source, row, target, terms, panels, scale): rows -> panels of `columns` columns, times the number at `scale`. A
    few rows at a time go into all panels: reading them is sequential, which the hardware prefetcher recognises."""
    def emit(builder, arguments):
        source, row, target, terms, panels, scale = arguments
        v = Vectors(builder, lanes)
        factor, panel = v.spread(v.load_scalar(scale)), builder.mul(terms, number(4 * columns))
        _into_panels(v, columns, source, row, target, terms, panels, panel, lambda x: builder.fmul(x, factor))

    return emit


def _strips(lanes, columns):
    """f(source, row, target, terms, strips, strip): the same without a factor, for strips that are narrower than whole
    vectors and `strip` bytes apart. What a vector stores too much the next row overwrites; behind a strip there is
    room."""
    def emit(builder, arguments):
        _into_panels(Vectors(builder, lanes), columns, *arguments, lambda x: x)

    return emit


def _into_panels(v, columns, source, row, target, terms, panels, panel, change):
    wide, size = 4 * columns, 4 * v.lanes

    def some(count):
        def rows(i, carried):
            def each(j, carried):
                here, there = carried
                for n in range(count):
                    for k in range(-(-columns // v.lanes)):
                        x = v.load(v.at(v.at(here, v.builder.mul(row, number(n))), k * size))
                        v.store(change(x), v.at(there, n * wide + k * size))
                return [v.at(here, wide), v.at(there, panel)]

            start = [v.at(source, v.builder.mul(i, row)), v.at(target, v.builder.mul(i, number(wide)))]
            emit_loop(v.builder, number(0), panels, 1, start, each)
            return []
        return rows

    i, _ = emit_loop(v.builder, number(0), terms, PACKED, [], some(PACKED))
    emit_loop(v.builder, i, terms, 1, [], some(1))
