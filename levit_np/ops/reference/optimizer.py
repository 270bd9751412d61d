"""What a step does to one parameter: AdamW (Loshchilov & Hutter, arXiv 1711.05101) and the moving average.

`out` takes the results, as in NumPy, and may be the inputs themselves.
"""

import numpy as np


def adamw(parameter, gradient, first, second, step, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.0, out=None):
    """parameter = (1 - rate · decay) parameter - rate · m̂ / (√v̂ + eps): one update; step counts from 1.

    -> parameter, first moment, second moment: new arrays, or the three of `out`.
    The decay acts on the parameter itself, not through the gradient; the moments start at 0, which the
    divisions by 1 - βᵗ correct.
    """
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
    """average + (1 - decay) (value - average), a new array or `out`:
    in this form what stands still stays to the bit."""
    return np.add(average, (1 - decay) * (value - average), out=out)
