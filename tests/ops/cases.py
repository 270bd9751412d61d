"""For every operation with a backward, random inputs of random sizes, and the check that the backward is the adjoint of
the derivative.

A case is a function (ops, size, array) -> Case; `size(low, high)` draws a whole number, `array(*shape)` draws
values."""

from typing import Callable, NamedTuple

import numpy as np


class Case(NamedTuple):
    forward: Callable  # (*inputs) -> y, an array or a number
    backward: Callable  # (dy, *inputs) -> the gradient to each input
    inputs: tuple
    linear: bool = False  # linear in each input: the adjoint identity then holds to rounding, without differences


def _pointwise(name):
    def case(ops, size, array):
        function, derivative = getattr(ops, name), getattr(ops, f"{name}_backward")
        x = 3 * array(size(), size(), size())
        x[np.abs(np.abs(x) - 3) < 0.05] = 1  # finite differences are meaningless across Hardswish's kinks
        return Case(function, lambda dy, x: (derivative(dy, x),), (x,), name == "identity")

    return case


def _softmax(ops, size, array):
    return Case(ops.softmax, lambda dy, x: (ops.softmax_backward(dy, ops.softmax(x)),), (array(size(), size()),))


def _attention(ops, size, array):
    b, heads, nq, nk, d, v = size(), size(), size(), size(), size(), size()
    scale = d**-0.5

    def backward(dy, q, k, v, bias):
        return ops.attention_backward(dy, q, k, v, scale, ops.attention(q, k, v, bias, scale)[1])

    return Case(lambda *inputs: ops.attention(*inputs, scale)[0], backward,
                (array(b, heads, nq, d), array(b, heads, nk, d), array(b, heads, nk, v), array(heads, nq, nk)))


def _gather_bias(ops, size, array):
    h, w = size(), size()
    index = ops.bias_index(h, w, size(1, 2))
    return Case(lambda table: ops.gather_bias(table, index),
                lambda dy, table: (ops.gather_bias_backward(dy, index, h * w),), (array(size(), h * w),), True)


def _split_heads(ops, size, array):
    heads, sizes = size(), (size(), size(), size())
    return Case(lambda x: np.concatenate(ops.split_heads(x, heads, sizes), -1),
                lambda dy, x: (ops.split_heads_backward(np.split(dy, np.cumsum(sizes)[:-1], -1)),),
                (array(size(), size(), heads * sum(sizes)),), True)


def _merge_heads(ops, size, array):
    heads = size()
    return Case(ops.merge_heads, lambda dy, x: (ops.merge_heads_backward(dy, heads),),
                (array(size(), heads, size(), size()),), True)


def _convolution(ops, size, array):
    kernel, stride, channels = size(1, 4), size(1, 3), size()
    padding = size(0, kernel - 1)
    return Case(lambda x, w: ops.convolution(x, w, stride, padding),
                lambda dy, x, w: ops.convolution_backward(dy, x, w, stride, padding),
                (array(size(), channels, size(4, 7), size(4, 7)), array(size(), channels, kernel, kernel)), True)


def _linear(ops, size, array):
    channels = size()
    return Case(ops.linear, ops.linear_backward, (array(size(), size(), channels), array(size(), channels)), True)


def _bias(ops, size, array):
    x, w = array(size(), size(), 3), array(size(), 3)
    return Case(lambda b: ops.linear(x, w, b), lambda dy, b: (ops.bias_backward(dy),), (array(len(w)),))


def _normalize(ops, size, array):
    axis, channels = (-1, 1)[size(0, 1)], size()
    shape = (size(), size(), channels) if axis == -1 else (size(), channels, size(), size())
    mean, variance = array(channels), array(channels) ** 2 + array(1)[0] ** 2 + 0.1
    variance = variance.astype(mean.dtype)
    return Case(lambda x, gamma, beta: ops.normalize(x, gamma, beta, mean, variance, 1e-5, axis),
                lambda dy, x, gamma, beta: ops.normalize_backward(dy, x, gamma, mean, variance, 1e-5, axis),
                (array(*shape), array(channels), array(channels)))


def _batch_norm(ops, size, array):
    axis, channels = (-1, 1)[size(0, 1)], size()
    shape = (size(3, 6), size(), channels) if axis == -1 else (size(3, 6), channels, size(), size())

    def backward(dy, x, gamma, beta):
        return ops.batch_norm_backward(dy, x, gamma, ops.batch_norm(x, gamma, beta, 1e-1, axis)[1], 1e-1, axis)

    # A large eps: if the three values happened to be close, the finite differences would be inexact.
    return Case(lambda x, gamma, beta: ops.batch_norm(x, gamma, beta, 1e-1, axis)[0], backward,
                (array(*shape), array(channels), array(channels)))


def _layer_norm(ops, size, array):
    channels = size(2, 6)
    return Case(lambda x, gamma, beta: ops.layer_norm(x, gamma, beta, 1e-1),
                lambda dy, x, gamma, beta: ops.layer_norm_backward(dy, x, gamma, 1e-1),
                (array(size(), size(), channels), array(channels), array(channels)))


def _pooling(name):
    def case(ops, size, array):
        function, adjoint = getattr(ops, name), getattr(ops, f"{name}_backward")
        return Case(function, lambda dy, x: (adjoint(dy, x.shape[1]),), (array(size(), size(), size()),), True)

    return case


def _prepend_token(ops, size, array):
    channels = size()
    return Case(ops.prepend_token, lambda dy, x, token: ops.prepend_token_backward(dy),
                (array(size(), size(), channels), array(1, channels)))


def _subsample(ops, size, array):
    grid = size(), size(), size(1, 3)
    return Case(lambda x: ops.subsample(x, *grid), lambda dy, x: (ops.subsample_backward(dy, *grid),),
                (array(size(), grid[0] * grid[1], size()),), True)


def _cross_entropy(ops, size, array):
    targets = ops.softmax(array(size(), size(2, 6)))
    return Case(lambda x: ops.cross_entropy(x, targets), lambda dy, x: (dy * ops.cross_entropy_backward(x, targets),),
                (array(*targets.shape),))


def _soft_distillation(ops, size, array):
    teacher, temperature = array(size(), size(2, 6)), size(2, 4)
    return Case(lambda x: ops.soft_distillation(x, teacher, temperature),
                lambda dy, x: (dy * ops.soft_distillation_backward(x, teacher, temperature),), (array(*teacher.shape),))


def _hard_distillation(ops, size, array):
    teacher = array(size(), size(2, 6))
    return Case(lambda x: ops.hard_distillation(x, teacher),
                lambda dy, x: (dy * ops.hard_distillation_backward(x, teacher),), (array(*teacher.shape),))


CASES = {
    "hardswish": _pointwise("hardswish"), "silu": _pointwise("silu"), "identity": _pointwise("identity"),
    "softmax": _softmax, "attention": _attention, "gather_bias": _gather_bias, "split_heads": _split_heads,
    "merge_heads": _merge_heads, "convolution": _convolution, "linear": _linear, "bias": _bias,
    "normalize": _normalize, "batch_norm": _batch_norm, "layer_norm": _layer_norm,
    "average_pool": _pooling("average_pool"), "first_token": _pooling("first_token"), "prepend_token": _prepend_token,
    "subsample": _subsample, "cross_entropy": _cross_entropy, "soft_distillation": _soft_distillation,
    "hard_distillation": _hard_distillation,
}


def drawn(name, ops, seed, dtype=np.float64):
    """The case called `name` with sizes and values from this seed, and the generator for further draws."""
    generator = np.random.default_rng(seed)
    case = CASES[name](ops, lambda low=1, high=4: int(generator.integers(low, high + 1)),
                       lambda *shape: generator.standard_normal(shape).astype(dtype))
    return case, generator


def adjoint_error(case, generator):
    """The largest |⟨dy, J dx⟩ - ⟨Jᵀ dy, dx⟩| / (‖dy‖ ‖J dx‖) over the inputs, for random dy and dx. J dx comes from
    fourth-order finite differences, or from the operation itself if it is linear."""
    y, gaps = case.forward(*case.inputs), []
    dy = generator.standard_normal(np.shape(y))
    gradients = case.backward(dy, *case.inputs)
    assert [np.shape(g) for g in gradients] == [np.shape(x) for x in case.inputs]
    for i, gradient in enumerate(gradients):
        dx = generator.standard_normal(case.inputs[i].shape)

        def along(step):
            return case.forward(*case.inputs[:i], case.inputs[i] + step * dx, *case.inputs[i + 1 :])

        jdx = (case.forward(*case.inputs[:i], dx, *case.inputs[i + 1 :]) if case.linear else
               (8 * (along(1e-3) - along(-1e-3)) - (along(2e-3) - along(-2e-3))) / 12e-3)
        size = np.linalg.norm(dy) * np.linalg.norm(jdx)
        gaps.append(abs(np.sum(dy * jdx) - np.sum(gradient * dx)) / max(size, 1e-6))
    return np.max(gaps)  # np.max returns NaN if any is NaN; Python's max may not


def op_is_right(name, ops, seeds=range(5)):
    """Whether the backward is the adjoint: to 1e-12 if the operation is linear, otherwise to 1e-8, the accuracy of the
    differences."""
    for case, generator in (drawn(name, ops, seed) for seed in seeds):
        if not adjoint_error(case, generator) < (1e-12 if case.linear else 1e-8):
            return False
    return True
