"""AdamW (Loshchilov & Hutter, arXiv 1711.05101), one parameter at a time."""

import numpy as np


def adamw(parameter, gradient, first, second, step, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.0):
    """One update; step counts from 1.  -> parameter, first moment, second moment, all new arrays.

    The decay acts on the parameter itself, not through the gradient; the moments start at 0, which the
    divisions by 1 - βᵗ correct.
    """
    first = betas[0] * first + (1 - betas[0]) * gradient
    second = betas[1] * second + (1 - betas[1]) * gradient**2
    deviation = np.sqrt(second / (1 - betas[1] ** step)) + eps
    return parameter * (1 - rate * decay) - rate / (1 - betas[0] ** step) * first / deviation, first, second
