"""Training's attention kernels. One head of one image at a time, so that its scores, or their gradient, stay in the
cache."""

from numba import types

from . import training_step as step
from .barrier import share
from .intrinsics import as_float, get, set_float
from .jit import jit
from .panel_packing import fill, init_scratch
from .training_routines import STORE, STREAM
from .training_step import HEADER, QUERIES

A_IMAGES, A_HEADS, A_QUERIES, A_KEYS, A_KEY, A_VALUE, A_VIEWS, A_BIAS, A_PROBABILITIES, A_SCALE, A_SCRATCH, \
    A_SCRATCH_SIZE, A_STREAM = (int(c) for c in step.Attention)


@jit
def view(s, which, image, head):
    """(the address of one head of one image, bytes a row)."""
    at = get(s, A_VIEWS) + 32 * which
    return get(at, 0) + image * get(at, 1) + head * get(at, 2), get(at, 3)


def attention_kernels(call, packing, products):
    """(attention, attention_backward): the kernels of two kinds of step."""
    return (_forward(call["softmax"], packing, products.multiply_block),
            _backward(call["softmax_backward"], packing, products))


def _forward(softmax, packing, multiply_block):
    padded, panels, pack_rows, pack_columns = packing

    @jit
    def attention(s, thread, threads):
        heads, queries, keys, key, value = (get(s, A_HEADS), get(s, A_QUERIES), get(s, A_KEYS), get(s, A_KEY),
                                            get(s, A_VALUE))
        scratch = get(s, A_SCRATCH) + thread * get(s, A_SCRATCH_SIZE)
        init_scratch(scratch)
        row = padded(keys) * 4
        scale = scratch + HEADER
        nothing = scale + 64
        k_packed = nothing + row
        v_packed = k_packed + key * row
        scores = v_packed + keys * padded(value) * 4
        set_float(scale, types.float32(as_float(get(s, A_SCALE))))
        fill(nothing, keys)
        first, last = share(get(s, A_IMAGES) * heads, thread, threads)
        for unit in range(first, last):
            image, head = unit // heads, unit % heads
            q, q_row = view(s, 0, image, head)
            k, k_row = view(s, 1, image, head)
            v, v_row = view(s, 2, image, head)
            y, y_row = view(s, 3, image, head)
            # Each head prefetches a part of the next image meanwhile: of its keys, and what lies between them.
            part = keys * k_row // heads if unit + heads < last else 0
            following = view(s, 1, image + 1, 0)[0] + head * part
            end = following + part
            pack_columns(k, k_row, key, keys, 0, panels(keys), k_packed)
            pack_rows(v, v_row, keys, value, 0, panels(value), scratch, v_packed)
            for start in range(0, queries, QUERIES):
                rows = min(QUERIES, queries - start)
                target = get(s, A_PROBABILITIES) + (unit * queries + start) * keys * 4
                following = multiply_block(q + start * q_row, q_row, rows, key, k_packed, keys, scores, row, 0,
                                           following, end)
                for i in range(rows):
                    bias = nothing
                    if get(s, A_BIAS):
                        bias = get(s, A_BIAS) + (head * queries + start + i) * keys * 4
                    softmax(scores + i * row, bias, scale, target + i * keys * 4, keys)
                following = multiply_block(target, keys * 4, rows, keys, v_packed, value, y + start * y_row, y_row, 0,
                                           following, end)

    return attention


def _backward(softmax_backward, packing, products):
    padded, panels, pack_rows, pack_columns = packing
    multiply_block, multiply_transposed = products.multiply_block, products.multiply_transposed

    @jit
    def attention_backward(s, thread, threads):
        """A thread has its own heads, so that a bias's gradient is summed over the images in their order."""
        heads, queries, keys, key, value = (get(s, A_HEADS), get(s, A_QUERIES), get(s, A_KEYS), get(s, A_KEY),
                                            get(s, A_VALUE))
        scratch = get(s, A_SCRATCH) + thread * get(s, A_SCRATCH_SIZE)
        init_scratch(scratch)
        row = padded(keys) * 4
        scale = scratch + HEADER
        v_packed = scale + 64
        k_packed = v_packed + value * row
        q_packed = k_packed + keys * padded(key) * 4
        dy_packed = q_packed + queries * padded(key) * 4
        dscores = dy_packed + queries * padded(value) * 4
        set_float(scale, types.float32(as_float(get(s, A_SCALE))))
        stream, mode = get(s, A_STREAM), STREAM if get(s, A_STREAM) else STORE
        first, last = share(heads, thread, threads)
        for head in range(first, last):
            dbias = get(s, A_BIAS) + head * queries * keys * 4
            fill(dbias, queries * keys)
            for image in range(get(s, A_IMAGES)):
                q, q_row = view(s, 0, image, head)
                k, k_row = view(s, 1, image, head)
                v, v_row = view(s, 2, image, head)
                dy, dy_row = view(s, 3, image, head)
                dq, dq_row = view(s, 4, image, head)
                dk, dk_row = view(s, 5, image, head)
                dv, dv_row = view(s, 6, image, head)
                p = get(s, A_PROBABILITIES) + (image * heads + head) * queries * keys * 4
                pack_columns(v, v_row, value, keys, 0, panels(keys), v_packed)
                pack_rows(k, k_row, keys, key, 0, panels(key), scale, k_packed)
                pack_rows(q, q_row, queries, key, 0, panels(key), scale, q_packed)
                pack_rows(dy, dy_row, queries, value, 0, panels(value), scratch, dy_packed)
                following = p + heads * queries * keys * 4  # the next image's probabilities, prefetched
                last = following + queries * keys * 4 if image + 1 < get(s, A_IMAGES) else 0
                following = multiply_block(dy, dy_row, queries, value, v_packed, keys, dscores, row, 0, following, last)
                for i in range(queries):
                    softmax_backward(dscores + i * row, p + i * keys * 4, dbias + i * keys * 4, keys)
                multiply_transposed(p, keys * 4, keys, queries, dy_packed, value, 0, panels(value), dv, dv_row, mode)
                multiply_block(dscores, row, queries, keys, k_packed, key, dq, dq_row, stream, following, last)
                multiply_transposed(dscores, row, keys, queries, q_packed, key, 0, panels(key), dk, dk_row, mode)

    return attention_backward
