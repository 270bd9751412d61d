"""What the kernels' Numba code calls that Numba has no word for: memory by address, the tile, vectors, barriers.

All are functions of int64 numbers, so that a kernel is plain arithmetic on addresses: no array is made, nothing is
counted or freed, and the compiled code depends on nothing but the processor.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import amx
from .tile import ARGUMENTS, emit_loop
from .vector import F32, I32, I64, Vectors, number


def _numbers(count):
    return types.void(*[types.int64] * count)


@intrinsic
def get(typingctx, address, index):
    """The int64 at address + 8 index."""
    def generate(context, builder, signature, arguments):
        at = builder.add(arguments[0], builder.mul(arguments[1], number(8)))
        return builder.load(builder.inttoptr(at, I64.as_pointer()), align=8, typ=I64)
    return types.int64(types.int64, types.int64), generate


@intrinsic
def get_float(typingctx, address):
    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], F32.as_pointer()), align=4, typ=F32)
    return types.float32(types.int64), generate


@intrinsic
def set_float(typingctx, address, value):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], F32.as_pointer())).align = 4
        return context.get_dummy_value()
    return types.void(types.int64, types.float32), generate


@intrinsic
def as_float(typingctx, bits):
    """The float64 of these 64 bits."""
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())
    return types.float64(types.int64), generate


@intrinsic
def add_atomic(typingctx, address, value):
    """Adds to the int64 at `address`; what was written before is seen by whoever sees the sum.  -> the old value."""
    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], I64.as_pointer()), arguments[1], "acq_rel")
    return types.int64(types.int64, types.int64), generate


@intrinsic
def get_atomic(typingctx, address):
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], I64.as_pointer()), "acquire", 8, typ=I64)
    return types.int64(types.int64), generate


@intrinsic
def call(typingctx, function):
    """Calls the C function at that address: no argument, the result dropped."""
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(I32, [])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return context.get_dummy_value()
    return types.void(types.int64), generate


def tile_of(define, lanes, rows, vectors):
    """tile(rows, vectors, *ARGUMENTS): the tile of that size that `define(module, lanes, rows, vectors)` makes, of up
    to `rows` rows and of one of the numbers of `vectors`."""
    most, sizes = rows, set(vectors)

    @intrinsic
    def tile(typingctx, rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel,
             bias, ldbias, bias_panel, finish, half, ldhalf, scratch):
        def generate(context, builder, signature, arguments):
            rows, vectors, *rest = arguments
            done = builder.append_basic_block("done")
            which = builder.add(builder.mul(rows, number(8)), vectors)
            switch = builder.switch(which, done)
            for v in sorted(sizes):
                for r in range(1, most + 1):
                    block = builder.append_basic_block(f"tile{r}x{v}")
                    switch.add_case(number(8 * r + v), block)
                    builder.position_at_end(block)
                    builder.call(define(builder.module, lanes, r, v), rest)
                    builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()
        return _numbers(2 + len(ARGUMENTS)), generate

    return tile


def amx_tile_of(lanes, scaled=False):
    """AMX's tile, called as the others are."""
    @intrinsic
    def tile(typingctx, rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel,
             bias, ldbias, bias_panel, finish, half, ldhalf, scratch):
        def generate(context, builder, signature, arguments):
            rows, _, *rest = arguments
            few = builder.icmp_signed("<=", rows, number(16))
            with builder.if_else(few) as (one, two):
                for branch, halves in ((one, 1), (two, 2)):
                    with branch:
                        builder.call(amx.amx_function(builder.module, lanes, halves, scaled), [*rest, rows])
            return context.get_dummy_value()
        return _numbers(2 + len(ARGUMENTS)), generate

    return tile


def amx_operations(lanes):
    """(configure, release, scores, interleave) of AMX."""
    @intrinsic
    def configure(typingctx):
        def generate(context, builder, signature, arguments):
            amx.configure(Vectors(builder, lanes))
            return context.get_dummy_value()
        return _numbers(0), generate

    @intrinsic
    def release(typingctx):
        def generate(context, builder, signature, arguments):
            amx.release(Vectors(builder, lanes))
            return context.get_dummy_value()
        return _numbers(0), generate

    @intrinsic
    def scores(typingctx, keys, panel, pieces, queries, bias, target, blocks):
        def generate(context, builder, signature, arguments):
            amx.scores(Vectors(builder, lanes), *arguments)
            return context.get_dummy_value()
        return _numbers(7), generate

    @intrinsic
    def interleave(typingctx, first, second, target):
        def generate(context, builder, signature, arguments):
            amx.interleave(Vectors(builder, lanes), *arguments)
            return context.get_dummy_value()
        return _numbers(3), generate

    return configure, release, scores, interleave


def row_operations(lanes):
    """(softmax_columns, transpose_square, copy_row, add_row, round_row, round_square): functions of addresses and a count."""

    def over_vectors(builder, count, carried, body):
        """carried = body(v, byte offset, carried) for each of `count` vectors."""
        v = Vectors(builder, lanes)
        inside = lambda i, c: body(v, builder.mul(i, number(4 * lanes)), c)
        return emit_loop(builder, number(0), count, 1, carried, inside)[1]

    @intrinsic
    def softmax_columns(typingctx, scores, row, keys, inverse):
        """A vector's worth of columns of scores (keys, …), `row` bytes apart: each becomes 2^(score - its largest);
        1 / their sum goes to `inverse`."""
        def generate(context, builder, signature, arguments):
            scores, row, keys, inverse = arguments
            v = Vectors(builder, lanes)

            def each_key(start, body):
                """start = body(address, start) for every key, two at a time, so that neither waits for the other."""
                def two(key, carried):
                    at = v.at(scores, builder.mul(key, row))
                    return [*body(at, carried[:1]), *body(v.at(at, row), carried[1:])]
                def one(key, carried):
                    return [*body(v.at(scores, builder.mul(key, row)), carried[:1]), carried[1]]
                key, carried = emit_loop(builder, number(0), keys, 2, start * 2, two)
                return emit_loop(builder, key, keys, 1, carried, one)[1]

            def power(at, carried):
                y = v.exp2(builder.fsub(v.load(at), peak))
                v.store(y, at)
                return [builder.fadd(carried[0], y)]

            peak = v.larger(*each_key([v.splat(-3e38)], lambda at, carried: [v.larger(v.load(at), carried[0])]))
            total = builder.fadd(*each_key([v.splat(0.0)], power))
            v.store(builder.fdiv(v.splat(1.0), total), inverse)
            return context.get_dummy_value()
        return _numbers(4), generate

    @intrinsic
    def transpose_square(typingctx, source, row, target, column):
        """A square of `lanes` × `lanes` numbers; row, column: bytes from a row of source, of target to the next."""
        def generate(context, builder, signature, arguments):
            source, row, target, column = arguments
            v = Vectors(builder, lanes)
            rows = [v.load(v.at(source, builder.mul(row, number(i)))) for i in range(lanes)]
            for i, x in enumerate(v.transposed(rows)):
                v.store(x, v.at(target, builder.mul(column, number(i))))
            return context.get_dummy_value()
        return _numbers(4), generate

    @intrinsic
    def round_square(typingctx, source, row, target, column):
        """transpose_square to bfloat16."""
        def generate(context, builder, signature, arguments):
            source, row, target, column = arguments
            v = Vectors(builder, lanes)
            rows = [v.load(v.at(source, builder.mul(row, number(i)))) for i in range(lanes)]
            for i, x in enumerate(v.transposed(rows)):
                v.store_half(x, v.at(target, builder.mul(column, number(i))))
            return context.get_dummy_value()
        return _numbers(4), generate

    @intrinsic
    def copy_row(typingctx, source, target, vectors):
        def generate(context, builder, signature, arguments):
            source, target, count = arguments
            def body(v, at, carried):
                v.store(v.load(v.at(source, at)), v.at(target, at))
                return []
            over_vectors(builder, count, [], body)
            return context.get_dummy_value()
        return _numbers(3), generate

    @intrinsic
    def add_row(typingctx, source, target, vectors):
        """target += source."""
        def generate(context, builder, signature, arguments):
            source, target, count = arguments
            def body(v, at, carried):
                to = v.at(target, at)
                v.store(builder.fadd(v.load(to), v.load(v.at(source, at))), to)
                return []
            over_vectors(builder, count, [], body)
            return context.get_dummy_value()
        return _numbers(3), generate

    @intrinsic
    def round_row(typingctx, source, target, vectors):
        """float32 -> bfloat16."""
        def generate(context, builder, signature, arguments):
            source, target, count = arguments
            def body(v, at, carried):
                half = v.at(target, builder.lshr(at, number(1)))
                v.store_half(v.load(v.at(source, at)), half)
                return []
            over_vectors(builder, count, [], body)
            return context.get_dummy_value()
        return _numbers(3), generate

    return softmax_columns, transpose_square, copy_row, add_row, round_row, round_square
