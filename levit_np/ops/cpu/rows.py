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


def round_pixels(v, source, plane, target, columns):
    """A line of three planes of float32, `plane` bytes apart -> pixels of three bfloat16; at least a vector of them."""
    b = v.builder
    order = [n % 3 * v.lanes + n // 3 for n in range(3 * v.lanes)]

    def some(first):
        at = v.at(source, b.mul(first, number(4)))
        red, green, blue = (v.load(v.at(at, b.mul(plane, number(c)))) for c in range(3))
        v.store_shuffled(v.rounded(red, green), v.rounded(blue, blue), order, v.at(target, b.mul(first, number(6))))

    def inside(i, carried):
        some(i)
        return carried

    emit_loop(b, number(0), columns, v.lanes, [], inside)
    some(b.sub(columns, number(v.lanes)))


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


def softmax_columns(v, scores, row, keys, inverse, pairs=False):
    """One vector of columns of scores (keys, …), rows `row` bytes apart: each score becomes 2^(score - the column's
    largest), and 1 / their sum goes to `inverse`.

    pairs: the powers of two keys, rounded to bfloat16, share a number, and fill half as many rows."""
    b = v.builder

    def each_two(start, body, store):
        """(Σ of even keys, of odd keys) from `start` by body(score, Σ) -> (result, Σ): two independent chains, so that
        neither waits for the other. store(key, results)."""
        def load(key):
            return v.load(v.at(scores, b.mul(key, row)))

        def two(key, carried):
            found = [body(load(v.at(key, n)), carried[n]) for n in range(2)]
            store(key, [y for y, _ in found])
            return [total for _, total in found]

        def one(key, carried):
            y, total = body(load(key), carried[0])
            store(key, [y])
            return [total, carried[1]]

        key, carried = emit_loop(b, number(0), keys, 2, [start, start], two)
        return emit_loop(b, key, keys, 1, carried, one)[1]

    def largest(score, found):
        return None, v.larger(score, found)

    def power(score, total):
        y = v.exp2(b.fsub(score, peak))
        return y, b.fadd(total, y)

    def keep(key, powers):
        if pairs:  # of keys 2n and 2n + 1 in row n, which has been read
            v.store_pair(*[*powers, v.splat(0.0)][:2], v.at(scores, b.mul(b.lshr(key, number(1)), row)))
        else:
            for n, y in enumerate(powers):
                v.store(y, v.at(scores, b.mul(v.at(key, n), row)))

    peak = v.larger(*each_two(v.splat(-math.inf), largest, lambda key, results: None))
    total = b.fadd(*each_two(v.splat(0.0), power, keep))
    v.store(b.fdiv(v.splat(1.0), total), inverse)


def transpose(v, source, row, target, column, store=None):
    """A square of lanes × lanes numbers; row, column: bytes between the rows of source, of target."""
    rows = [v.load(v.at(source, v.builder.mul(row, number(i)))) for i in range(v.lanes)]
    for i, x in enumerate(v.transposed(rows)):
        (store or v.store)(x, v.at(target, v.builder.mul(column, number(i))))


def transpose_round(v, source, row, target, column):
    """The same, rounded to bfloat16."""
    transpose(v, source, row, target, column, v.store_half)
