"""Vector code that training's kernels call by name, compiled once: the register tiles, a transpose, functions of rows.

Numba links into every function what it calls and optimizes the whole again.  So each routine is only declared where it
is called, and defined in the module of the outermost function.
"""

from functools import partial
from inspect import Parameter, Signature

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from . import amx, filtering_rows
from .row_functions import if_not_zero, row_functions
from .rows import transpose
from .tile import emit_loop, emit_switch, row_offsets
from .training_step import FETCHES
from .vector import I64, Vectors, number

UNROLL = 4
LINE = 64  # bytes of a cache line
PACKED = 8  # rows at a time
NEW, ADDED, PAST = range(3)  # what a product is to its result; PAST: new, and written past the caches


def routines(instructions):
    """({name: what calls it with int64 numbers}, what defines them all)."""
    lanes = instructions.lanes
    emitters = row_functions(lanes) | {
        "multiply": (10, _rows(instructions, _multiply)), "across": (9, _rows(instructions, _across)),
        "from_strips": (10, _from_strips(instructions)), "transpose": _emits(lanes, 4, transpose),
        "fours": _emits(4, 5, _fours), "pack": (6, _pack(lanes, instructions.width)),
        "strips": (6, _strips(lanes, instructions.rows))}
    emitters |= _filtering(lanes)
    if instructions.half == "tiles":
        emitters |= _amx(lanes)

    @intrinsic
    def define(typingctx):
        def generate(context, builder, signature, arguments):
            for name, (count, emit) in emitters.items():
                _define(builder.module, name, count, emit)
            return context.get_dummy_value()
        return types.void(), generate

    for name in emitters:
        # Numba links each function as soon as it is compiled; none of them is called here.
        binding.add_symbol(f"levit_{name}", 1)
    return {name: _caller(name, count) for name, (count, _) in emitters.items()}, define


def _filtering(lanes):
    """What filtering_kernels.py is made of."""
    def sums(past):
        return lambda builder, arguments: filtering_rows.sums(Vectors(builder, lanes, past), *arguments[:7])

    return {"window": _emits(lanes, 5, filtering_rows.window),
            "window_backward": _emits(lanes, 5, filtering_rows.window_backward),
            "square_sums": (8, if_not_zero(7, sums(True), sums(False))),  # the last says whether past the caches
            "square_sums_backward": _emits(lanes, 6, filtering_rows.sums_backward)}


def _emits(lanes, count, emit):
    """emit(v, `count` arguments)."""
    return count, lambda builder, arguments: emit(Vectors(builder, lanes), *arguments)


def _amx(lanes):
    """What amx_training.py is made of."""
    def split_panel(v, *arguments):
        v.builder.call(amx.split_function(v.builder.module, lanes), arguments)

    return {"amx_multiply": _emits(lanes, 3, amx.multiply), "amx_finish_last": _emits(lanes, 1, amx.finish_last),
            "split_row": _emits(lanes, 4, amx.split_row), "split_square": _emits(lanes, 5, amx.split_square),
            "split_panel": _emits(lanes, 7, split_panel)}


def _caller(name, count):
    def routine(typingctx, *given):
        def generate(context, builder, signature, arguments):
            builder.call(_declared(builder.module, name, count), arguments)
            return context.get_dummy_value()
        return types.void(*[types.int64] * count), generate

    names = "typingctx", *(f"x{i}" for i in range(count))  # as many as Numba is to expect
    routine.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    return intrinsic(routine)


def _declared(module, name, count):
    kind = ir.FunctionType(ir.VoidType(), [I64] * count)
    return module.globals.get(f"levit_{name}") or ir.Function(module, kind, f"levit_{name}")


def _define(module, name, count, emit):
    function = _declared(module, name, count)
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("start"))
    emit(builder, function.args)
    builder.ret_void()


def _rows(instructions, emit):
    """f(a, step, rows, terms, b, vectors, c, ldc, into[, ahead]): all rows, in as few tiles as there can be, the larger
    ones first; emit makes one tile of them.  One call for many, for a call costs as much as twenty terms."""
    def every(b, arguments):
        a, step, rows, terms, weights, vectors, c, ldc, into, *ahead = arguments
        tiles = b.sdiv(b.add(rows, number(instructions.rows - 1)), number(instructions.rows))
        least, more = b.sdiv(rows, tiles), b.srem(rows, tiles)

        def of_width(width):
            def tile(size, a, c, *ahead):
                emit(Vectors(b, instructions.lanes), size, width, a, step, terms, weights, c, ldc, into, *ahead)

            def each(i, carried):
                size = b.add(least, b.zext(b.icmp_signed("<", i, more), I64))
                emit_switch(b, size, {n: partial(tile, n, *carried) for n in range(1, instructions.rows + 1)})
                return [b.add(carried[0], b.mul(size, number(4) if emit is _across else step)),
                        b.add(carried[1], b.mul(size, ldc)), *(_further(b, at, terms) for at in carried[2:])]

            emit_loop(b, number(0), tiles, 1, [a, c, *ahead], each)

        with b.if_then(b.icmp_signed(">", rows, number(0))):
            emit_switch(b, vectors, {width: partial(of_width, width)
                                     for width in sorted({instructions.vectors, instructions.tail})})

    return every


def _from_strips(instructions):
    """f(a, strip, strips, terms, b, vectors, c, ldc, into, ahead): c = aᵀ b, or c += aᵀ b, a in strips, `strip` bytes
    from one to the next, each (terms, as many columns as the largest tile has rows)."""
    rows = instructions.rows

    def every(b, arguments):
        a, strip, strips, terms, weights, vectors, c, ldc, into, ahead = arguments
        steps, offsets = ([number(4 * n * i) for i in range(count)] for n, count in ((rows, UNROLL + 1), (1, rows)))

        def of_width(width):
            def each(i, carried):
                a, c, ahead = carried
                v = Vectors(b, instructions.lanes)
                _tile(v, rows, width, a, steps, offsets, terms, weights, c, ldc, into, ahead)
                return [b.add(a, strip), b.add(c, b.mul(ldc, number(rows))), _further(b, ahead, terms)]

            emit_loop(b, number(0), strips, 1, [a, c, ahead], each)

        emit_switch(b, vectors, {width: partial(of_width, width)
                                 for width in sorted({instructions.vectors, instructions.tail})})

    return every


def _further(b, ahead, terms):
    """Where a tile stopped to fetch."""
    return b.add(ahead, b.mul(b.sdiv(terms, number(UNROLL)), number(LINE)))


def _multiply(v, rows, vectors, a, lda, terms, b, c, ldc, into, ahead):
    """c = a b, or c += a b: a tile whose sums stay in registers.  a: lda bytes a row; b: a panel (terms,
    vectors · lanes)."""
    offsets = row_offsets(v, lda, rows)
    _tile(v, rows, vectors, a, [number(4 * u) for u in range(UNROLL + 1)], offsets, terms, b, c, ldc, into, ahead)


def _across(v, rows, vectors, a, term, terms, b, c, ldc, into):
    """c = aᵀ b: `term` bytes from a term of a to the next, a's columns being the tile's rows."""
    steps = [v.builder.mul(term, number(u)) for u in range(UNROLL + 1)]
    _tile(v, rows, vectors, a, steps, [number(4 * i) for i in range(rows)], terms, b, c, ldc, into)


def _tile(v, rows, vectors, a, steps, offsets, terms, b, c, ldc, into, ahead=None):
    """steps[u]: bytes to the u-th next term; offsets[i]: bytes to row i; ahead: from where on memory is brought to the
    L2 cache meanwhile, a line every UNROLL terms."""
    build, panel = v.builder, vectors * v.lanes * 4
    fetched = [] if ahead is None or v.lanes < FETCHES else [ahead]

    def some(count):
        def body(at, carried):
            weights, *sums = carried
            if fetched:
                line = sums.pop()
                v.prefetch(line)
            for u in range(count):
                right = [v.load(v.at(weights, u * panel + j * v.lanes * 4)) for j in range(vectors)]
                for i in range(rows):
                    x = v.spread(v.load_scalar(v.at(v.at(at, offsets[i]), steps[u])))
                    for j, w in enumerate(right):
                        sums[i * vectors + j] = v.fma(x, w, sums[i * vectors + j])
            return [v.at(weights, count * panel), *sums, *([v.at(line, LINE)] if fetched else [])]
        return body

    with build.if_then(build.icmp_signed("!=", into, number(PAST))):
        for i in range(rows):  # a gradient is added to again and again, and is larger than the caches
            v.prefetch(v.at(c, build.mul(ldc, number(i))), writing=True)
    stop = v.at(a, build.mul(terms, steps[1]))
    at, carried = emit_loop(build, a, stop, steps[UNROLL], [b, *[v.splat(0.0)] * (rows * vectors), *fetched],
                            some(UNROLL))
    _, (_, *sums) = emit_loop(build, at, stop, steps[1], carried, some(1))
    sums = sums[: rows * vectors]
    places = [v.at(v.at(c, build.mul(ldc, number(n // vectors))), n % vectors * v.lanes * 4) for n in range(len(sums))]

    def store(past=False):
        to = Vectors(build, v.lanes, past)
        for y, place in zip(sums, places):
            to.store(y, place)

    def add():
        for y, place in zip(sums, places):
            v.store(build.fadd(v.load(place), y), place)

    emit_switch(build, into, {NEW: store, ADDED: add, PAST: partial(store, v.lanes >= FETCHES)})


def _fours(v, source, step, target, row, count):
    """Four numbers, `count` times: `step` bytes from one to the next in the source, `row` in the target."""
    def each(i, carried):
        here, there = carried
        v.store(v.load(here), there)
        return [v.at(here, step), v.at(there, row)]

    emit_loop(v.builder, number(0), count, 1, [source, target], each)


def _pack(lanes, columns):
    """f(source, row, target, terms, panels, scale): panels of so many columns, times the number at `scale`.  A few rows
    at a time go into all panels: they are read one number after the other, which the processor foresees."""
    def emit(builder, arguments):
        source, row, target, terms, panels, scale = arguments
        v = Vectors(builder, lanes)
        factor, panel = v.spread(v.load_scalar(scale)), builder.mul(terms, number(4 * columns))
        _into_panels(v, columns, source, row, target, terms, panels, panel, lambda x: builder.fmul(x, factor))

    return emit


def _strips(lanes, columns):
    """f(source, row, target, terms, strips, strip): the same, narrower than whole vectors and `strip` bytes apart: what
    a vector has too much, the next row overwrites, and behind a strip there is room."""
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
