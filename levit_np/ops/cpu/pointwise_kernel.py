"""The kernel of operations on single numbers: an activation, its gradient, a sum, a factor (training_step.Function)."""

from . import training_step as step
from .barrier import share
from .intrinsics import get
from .jit import jit

LINE_NUMBERS = 16  # float32 numbers in a cache line
ROUTINES = "hardswish", "hardswish_backward", "silu", "silu_backward", "blend", "scale"


def pointwise_kernel(call):
    """The kernel of POINTWISE.  call: the routines by name."""
    hardswish, hardswish_backward, silu, silu_backward, blend, scale = (call[name] for name in ROUTINES)
    E_FUNCTION, E_COUNT, E_STREAM, E_A = (int(c) for c in step.Pointwise)
    HARDSWISH, HARDSWISH_BACKWARD, SILU, SILU_BACKWARD, BLEND, SCALE = (int(x) for x in step.Function)

    @jit
    def pointwise(s, thread, threads):
        # A thread gets whole cache lines, so that its part begins where non-temporal stores may.
        first, last = share((get(s, E_COUNT) + LINE_NUMBERS - 1) // LINE_NUMBERS, thread, threads)
        first, last = first * LINE_NUMBERS, min(last * LINE_NUMBERS, get(s, E_COUNT))
        count, function, offset, stream = last - first, get(s, E_FUNCTION), 4 * first, get(s, E_STREAM)
        a, b, c = get(s, E_A) + offset, get(s, E_A + 1) + offset, get(s, E_A + 2) + offset
        if function == HARDSWISH:
            hardswish(a, b, count, stream)
        elif function == HARDSWISH_BACKWARD:
            hardswish_backward(a, b, c, count, stream)
        elif function == SILU:
            silu(a, b, count, stream)
        elif function == SILU_BACKWARD:
            silu_backward(a, b, c, count, stream)
        elif function == BLEND:
            blend(a, b, c, get(s, E_A + 3), count, stream)
        elif function == SCALE:
            scale(a, b, get(s, E_A + 2), count, stream)

    return pointwise
