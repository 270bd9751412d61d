"""AdamW in one pass over a parameter."""

from functools import lru_cache

import numpy as np

from .. import reference
from .running import fits, run
from .training_step import Each, Function, Kind


def adamw(parameter, gradient, first, second, step, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.0, out=None):
    """One update; step counts from 1.  -> parameter, first moment, second moment: new arrays, or the three of `out`.

    The decay acts on the parameter itself, not through the gradient; the moments start at 0, which the
    divisions by 1 - βᵗ correct.
    """
    arrays = parameter, gradient, first, second
    if not fits(*arrays) or any(a.shape != parameter.shape for a in arrays):
        return reference.adamw(parameter, gradient, first, second, step, rate, betas, eps, decay, out)
    arrays = [np.ascontiguousarray(a) for a in arrays]
    # The kernel reads a number before it writes its successor, so that out may be the inputs.
    new = out if out is not None and _takes(out, parameter) else [np.empty_like(arrays[0]) for _ in range(3)]
    constants = _constants(step, rate, tuple(betas), eps, decay)
    run((Kind.EACH, {Each.FUNCTION: Function.ADAMW, Each.COUNT: parameter.size,
                     **{Each.A + i: a.ctypes.data for i, a in enumerate((*arrays, *new, constants))}}))
    if out is None or new is out:
        return tuple(new)
    for array, values in zip(out, new, strict=True):
        array[...] = values
    return tuple(out)


@lru_cache(4)  # the same for some hundred parameters
def _constants(step, rate, betas, eps, decay):
    return np.array([1 - rate * decay, rate / (1 - betas[0] ** step), betas[0], 1 - betas[0], betas[1], 1 - betas[1],
                     1 / (1 - betas[1] ** step), eps], np.float32)


def _takes(out, parameter):
    """Whether the kernel can write there: three contiguous float32 arrays of the parameter's shape."""
    return len(out) == 3 and fits(*out) and all(
        a.shape == parameter.shape and a.flags.c_contiguous and a.flags.writeable for a in out)
