"""The kernel of optimizer.py: AdamW with adaptive clipping of one parameter, one unit (an output's weights, or a whole
vector) after another."""

from numba import types

from . import training_step as step
from .barrier import share
from .intrinsics import as_float, get, get_float, root, set_float
from .jit import jit

CONSTANTS = 8  # the first of optimizer.py's ten, copied to the start of a thread's scratch
EPS, LEAST = 32, 36  # byte offsets of the last two of the ten
FACTOR, SQUARES = 32, 40  # byte offsets in scratch: the gradient's factor, a sum of squares


def update_kernel(call):
    """The kernel of UPDATE.  call: the routines by name."""
    adamw, sum_of_squares = call["adamw"], call["sum_of_squares"]
    U_UNITS, U_LENGTH, U_CLIP, U_SCALE, U_SCRATCH, U_SCRATCH_SIZE, U_A = (int(c) for c in step.Update)

    @jit
    def norm(x, count, scratch):
        """√Σ x²."""
        sum_of_squares(x, scratch + SQUARES, count)
        return root(get_float(scratch + SQUARES))

    @jit
    def factor(s, parameter, gradient, scratch):
        """What a unit's gradient is multiplied by: see reference.clip_adaptively."""
        clip, scale, length = as_float(get(s, U_CLIP)), as_float(get(s, U_SCALE)), get(s, U_LENGTH)
        constants = get(s, U_A + 7)
        if clip == 0:
            return scale
        largest = clip * max(norm(parameter, length, scratch), get_float(constants + EPS))
        found = scale * norm(gradient, length, scratch)
        return scale if found < largest else scale * largest / max(found, get_float(constants + LEAST))

    @jit
    def update(s, thread, threads):
        length, constants = get(s, U_LENGTH), get(s, U_A + 7)
        scratch = get(s, U_SCRATCH) + thread * get(s, U_SCRATCH_SIZE)
        for i in range(CONSTANTS):
            set_float(scratch + 4 * i, get_float(constants + 4 * i))
        first, last = share(get(s, U_UNITS), thread, threads)
        for unit in range(first, last):
            at = 4 * unit * length
            p, g, m, v = get(s, U_A) + at, get(s, U_A + 1) + at, get(s, U_A + 2) + at, get(s, U_A + 3) + at
            set_float(scratch + FACTOR, types.float32(factor(s, p, g, scratch)))
            adamw(p, g, m, v, get(s, U_A + 4) + at, get(s, U_A + 5) + at, get(s, U_A + 6) + at, scratch, length)

    return update
