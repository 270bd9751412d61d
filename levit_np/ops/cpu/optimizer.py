"""AdamW: wrappers of update_kernel.py, which passes once over a parameter, or over all of them in one call."""

import numpy as np

from .. import reference
from ..reference.clipping import EPS, LEAST
from .running import bits, fits, run, scratch
from .training_step import UPDATE_BYTES, Kind
from .training_step import Update as U


def adamw(parameter, gradient, first, second, step, rate, betas=(0.9, 0.999), eps=1e-8, decay=0.0, out=None):
    """parameter = (1 - rate · decay) parameter - rate · m̂ / (√v̂ + eps): see reference.adamw.  -> parameter, m, v: new
    arrays, or the three in `out`."""
    arrays = parameter, gradient, first, second
    if not fits(*arrays) or any(a.shape != parameter.shape for a in arrays):
        return reference.adamw(parameter, gradient, first, second, step, rate, betas, eps, decay, out)
    arrays = [np.ascontiguousarray(a).reshape(a.shape) for a in arrays]  # ascontiguousarray makes (1,) of ()
    new = out if out is not None and _takes(out, parameter) else [np.empty_like(arrays[0]) for _ in range(3)]
    run(_step(*arrays, new, _constants(step, rate, betas, eps, decay), scratch(UPDATE_BYTES)))
    if out is None or new is out:
        return tuple(new)
    for array, values in zip(out, new, strict=True):
        array[...] = values
    return tuple(out)


def update_together(parameters, gradients, first, second, decays, step, rate, betas=(0.9, 0.999), eps=1e-8, clip=None,
                    scale=1.0):
    """For lists of arrays: clip_adaptively, unless clip is None or 0, then adamw, writing parameters and moments in
    place.

    scale: a factor of the gradients, applied first; they may be overwritten."""
    steps, constants = [], {decay: _constants(step, rate, betas, eps, decay) for decay in set(decays)}
    memory = scratch(UPDATE_BYTES)
    for parameter, gradient, m, v, decay in zip(parameters, gradients, first, second, decays, strict=True):
        new = parameter, m, v
        if fits(gradient) and gradient.shape == parameter.shape and _takes(new, parameter):
            steps.append(_step(parameter, np.ascontiguousarray(gradient), m, v, new, constants[decay], memory,
                               clip or 0.0, scale))
        else:
            gradient = reference.scaled_and_clipped(gradient, parameter, clip, scale)
            reference.adamw(parameter, gradient, m, v, step, rate, betas, eps, decay, out=new)
    if steps:
        run(*steps)


def _step(parameter, gradient, first, second, new, constants, memory, clip=0.0, scale=1.0):
    """One update. The kernel reads each number before it writes there, so that `new` may be the inputs."""
    units = len(parameter) if parameter.ndim > 1 else 1
    return Kind.UPDATE, {
        U.UNITS: units, U.LENGTH: parameter.size // units, U.CLIP: bits(clip), U.SCALE: bits(scale),
        U.SCRATCH: memory[0], U.SCRATCH_SIZE: memory[1],
        **dict(enumerate((parameter, gradient, first, second, *new, constants), U.A))}


def _constants(step, rate, betas, eps, decay):
    return np.array([1 - rate * decay, rate / (1 - betas[0] ** step), betas[0], 1 - betas[0], betas[1], 1 - betas[1],
                     1 / (1 - betas[1] ** step), eps, EPS, LEAST], np.float32)


def _takes(out, parameter):
    """Whether the kernel can write there: three contiguous float32 arrays of the parameter's shape."""
    return len(out) == 3 and fits(*out) and all(
        a.shape == parameter.shape and a.flags.c_contiguous and a.flags.writeable for a in out)
