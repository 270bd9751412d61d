"""BN's passes over rows of channels: sums, and what they give."""

from . import training_step as step
from .intrinsics import get
from .row_functions import GROUP

SUMMED = 32  # rows summed in float32, before their sum is added in float64


def normalization_kernels(lanes, jit, call, share):
    """(channel_sums, normalization, normalization_backward): kernels of a step, the first (…, backward).  call: the
    routines by name."""
    group = GROUP * lanes
    normalize_row, normalize_row_past, normalize_row_backward, normalize_row_backward_past = (
        call[name] for name in ("normalize", "normalize_past", "normalize_backward", "normalize_backward_past"))
    sums_group, sums, sums_one, backward_sums_group, backward_sums, backward_sums_one = (
        call[name] for name in ("sums_group", "sums", "sums_one", "backward_sums_group", "backward_sums",
                                "backward_sums_one"))

    N_ROWS, N_CHANNELS, N_DY, N_X, N_OUT, N_PAST, N_MEAN, N_A, N_B, N_C, N_D, \
        N_ACTIVATED, N_TOTALS = (int(c) for c in step.Normalization)

    @jit
    def channel_sums(s, thread, threads, backward):
        """Two float64 totals a channel; a thread has channels of its own, and goes through all rows."""
        rows, channels, x, dy, centre = get(s, N_ROWS), get(s, N_CHANNELS), get(s, N_X), get(s, N_DY), get(s, N_MEAN)
        totals, scale, shift = get(s, N_TOTALS), get(s, N_A), get(s, N_D)
        products, row = totals + 8 * channels, 4 * channels
        first, last = share((channels + lanes - 1) // lanes, thread, threads)
        first, last = first * lanes, min(channels, last * lanes)
        for start in range(0, rows, SUMMED):
            count, offset = min(SUMMED, rows - start), start * row
            c = first
            while c + group <= last:
                at = offset + 4 * c
                if backward:
                    backward_sums_group(dy + at, x + at, row, count, centre + 4 * c, totals + 8 * c, products + 8 * c,
                                        scale and scale + 4 * c, shift + 4 * c)
                else:
                    sums_group(0, x + at, row, count, centre + 4 * c, totals + 8 * c, products + 8 * c, 0, 0)
                c += group
            while c + lanes <= last:
                at = offset + 4 * c
                if backward:
                    backward_sums(dy + at, x + at, row, count, centre + 4 * c, totals + 8 * c, products + 8 * c,
                                  scale and scale + 4 * c, shift + 4 * c)
                else:
                    sums(0, x + at, row, count, centre + 4 * c, totals + 8 * c, products + 8 * c, 0, 0)
                c += lanes
            while c < last:
                at = offset + 4 * c
                if backward:
                    backward_sums_one(dy + at, x + at, row, count, centre + 4 * c, totals + 8 * c, products + 8 * c,
                                      scale and scale + 4 * c, shift + 4 * c)
                else:
                    sums_one(0, x + at, row, count, centre + 4 * c, totals + 8 * c, products + 8 * c, 0, 0)
                c += 1

    @jit
    def normalization(s, thread, threads):
        first, last = share(get(s, N_ROWS), thread, threads)
        past, activated = get(s, N_PAST), get(s, N_ACTIVATED)
        channels, x, out, mean, a, b = (get(s, N_CHANNELS), get(s, N_X), get(s, N_OUT), get(s, N_MEAN), get(s, N_A),
                                        get(s, N_B))
        for row in range(first, last):
            at = row * channels * 4
            if past:
                normalize_row_past(x + at, out + at, mean, a, b, activated, 0, 0, channels)
            else:
                normalize_row(x + at, out + at, mean, a, b, activated, 0, 0, channels)

    @jit
    def normalization_backward(s, thread, threads):
        first, last = share(get(s, N_ROWS), thread, threads)
        channels, dy, x, out, mean = get(s, N_CHANNELS), get(s, N_DY), get(s, N_X), get(s, N_OUT), get(s, N_MEAN)
        a, b, c, d, past = get(s, N_A), get(s, N_B), get(s, N_C), get(s, N_D), get(s, N_PAST)
        for row in range(first, last):
            at = row * channels * 4
            if past:
                normalize_row_backward_past(dy + at, x + at, out + at, mean, a, b, c, d, channels)
            else:
                normalize_row_backward(dy + at, x + at, out + at, mean, a, b, c, d, channels)

    return channel_sums, normalization, normalization_backward
