"""Functions of rows, one vector at a time, as vector code: most are evaluation's (row_kernels.py, the attention
kernels). Each emits into v's builder (see vector.py)."""

import math

from llvmlite import ir

from .step import LINE
from .tile import emit_loop
from .vector import F32, number


def each_vector(v, count, body):
    """body(byte offset) for each of `count` vectors."""
    def inside(i, carried):
        body(v.builder.mul(i, number(4 * v.lanes)))
        return carried

    emit_loop(v.builder, number(0), count, 1, [], inside)


def copy(v, source, target, vectors):
    """target = source."""
    each_vector(v, vectors, lambda at: v.store(v.load(v.at(source, at)), v.at(target, at)))


def prefetch_target(v, target, lines):
    """Asks for `lines` cache lines that will soon be written to: a store that misses the caches waits for its line."""
    def one(i, carried):
        v.prefetch(v.at(target, v.builder.mul(i, number(LINE))), writing=True)
        return carried

    emit_loop(v.builder, number(0), lines, 1, [], one)


def add(v, source, target, vectors):
    """target += source."""
    def one(at):
        to = v.at(target, at)
        v.store(v.builder.fadd(v.load(to), v.load(v.at(source, at))), to)

    each_vector(v, vectors, one)


def round_(v, source, target, vectors, part):
    """float32 -> bfloat16, or three parts, `part` bytes apart."""
    each_vector(v, vectors, lambda at: v.store_halves([v.load(v.at(source, at))],
                                                       v.at(target, v.builder.lshr(at, number(1))), part))


def layer_norm(v, source, target, vectors, channels, gamma, beta, eps):
    """target = gamma (x - mean) / √(variance + eps) + beta over the first `channels` numbers of a row, which are
    followed by zeros.  eps: the bits of a float64."""
    b = v.builder
    count, eps = b.sitofp(channels, F32), b.fptrunc(b.bitcast(eps, ir.DoubleType()), F32)
    numbered = ir.Constant(ir.VectorType(F32, v.lanes), [float(lane) for lane in range(v.lanes)])

    def mean_of(body):
        """Σ body(x, its index in the row) / channels."""
        def inside(i, carried):
            x = v.load(v.at(source, b.mul(i, number(4 * v.lanes))))
            return [b.fadd(carried[0], body(x, carried[1])), b.fadd(carried[1], v.splat(float(v.lanes)))]

        total, _ = emit_loop(b, number(0), vectors, 1, [v.splat(0.0), numbered], inside)[1]
        return v.spread(b.fdiv(v.sum(total), count))

    def square(x, place):
        # Not of the padding: each zero would add mean², in which a small variance is lost.
        x = b.select(b.fcmp_ordered("<", place, v.spread(count)), b.fsub(x, centre), v.splat(0.0))
        return b.fmul(x, x)

    centre = mean_of(lambda x, place: x)
    deviation = v.root(b.fadd(mean_of(square), v.spread(eps)))

    def normalize(at):
        x = b.fdiv(b.fsub(v.load(v.at(source, at)), centre), deviation)
        v.store(v.fma(x, v.load(v.at(gamma, at)), v.load(v.at(beta, at))), v.at(target, at))

    each_vector(v, vectors, normalize)


def softmax_columns(v, scores, row, keys, inverse):
    """One vector of columns of scores (keys, …), rows `row` bytes apart: each score becomes 2^(score - the column's
    largest), and 1 / their sum goes to `inverse`."""
    b = v.builder

    def each_key(start, body):
        """start = body(address, start) for every key, as two independent chains, so that neither waits for the other.
        """
        def two(key, carried):
            at = v.at(scores, b.mul(key, row))
            return [body(at, carried[0]), body(v.at(at, row), carried[1])]

        def one(key, carried):
            return [body(v.at(scores, b.mul(key, row)), carried[0]), carried[1]]

        key, carried = emit_loop(b, number(0), keys, 2, [start, start], two)
        return emit_loop(b, key, keys, 1, carried, one)[1]

    def power(at, total):
        y = v.exp2(b.fsub(v.load(at), peak))
        v.store(y, at)
        return b.fadd(total, y)

    peak = v.larger(*each_key(v.splat(-math.inf), lambda at, largest: v.larger(v.load(at), largest)))
    total = b.fadd(*each_key(v.splat(0.0), power))
    v.store(b.fdiv(v.splat(1.0), total), inverse)


def transpose(v, source, row, target, column, store=None):
    """A square of lanes × lanes numbers; row, column: bytes between the rows of source, of target."""
    rows = [v.load(v.at(source, v.builder.mul(row, number(i)))) for i in range(v.lanes)]
    for i, x in enumerate(v.transposed(rows)):
        (store or v.store)(x, v.at(target, v.builder.mul(column, number(i))))


def transpose_round(v, source, row, target, column):
    """The same, rounded to bfloat16."""
    transpose(v, source, row, target, column, v.store_half)
