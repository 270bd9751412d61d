"""What is done to each of many numbers that lie side by side: an activation, its gradient, a sum, a factor."""

from . import training_step as step
from .intrinsics import get

LINE_NUMBERS = 16  # in a cache line
POINTWISE = "hardswish", "hardswish_backward", "silu", "silu_backward", "blend", "scale"


def pointwise_kernel(jit, call, share):
    """The kernel of a step.  call: the routines by name."""
    hardswish, hardswish_backward, silu, silu_backward, blend, scale = (call[name] for name in POINTWISE)
    E_FUNCTION, E_COUNT, E_PAST, E_A = (int(c) for c in step.Each)
    HARDSWISH, HARDSWISH_BACKWARD, SILU, SILU_BACKWARD, BLEND, SCALE = (int(x) for x in step.Function)

    @jit
    def each(s, thread, threads):
        # Whole cache lines a thread, so that each part begins where vectors may be written past the caches.
        first, last = share((get(s, E_COUNT) + LINE_NUMBERS - 1) // LINE_NUMBERS, thread, threads)
        first, last = first * LINE_NUMBERS, min(last * LINE_NUMBERS, get(s, E_COUNT))
        count, function, offset, past = last - first, get(s, E_FUNCTION), 4 * first, get(s, E_PAST)
        a, b, c = get(s, E_A) + offset, get(s, E_A + 1) + offset, get(s, E_A + 2) + offset
        if function == HARDSWISH:
            hardswish(a, b, count, past)
        elif function == HARDSWISH_BACKWARD:
            hardswish_backward(a, b, c, count, past)
        elif function == SILU:
            silu(a, b, count, past)
        elif function == SILU_BACKWARD:
            silu_backward(a, b, c, count, past)
        elif function == BLEND:
            blend(a, b, c, get(s, E_A + 3), count, past)
        elif function == SCALE:
            scale(a, b, get(s, E_A + 2), count, past)

    return each
