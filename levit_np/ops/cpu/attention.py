"""Training's attention, and the gradients of what feeds it: checks and memory here, kernels in attention_kernels.py.
One head of one image at a time, so that its scores and their gradients stay in the cache."""

from .. import reference
from ..side_by_side import whole_of
from .recording import computed
from .running import address, addresses, bits, contiguous, empty, fits, padded, run, scratch, worth_streaming
from .scatter import places, scatter_add
from .training_step import HEADER, QUERIES, Kind
from .training_step import Attention as A


def attention(q, k, v, bias, scale):
    """y = softmax(scale · q kᵀ + bias) v.

    q (B, heads, Nq, D), k (B, heads, Nk, D), v (B, heads, Nk, V), bias (heads, Nq, Nk) or None -> y (B, heads, Nq, V),
    probabilities (B, heads, Nq, Nk) for the backward."""
    if not _supported(q, k, v) or bias is not None and not (fits(bias) and bias.shape == (*q.shape[1:3], k.shape[2])):
        return reference.attention(q, k, v, bias, scale)
    batch, heads, queries, _ = q.shape
    bias = bias if bias is None else contiguous(bias)
    probabilities = empty(batch, heads, queries, k.shape[2])
    y, = _side_by_side(batch, queries, heads, v.shape[-1])
    _run(Kind.ATTENTION, (q, k, v, y), bias, probabilities, scale, _sizes(q, k, v)[0])
    return y[..., : v.shape[-1]], probabilities


def attention_backward(dy, q, k, v, scale, probabilities):
    """dv = pᵀ dy, dp = dy vᵀ, ds = p (dp - Σ_k dp p), dq = scale · ds k, dk = scale · dsᵀ q, dbias = Σ_b ds.

    -> dq, dk, dv, dbias (heads, Nq, Nk)."""
    if not (_supported(q, k, v) and fits(dy, probabilities) and dy.shape == (*q.shape[:3], v.shape[3])
            and probabilities.shape == (*q.shape[:3], k.shape[2])):
        return reference.attention_backward(dy, q, k, v, scale, probabilities)
    batch, heads, queries, key = q.shape
    keys, value = v.shape[2:]
    if queries == keys:
        dq, dk, dv = _side_by_side(batch, keys, heads, key, key, value)
    else:
        (dq,), (dk, dv) = _side_by_side(batch, queries, heads, key), _side_by_side(batch, keys, heads, key, value)
    dbias, probabilities = empty(heads, queries, keys), contiguous(probabilities)
    _run(Kind.ATTENTION_BACKWARD, (q, k, v, dy, dq, dk, dv), dbias, probabilities, scale, _sizes(q, k, v)[1],
         worth_streaming(dv))
    return dq[..., :key], dk[..., :key], dv[..., :value], dbias


def _supported(q, k, v):
    """Whether the kernels take these; errors are left to the reference to raise."""
    return (fits(q, k, v) and q.ndim == k.ndim == v.ndim == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]
            and q.shape[3] == k.shape[3] and k.shape[2] == v.shape[2])


def _side_by_side(batch, tokens, heads, *sizes):
    """Views (B, heads, N, size) of one new array (B, N, heads·Σsizes), as split_heads makes them; sizes padded for the
    kernels."""
    wide = [padded(size) for size in sizes]
    return reference.split_heads(empty(batch, tokens, heads * sum(wide)), heads, wide)


def _sizes(q, k, v):
    """Bytes of a thread's scratch: (forward, backward)."""
    queries, keys, key, value = q.shape[2], k.shape[2], q.shape[3], v.shape[3]
    forward = (1 + key + QUERIES) * padded(keys) + keys * padded(value)
    backward = (value + queries) * padded(keys) + (keys + queries) * padded(key) + queries * padded(value)
    return HEADER + 64 + 4 * forward, HEADER + 64 + 4 * backward


def _run(kind, arrays, bias, probabilities, scale, size, stream=False):
    arrays = [a if a.strides[-1] == 4 else contiguous(a) for a in arrays]
    views = addresses(arrays, [a.strides[:3] for a in arrays])
    batch, heads, queries, key = arrays[0].shape
    memory, size = scratch(size)
    run((kind, {
        A.IMAGES: batch, A.HEADS: heads, A.QUERIES: queries, A.KEYS: arrays[1].shape[2], A.KEY: key,
        A.VALUE: arrays[2].shape[3], A.VIEWS: views, A.BIAS: 0 if bias is None else bias,
        A.PROBABILITIES: probabilities, A.SCALE: bits(scale), A.SCRATCH: memory, A.SCRATCH_SIZE: size,
        A.STREAM: stream}))


def gather_bias(table, index):
    """bias[h, q, k] = table[h, index[q, k]].  table (heads, offsets), index (Nq, Nk) -> bias (heads, Nq, Nk)."""
    if not (fits(table) and places(index, table.shape[1])):
        return reference.gather_bias(table, index)
    bias = empty(len(table), *index.shape)
    computed(_look_up, table, index, bias)
    return bias


def _look_up(table, index, bias):
    table.take(index, 1, bias, "clip")  # all are in range; "raise" would compute a copy first


def gather_bias_backward(dbias, index, offsets):
    """dtable[h, i] = Σ dbias[h, q, k] where index[q, k] = i.  -> dtable (heads, offsets)."""
    if not (fits(dbias) and dbias.shape[1:] == index.shape and places(index, offsets)):
        return reference.gather_bias_backward(dbias, index, offsets)
    return scatter_add(dbias, index, offsets)


def split_heads_backward(parts):
    """The gradients to the parts, (B, heads, N, size) each -> dx (B, N, heads·Σsizes).

    Without a copy where the parts already lie side by side in one array, as attention_backward leaves them."""
    found = whole_of(parts, address) if fits(*parts) else None
    return reference.split_heads_backward(parts) if found is None else found
