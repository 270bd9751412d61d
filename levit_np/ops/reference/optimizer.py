"""The update of a training step: AdamW (Loshchilov & Hutter, arXiv 1711.05101) and the moving average of the weights,
for one parameter and for lists of them.

`out` receives the results, as in NumPy, and may be the inputs themselves.
"""

import numpy as np

from .clipping import clip_adaptively


def adamw(parameter, gradient, first, second, step, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.0, out=None):
    """parameter = (1 - rate · decay) parameter - rate · m̂ / (√v̂ + eps): one update; step counts from 1.

    The moments m = β₁ m + (1 - β₁) gradient and v = β₂ v + (1 - β₂) gradient² (first, second) start at 0, which biases
    them toward 0; m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ) correct this at step t.  The weight decay acts on the
    parameter itself, not through the gradient.  -> parameter, m, v: new arrays, or the three of `out`."""
    first = betas[0] * first + (1 - betas[0]) * gradient
    second = betas[1] * second + (1 - betas[1]) * gradient**2
    deviation = np.sqrt(second / (1 - betas[1] ** step)) + eps
    parameter = parameter * (1 - rate * decay) - rate / (1 - betas[0] ** step) * first / deviation
    if out is None:
        return parameter, first, second
    for array, values in zip(out, (parameter, first, second), strict=True):
        array[...] = values
    return tuple(out)


def moving_average(average, value, decay, out=None):
    """average = average + (1 - decay) (value - average): the exponential moving average; a new array, or `out`.

    Written so, an average that equals `value` stays the same to the bit."""
    return np.add(average, (1 - decay) * (value - average), out=out)


def update_together(parameters, gradients, first, second, decays, step, rate, betas=(0.9, 0.999), eps=1e-8, clip=None,
                    scale=1.0):
    """clip_adaptively (unless clip is None or 0), then adamw, for lists of arrays: parameters and moments in place.

    scale: factor applied to the gradients first. The gradients may be overwritten."""
    for parameter, gradient, m, v, decay in zip(parameters, gradients, first, second, decays, strict=True):
        adamw(parameter, scaled_and_clipped(gradient, parameter, clip, scale), m, v, step, rate, betas, eps, decay,
              out=(parameter, m, v))


def scaled_and_clipped(gradient, parameter, clip, scale):
    """g = clip_adaptively(scale · gradient): unclipped if clip is None or 0; the gradient may be overwritten."""
    if scale != 1:
        np.multiply(gradient, gradient.dtype.type(scale), out=gradient)
    return clip_adaptively(gradient, parameter, clip, out=gradient) if clip else gradient


def average_together(averages, values, decay):
    """moving_average for lists of arrays, in place."""
    for average, value in zip(averages, values, strict=True):
        moving_average(average, value, decay, out=average)
