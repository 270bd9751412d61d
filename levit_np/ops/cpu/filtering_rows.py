"""Minimal filtering's transforms (minimal_filtering.py): a square's window -> 25 numbers, nine products -> 2 × 2
outputs, a kernel's nine numbers -> 25, and the adjoints of all, the last a channel at a time, the others a vector of
channels. Each function emits into v's builder."""

from functools import reduce

import numpy as np

from .minimal_filtering import BOTH_AXES, NINE_PARTS, ORDER, SHARED, TERMS
from .rows import each_vector
from .step import HARDSWISH_SIX, PLAIN, SILU
from .tile import emit_loop, emit_switch
from .vector import number


def window(v, source, pixel, line, target, vectors):
    """5 × 5 pixels -> 25 numbers a channel, in ORDER, `vectors` vectors apart."""
    b, apart = v.builder, v.builder.mul(vectors, number(4 * v.lanes))

    def one(at):
        load = lambda y, x: v.load(_pixel(v, v.at(source, at), line, pixel, y, x))
        for p in range(5):
            numbers = [_made(b, p, lambda y, x=x: load(y, x)) for x in range(5)]
            for q in range(5):
                to = v.at(v.at(target, at), b.mul(apart, number(ORDER.index((p, q)))))
                v.store(_made(b, q, numbers.__getitem__), to)

    each_vector(v, vectors, one)


def _made(b, p, x):
    """The p-th of the five numbers made of x(0) to x(4): x₀ - x₂, x₁, x₂, x₄ - x₂, x₃."""
    first, less = ((0, 2), (1, None), (2, None), (4, 2), (3, None))[p]
    return x(first) if less is None else b.fsub(x(first), x(less))


def window_backward(v, source, pixel, line, target, vectors):
    """The adjoint of window. Squares come from left to right, line by line, and share a line and a column of pixels
    with those before: there dx is added, elsewhere it overwrites."""
    b, apart = v.builder, v.builder.mul(vectors, number(4 * v.lanes))

    def one(at):
        load = lambda p, q: v.load(v.at(v.at(source, at), b.mul(apart, number(ORDER.index((p, q))))))
        for y in range(5):
            numbers = [_through(b, y, lambda p, q=q: load(p, q)) for q in range(5)]
            for x in range(5):
                to, dx = _pixel(v, v.at(target, at), line, pixel, y, x), _through(b, x, numbers.__getitem__)
                v.store(dx if y and x else b.fadd(v.load(to), dx), to)

    each_vector(v, vectors, one)


def _through(b, y, d):
    """The gradient to the y-th input: the sum over those of the five numbers (gradients d(0) to d(4)) that it went
    into."""
    if y == 2:
        return b.fsub(d(2), b.fadd(d(0), d(3)))
    return d({0: 0, 1: 1, 3: 4, 4: 3}[y])


def sums(v, parts, part, target, pixel, line, finish, vectors):
    """The nine products, `part` bytes apart -> finish(four outputs)."""
    b = v.builder

    def all_of(change):
        def one(at):
            load = lambda *sides: v.load(v.at(v.at(parts, at), b.mul(part, number(NINE_PARTS.index(sides)))))
            shared = [b.fadd(load(SHARED, x), load(SHARED, SHARED)) for x in range(2)]
            for y in range(2):
                own = load(y, SHARED)
                for x in range(2):
                    total = b.fadd(b.fadd(load(y, x), own), shared[x])
                    v.store(change(total), _pixel(v, v.at(target, at), line, pixel, y, x))
        return lambda: each_vector(v, vectors, one)

    emit_switch(b, finish, {PLAIN: all_of(lambda x: x), HARDSWISH_SIX: all_of(v.hardswish_six), SILU: all_of(v.silu)})


def sums_backward(v, source, pixel, line, parts, part, vectors):
    """The adjoint of sums: a product gets the sum of the gradients of the outputs that it is part of."""
    b = v.builder

    def one(at):
        dy = {(y, x): v.load(_pixel(v, v.at(source, at), line, pixel, y, x)) for y in range(2) for x in range(2)}
        for i in range(2):
            dy[i, SHARED] = b.fadd(dy[i, 0], dy[i, 1])
            dy[SHARED, i] = b.fadd(dy[0, i], dy[1, i])
        dy[SHARED, SHARED] = b.fadd(dy[0, SHARED], dy[1, SHARED])
        for n, sides in enumerate(NINE_PARTS):
            v.store(dy[sides], v.at(v.at(parts, at), b.mul(part, number(n))))

    each_vector(v, vectors, one)


def kernel_terms(v, weight, terms, channels):
    """weight (C, 9) -> terms (25, C): see minimal_filtering.kernel_terms."""
    apart = v.builder.mul(channels, number(4))

    def one(_, carried):
        source, target = carried
        cells = v.load_columns(source, 9)
        for n, uses in enumerate(BOTH_AXES):
            v.store(_total(v, cells, uses), v.at(target, v.builder.mul(apart, number(n))))
        return [v.at(source, 36 * v.lanes), v.at(target, 4 * v.lanes)]

    emit_loop(v.builder, number(0), channels, v.lanes, [weight, terms], one)


def kernel_terms_backward(v, terms, weight, channels):
    """The adjoint: a cell gets the sum over the terms that it is part of."""
    apart = v.builder.mul(channels, number(4))

    def one(_, carried):
        source, target = carried
        gradients = [v.load_scalar(v.at(source, v.builder.mul(apart, number(n)))) for n in range(TERMS)]
        for cell, used in enumerate(BOTH_AXES.T):
            v.store_scalar(_total(v, gradients, used), v.at(target, 4 * cell))
        return [v.at(source, 4), v.at(target, 36)]

    emit_loop(v.builder, number(0), channels, 1, [terms, weight], one)


def _total(v, numbers, included):
    """The sum of those of the numbers whose factor in `included` is 1, not 0."""
    return reduce(v.builder.fadd, [numbers[i] for i in np.flatnonzero(included)])


def _pixel(v, address, line, pixel, y, x):
    return v.at(v.at(address, v.builder.mul(line, number(y))), v.builder.mul(pixel, number(x)))
