"""What Numba code cannot say by itself, as intrinsics that the kernels call: memory by address, the micro-kernels of
tile.py, rows.py and amx.py, atomics.

All take int64 numbers, so that a kernel is plain arithmetic on addresses: no array is created, nothing is
reference-counted, and the machine code depends on nothing but the processor."""

from functools import partial

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import amx, filtering_rows, rows
from .tile import ARGUMENTS, emit_switch
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
def put(typingctx, address, index, value):
    """Writes the int64 at address + 8 index."""
    def generate(context, builder, signature, arguments):
        at = builder.add(arguments[0], builder.mul(arguments[1], number(8)))
        builder.store(arguments[2], builder.inttoptr(at, I64.as_pointer())).align = 8
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def get_float(typingctx, address):
    """The float32 at that address."""
    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], F32.as_pointer()), align=4, typ=F32)
    return types.float32(types.int64), generate


@intrinsic
def set_float(typingctx, address, value):
    """Writes the float32 at that address."""
    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], F32.as_pointer())).align = 4
        return context.get_dummy_value()
    return types.void(types.int64, types.float32), generate


@intrinsic
def as_float(typingctx, bits):
    """The float64 with these 64 bits."""
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())
    return types.float64(types.int64), generate


@intrinsic
def root(typingctx, x):
    """√x, of float32 or float64: math.sqrt is an instruction for some versions of LLVM, a library call for others."""
    def generate(context, builder, signature, arguments):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [arguments[0].type]), arguments)
    return x(x), generate


@intrinsic
def add_atomic(typingctx, address, value):
    """Adds to the int64 at `address`; whoever reads the sum sees all that was written before.  -> the old value."""
    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], I64.as_pointer()), arguments[1], "acq_rel")
    return types.int64(types.int64, types.int64), generate


@intrinsic
def get_atomic(typingctx, address):
    """The int64 at that address, read with acquire order."""
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], I64.as_pointer()), "acquire", 8, typ=I64)
    return types.int64(types.int64), generate


@intrinsic
def call(typingctx, function):
    """Calls the C function at that address: no argument, result ignored."""
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(I32, [])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return context.get_dummy_value()
    return types.void(types.int64), generate


def tiles_of(define, lanes, rows, vectors):
    """tiles(vectors, *ARGUMENTS): the function that `define(module, lanes, sizes, vectors)` makes, for tiles of up to
    `rows` rows and one of the widths in `vectors`."""
    widths = sorted(set(vectors))

    @intrinsic
    def tiles(typingctx, vectors, tiles, number_, a, lda, segments, count, length, b, b_panel, ahead, share, advance, c,
              ldc, c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part):
        def generate(context, builder, signature, arguments):
            vectors, *rest = arguments
            emit_switch(builder, vectors, {width: partial(builder.call, define(
                builder.module, lanes, range(1, rows + 1), width), rest) for width in widths})
            return context.get_dummy_value()
        return _numbers(1 + len(ARGUMENTS)), generate

    return tiles


def _emits(lanes, emit, count):
    """The type and the code generator of an intrinsic that is emit(v, *numbers)."""
    def generate(context, builder, signature, arguments):
        emit(Vectors(builder, lanes), *arguments)
        return context.get_dummy_value()
    return _numbers(count), generate


def amx_operations(lanes):
    """(configure, release, scores, interleave) of amx.py."""
    @intrinsic
    def configure(typingctx):
        return _emits(lanes, amx.configure, 0)

    @intrinsic
    def release(typingctx):
        return _emits(lanes, amx.release, 0)

    @intrinsic
    def scores(typingctx, keys, panel, pieces, queries, bias, target, blocks):
        return _emits(lanes, amx.scores, 7)

    @intrinsic
    def interleave(typingctx, first, second, target):
        return _emits(lanes, amx.interleave, 3)

    return configure, release, scores, interleave


def amx_functions(lanes):
    """(multiply, finish_last, finish_scaled, split) of amx.py."""
    def calls(define, count):
        def generate(context, builder, signature, arguments):
            builder.call(define(builder.module, lanes), arguments)
            return context.get_dummy_value()
        return _numbers(count), generate

    @intrinsic
    def multiply(typingctx, rows, parts, job):
        return _emits(lanes, amx.multiply, 3)

    @intrinsic
    def finish_last(typingctx, job):
        return _emits(lanes, amx.finish_last, 1)

    @intrinsic
    def finish_scaled(typingctx, sums, c, ldc, bias, ldbias, finish, half, ldhalf, part, first, last):
        return calls(partial(amx.finish_function, scaled=True), 11)

    @intrinsic
    def split(typingctx, source, row, target, part, further, first, last):
        return calls(amx.split_function, 7)

    return multiply, finish_last, finish_scaled, split


class RowOperations:
    """The functions of rows.py for vectors of `lanes` numbers."""

    def __init__(self, lanes):
        @intrinsic
        def copy(typingctx, source, target, vectors):
            return _emits(lanes, rows.copy, 3)

        @intrinsic
        def add(typingctx, source, target, vectors):
            return _emits(lanes, rows.add, 3)

        @intrinsic
        def round_(typingctx, source, target, vectors, part):
            return _emits(lanes, rows.round_, 4)

        @intrinsic
        def softmax_columns(typingctx, scores, row, keys, inverse):
            return _emits(lanes, rows.softmax_columns, 4)

        @intrinsic
        def transpose(typingctx, source, row, target, column):
            return _emits(lanes, rows.transpose, 4)

        @intrinsic
        def transpose_round(typingctx, source, row, target, column):
            return _emits(lanes, rows.transpose_round, 4)

        @intrinsic
        def filter_window(typingctx, source, pixel, line, target, vectors):
            return _emits(lanes, filtering_rows.window, 5)

        @intrinsic
        def filter_sums(typingctx, parts, part, target, pixel, line, finish, vectors):
            return _emits(lanes, filtering_rows.sums, 7)

        @intrinsic
        def layer_norm(typingctx, source, target, vectors, channels, gamma, beta, eps):
            (_, generate), i, f = _emits(lanes, rows.layer_norm, 0), types.int64, types.float64
            return types.void(i, i, i, f, i, i, f), generate

        self.layer_norm, self.filter_window, self.filter_sums = layer_norm, filter_window, filter_sums
        self.copy, self.add, self.round, self.softmax_columns = copy, add, round_, softmax_columns
        self.transpose, self.transpose_round = transpose, transpose_round
