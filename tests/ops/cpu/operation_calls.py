"""Arguments, small and large, for every operation that training's kernels make faster, and how to call them."""

from types import SimpleNamespace

import numpy as np

from levit_np.ops import reference


def hardswish_after(x, gamma, beta, *rest):
    y, statistics = reference.batch_norm(x, gamma, beta, *rest)
    return reference.hardswish(y), statistics


def backward_of_hardswish_after(dy, x, gamma, beta, statistics, *rest):
    y = reference.normalize(x, gamma, beta, *statistics[:2], *rest)
    return reference.batch_norm_backward(reference.hardswish_backward(dy, y), x, gamma, statistics, *rest)


# The reference operations, and those that only the cpu backend has as one operation.
TEXTBOOK = SimpleNamespace(**vars(reference) | {"batch_norm_hardswish": hardswish_after,
                                                "batch_norm_hardswish_backward": backward_of_hardswish_after})


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def gap(found, exact):
    """The largest difference, relative to the largest value."""
    found, exact = np.asarray(found), np.asarray(exact)
    assert found.shape == exact.shape and found.dtype == np.float32
    return np.abs(found - exact).max() / max(np.abs(exact).max(), 1e-3)


def arrays(result):
    """The arrays of a result, including those within named tuples."""
    if isinstance(result, np.ndarray):
        return [result]
    return [a for part in result if isinstance(part, (tuple, list, np.ndarray)) for a in arrays(part)]


def bn(inputs, axis=-1):
    """The inputs of batch_norm_backward, with the batch's statistics."""
    dy, x, gamma = inputs
    return dy, x, gamma, reference.Statistics(*(a.astype(x.dtype) for a in reference.batch_statistics(
        x.astype(np.float64), axis)[:2]), x.size // x.shape[axis])


def with_beta(inputs, beta, *rest):
    """The inputs of batch_norm_hardswish_backward, from those of batch_norm_backward."""
    dy, x, gamma, statistics = inputs
    return dy, x, gamma, beta, statistics, *rest


def calls(sizes):
    """{name of an operation: its arguments} for everything that the kernels compute; `sizes` is "small" or "large"."""
    if sizes == "small":
        m, c, o, image, attention = 5, 3, 7, (2, 3, 9, 6), (2, 3, 4, 9, 5, 6)
        squares, outputs, index = draw(2, 32, 3, 8), 16, reference.bias_index(3, 4)
    else:  # several blocks of rows, whole and partial panels; a wide convolution; more keys than a panel
        m, c, o, image, attention = 1203, 48, 77, (2, 32, 23, 40), (2, 3, 17, 49, 16, 32)
        squares, outputs = draw(7, 48, 28, 15), 80  # several groups of lines an image, of images a gradient
        index = reference.bias_index(14, 14, 2)
    batch, heads, queries, keys, key, value = attention
    x, dy, w, gamma, beta = draw(2, m, c), draw(2, m, o), draw(o, c), draw(c), draw(c, seed=1)
    pixels, kernel = draw(*image), draw(24, image[1], 3, 3)
    dpixels = draw(*reference.convolution(pixels, kernel, 2, 1).shape)
    filters = draw(outputs, squares.shape[1], 3, 3)  # for minimal filtering: see filtering.suits
    dsquares = draw(*reference.convolution(squares, filters, 2, 1).shape)
    q, k, v = draw(batch, heads, queries, key), draw(batch, heads, keys, key), draw(batch, heads, keys, value)
    bias, probabilities = draw(heads, queries, keys), reference.softmax(draw(batch, heads, queries, keys))
    channels = draw(image[1]), draw(image[1], seed=1)
    mean, variance = draw(c, seed=2), draw(c, seed=3) ** 2 + np.float32(0.1)
    wide = 3 * draw(m, c)
    return {
        "linear": (x, w), "linear_backward": (dy, x, w),
        "convolution": (pixels, kernel, 2, 1), "convolution_backward": (dpixels, pixels, kernel, 2, 1),
        "attention": (q, k, v, bias, 0.3),
        "attention_backward": (draw(batch, heads, queries, value, seed=1), q, k, v, 0.3, probabilities),
        "gather_bias_backward": (draw(heads, *index.shape), index, int(index.max()) + 1),
        "normalize": (x, gamma, beta, mean, variance, 1e-5),
        "normalize_backward": (draw(2, m, c, seed=1), x, gamma, mean, variance, 1e-5),
        "batch_statistics": (x,), "batch_norm": (x, gamma, beta, 1e-5),
        "batch_norm_backward": (*bn((draw(2, m, c, seed=1), x, gamma)), 1e-5),
        "batch_norm_hardswish": (x, 3 * gamma, beta, 1e-5),
        "batch_norm_hardswish_backward": with_beta(bn((draw(2, m, c, seed=1), x, 3 * gamma)), beta, 1e-5),
        "hardswish": (wide,), "hardswish_backward": (draw(m, c), wide), "silu": (wide,),
        "silu_backward": (draw(m, c), wide),
        "adamw": (wide, draw(m, c), draw(m, c, seed=1), draw(m, c, seed=2) ** 2, 7, 1e-3, (0.9, 0.99), 1e-8, 0.1),
        "add": (x, draw(2, m, c, seed=1)), "add of images": (pixels, draw(*image, seed=1)),
        "multiply": (x, draw(2, 1, 1)), "multiply of images": (pixels, draw(image[0], 1, 1, 1)),
        "update_running": ((mean, variance), reference.Statistics(gamma, beta**2, m), 0.1),
        "convolution_backward without dx": (dpixels, pixels, kernel, 2, 1, False),
        "convolution in squares": (squares, filters, 2, 1),
        "convolution_backward in squares": (dsquares, squares, filters, 2, 1),
        "convolution_backward in squares without dx": (dsquares, squares, filters, 2, 1, False),
        "batch_norm of images": (pixels, *channels, 1e-5, 1),
        "batch_norm_backward of images": (*bn((draw(*image, seed=1), pixels, channels[0]), 1), 1e-5, 1),
        "batch_norm_hardswish of images": (pixels, *channels, 1e-5, 1),
        "batch_norm_hardswish_backward of images": with_beta(
            bn((draw(*image, seed=1), pixels, channels[0]), 1), channels[1], 1e-5, 1),
    }


def perform(backend, name, arguments):
    return arrays(getattr(backend, name.split()[0])(*arguments))


def changed(arguments, change):
    """The arguments with `change` applied to every floating array, including those within named tuples."""
    return tuple(change(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else
                 a._replace(mean=change(a.mean), variance=change(a.variance)) if isinstance(a, reference.Statistics)
                 else changed(a, change) if isinstance(a, tuple) else a for a in arguments)


SMALL, LARGE = calls("small"), calls("large")
FAST = sorted(SMALL)
