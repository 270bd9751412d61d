"""Training's functions of numbers that lie side by side, as vector code: normalization, activations, softmax, AdamW.

Each takes addresses and a count. What is left over by whole vectors goes through the same arithmetic in a vector with a
mask or, without masks, one number at a time."""

import math

from llvmlite import ir

from .step import LOG2_E
from .tile import emit_loop
from .vector import I32, MaskedVectors, Vectors, number

MASKED = 8  # lanes from which on processors have masked loads and stores
SUMMED = 4  # rows summed in float32 before their sum is added to a float64 total


def row_functions(lanes):
    """{name: (number of arguments, emit(builder, arguments))}."""
    found = {name: _pointwise(lanes, name) for name in POINTWISE}
    for rows, name in ((1, "row_sums"), (SUMMED, "rows_sums")):
        for backward in (False, True):
            found[name + "_backward" * backward] = 9, _column_sums(lanes, rows, backward)
    return found | {"sum_of_squares": (3, _sum_of_squares(lanes)), "softmax": (5, _softmax(lanes)),
                    "softmax_backward": (4, _softmax_backward(lanes))}


def _pointwise(lanes, name):
    """f(a, b, …, count) with as many addresses as POINTWISE says; f(…, count, stream) if in STREAMED. If it has a twin
    with an activation, an argument selects that one."""
    count, body = POINTWISE[name]

    def loop(stream):
        plain = _loop(lanes, body, count, stream)
        if name not in ACTIVATED:
            return plain
        place, twin = ACTIVATED[name]
        return if_not_zero(place, _loop(lanes, twin, count, stream), plain)

    if name not in STREAMED:
        return count + 1, loop(False)
    return count + 2, if_not_zero(count + 1, loop(True), loop(False))


def if_not_zero(place, emit, otherwise):
    """emit(…) where the argument at `place` is not 0, otherwise(…) where it is."""
    def either(builder, arguments):
        with builder.if_else(builder.icmp_signed("!=", arguments[place], number(0))) as (yes, no):
            with yes:
                emit(builder, arguments)
            with no:
                otherwise(builder, arguments)
    return either


def _loop(lanes, body, count, stream):
    """body(vectors, the addresses of the present numbers, the addresses as passed), of `count` addresses."""
    def emit(builder, arguments):
        addresses = arguments[:count]
        _over(builder, lanes, arguments[count], [],
              lambda v, at, carried: body(v, [at(x) for x in addresses], addresses) or [], stream)
    return emit


def _over(builder, lanes, count, start, body, stream=False):
    """carried = body(vectors, at, carried) over whole vectors, then over the rest; at(x): the present address in array
    x. start: pairs (initial value, combine), where combine reduces a vector to one number.  -> vectors of one lane."""
    wide, one = Vectors(builder, lanes, stream), Vectors(builder, 1)

    def inside(v):
        return lambda i, carried: body(v, lambda x: v.at(x, builder.mul(i, number(4))), carried)

    def rest(i, carried):
        few = MaskedVectors(builder, lanes, builder.sub(count, i))
        return [few.where(new, old) for new, old in zip(inside(few)(i, carried), carried)]

    i, carried = emit_loop(builder, number(0), count, lanes, [wide.splat(value) for value, _ in start], inside(wide))
    if lanes >= MASKED:
        _, carried = emit_loop(builder, i, builder.add(count, number(lanes - 1)), lanes, carried, rest)
    carried = [wide.folded(x, lambda a, b: combine(one, a, b)) for x, (_, combine) in zip(carried, start)]
    return carried if lanes >= MASKED else emit_loop(builder, i, count, 1, carried, inside(one))[1]


def _add(v, a, b):
    return v.builder.fadd(a, b)


def _larger(v, a, b):
    return v.larger(a, b)


def _spread(one, v, x):
    return v.spread(one.builder.extract_element(x, ir.Constant(I32, 0)))


def _copy(v, at, _):
    """b = a."""
    v.store(v.load(at[0]), at[1])


def _add_to(v, at, _):
    """b += a."""
    v.store(v.builder.fadd(v.load(at[1]), v.load(at[0])), at[1])


def _normalize(v, at, _):
    """b = (a - mean c) · scale d + shift e."""
    x, mean, scale, shift = (v.load(at[i]) for i in (0, 2, 3, 4))
    v.store(v.fma(v.builder.fsub(x, mean), scale, shift), at[1])


def _normalize_hardswish(v, at, _):
    """b = hardswish((a - mean c) · scale d + shift e)."""
    x, mean, scale, shift = (v.load(at[i]) for i in (0, 2, 3, 4))
    y = v.fma(v.builder.fsub(x, mean), scale, shift)
    v.store(v.hardswish(y), at[1])


def _normalize_backward(v, at, _):
    """c = scale e · (dy a - offset f - (x b - mean d) · slope g)."""
    b = v.builder
    dy, x, mean, scale, offset, slope = (v.load(at[i]) for i in (0, 1, 3, 4, 5, 6))
    through = v.fma(b.fsub(x, mean), slope, offset)
    v.store(b.fmul(b.fsub(dy, through), scale), at[2])


def _normalize_hardswish_backward(v, at, _):
    """The same for dy = dz a · hardswish'(y), y = (x b - mean d) · scale e + shift h."""
    b = v.builder
    dz, x, mean, scale, offset, slope, shift = (v.load(at[i]) for i in (0, 1, 3, 4, 5, 6, 7))
    difference = b.fsub(x, mean)
    dy = b.fmul(dz, v.hardswish_slope(v.fma(difference, scale, shift)))
    v.store(b.fmul(b.fsub(dy, v.fma(difference, slope, offset)), scale), at[2])


def _hardswish(v, at, _):
    """b = hardswish(a)."""
    v.store(v.hardswish(v.load(at[0])), at[1])


def _hardswish_backward(v, at, _):
    """c = a · hardswish'(b)."""
    v.store(v.builder.fmul(v.load(at[0]), v.hardswish_slope(v.load(at[1]))), at[2])


def _silu(v, at, _):
    """b = a · sigmoid(a)."""
    v.store(v.silu(v.load(at[0])), at[1])


def _silu_backward(v, at, _):
    """c = a · s (1 + b (1 - s)), s = sigmoid(b)."""
    b, x, one = v.builder, v.load(at[1]), v.splat(1.0)
    s = b.fdiv(one, v.inverse_sigmoid(x))
    slope = b.fmul(s, v.fma(x, b.fsub(one, s), one))
    v.store(b.fmul(v.load(at[0]), slope), at[2])


def _blend(v, at, raw):
    """c = p a + q (r b), with p, q, r at address d."""
    b, (p, q, r) = v.builder, (v.spread(v.load_scalar(v.at(raw[3], 4 * i))) for i in range(3))
    v.store(b.fadd(b.fmul(p, v.load(at[0])), b.fmul(q, b.fmul(r, v.load(at[1])))), at[2])


def _scale(v, at, raw):
    """b = p a, with p at address c."""
    v.store(v.builder.fmul(v.spread(v.load_scalar(raw[2])), v.load(at[0])), at[1])


def _adamw(v, at, raw):
    """Parameter a, gradient b, moments c, d -> e, f, g.  h: address of optimizer.py's first 8 constants, then the
    gradient's factor."""
    b = v.builder
    keep, rate, beta, beta_rest, gamma, gamma_rest, correction, eps, factor = (
        v.spread(v.load_scalar(v.at(raw[7], 4 * i))) for i in range(9))
    parameter, gradient, first, second = (v.load(at[i]) for i in range(4))
    gradient = b.fmul(gradient, factor)
    first = b.fadd(b.fmul(beta, first), b.fmul(beta_rest, gradient))
    second = b.fadd(b.fmul(gamma, second), b.fmul(gamma_rest, b.fmul(gradient, gradient)))
    deviation = b.fadd(v.root(b.fmul(second, correction)), eps)
    step = b.fdiv(b.fmul(rate, first), deviation)
    for value, to in ((b.fsub(b.fmul(parameter, keep), step), 4), (first, 5), (second, 6)):
        v.store(value, at[to])


# Functions with large results: where `stream` is not 0 they use non-temporal stores, which spare the caches the results
# and the read before each write.
STREAMED = ("copy", "normalize", "normalize_backward", "hardswish", "hardswish_backward", "silu", "silu_backward",
            "blend", "scale")
# {name: (number of addresses, body)}
POINTWISE = {"copy": (2, _copy), "add": (2, _add_to), "normalize": (6, _normalize),
             "normalize_backward": (8, _normalize_backward), "hardswish": (2, _hardswish),
             "hardswish_backward": (3, _hardswish_backward), "silu": (2, _silu), "silu_backward": (3, _silu_backward),
             "blend": (4, _blend), "scale": (3, _scale), "adamw": (8, _adamw)}
# Functions that have a twin with Hardswish after them: the place of the argument that selects it, and the twin.
ACTIVATED = {"normalize": (5, _normalize_hardswish), "normalize_backward": (7, _normalize_hardswish_backward)}


def _column_sums(lanes, rows, backward):
    """f(dy, x, row, centre, sums, products, scale, shift, columns): with d = x - centre, for each column and `rows`
    rows, sums += Σ d and products += Σ d²; backward Σ dy and Σ dy d. Sums over these rows are in float32, the totals in
    float64. Backward, if scale is not 0, dy is first multiplied by hardswish'(d · scale + shift)."""
    if backward:
        return if_not_zero(6, _sums(lanes, rows, True, True), _sums(lanes, rows, True, False))
    return _sums(lanes, rows, False, False)


def _sums(lanes, rows, backward, activated):
    def emit(builder, arguments):
        dy, x, row, centre, sums, products, scale, shift, columns = arguments
        below = [builder.mul(row, number(i)) for i in range(rows)]

        def of_width(lanes):
            v, double = Vectors(builder, lanes), ir.VectorType(ir.DoubleType(), lanes)

            def each(c, _):
                column = builder.mul(c, number(4))
                middle, *line = (v.load(v.at(a, column)) for a in ((centre, scale, shift) if activated else (centre,)))
                total = [v.splat(0.0)] * 2
                for i in range(rows):
                    at = v.at(column, below[i])
                    if rows > 1:
                        for a in (x, dy)[: 1 + backward]:
                            v.prefetch(v.at(a, v.at(at, further)))
                    d = builder.fsub(v.load(v.at(x, at)), middle)
                    y = v.load(v.at(dy, at)) if backward else d
                    if activated:
                        y = builder.fmul(y, v.hardswish_slope(v.fma(d, *line)))
                    total = [builder.fadd(total[0], y), v.fma(y, d, total[1])]
                for base, value in zip((sums, products), total):
                    place = v.pointer(v.at(base, builder.mul(c, number(8))), double)
                    old = builder.load(place, align=8, typ=double)
                    builder.store(builder.fadd(old, builder.fpext(value, double)), place).align = 8
                return []
            return each

        further = builder.mul(row, number(rows))
        c, _ = emit_loop(builder, number(0), columns, lanes, [], of_width(lanes))
        emit_loop(builder, c, columns, 1, [], of_width(1))
    return emit


def _sum_of_squares(lanes):
    """f(x, target, count): target = Σ x²."""
    def emit(builder, arguments):
        x, target, count = arguments

        def each(v, at, carried):
            y = v.load(at(x))
            return [v.fma(y, y, carried[0])]

        one = Vectors(builder, 1)
        one.store(_over(builder, lanes, count, [(0.0, _add)], each)[0], target)
    return emit


def _softmax(lanes):
    """f(scores, bias, scale, target, count): target = softmax(scale · scores + bias); overwrites scores."""
    def emit(builder, arguments):
        scores, bias, scale, target, count = arguments
        one = Vectors(builder, 1)

        def shift(v, at, carried):
            y = v.fma(v.load(at(scores)), v.spread(v.load_scalar(scale)), v.load(at(bias)))
            v.store(y, at(scores))
            return [v.larger(y, carried[0])]

        (peak,) = _over(builder, lanes, count, [(-math.inf, _larger)], shift)

        def power(v, at, carried):
            y = builder.fsub(v.load(at(scores)), _spread(one, v, peak))
            y = v.exp2(builder.fmul(y, v.splat(LOG2_E)))
            v.store(y, at(scores))
            return [builder.fadd(carried[0], y)]

        (total,) = _over(builder, lanes, count, [(0.0, _add)], power)
        inverse = builder.fdiv(one.splat(1.0), total)

        def divide(v, at, carried):
            v.store(builder.fmul(v.load(at(scores)), _spread(one, v, inverse)), at(target))
            return []

        _over(builder, lanes, count, [], divide)
    return emit


def _softmax_backward(lanes):
    """f(dy, y, dbias, count): dy becomes y (dy - Σ dy y), which is also added to dbias."""
    def emit(builder, arguments):
        dy, y, dbias, count = arguments
        one = Vectors(builder, 1)
        (total,) = _over(builder, lanes, count, [(0.0, _add)],
                         lambda v, at, carried: [v.fma(v.load(at(dy)), v.load(at(y)), carried[0])])

        def change(v, at, carried):
            dx = builder.fmul(v.load(at(y)), builder.fsub(v.load(at(dy)), _spread(one, v, total)))
            v.store(dx, at(dy))
            v.store(builder.fadd(v.load(at(dbias)), dx), at(dbias))
            return []

        _over(builder, lanes, count, [], change)
    return emit
