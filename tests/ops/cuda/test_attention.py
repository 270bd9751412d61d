"""The GPU's attention, forward and backward, against the reference operations in float64, from the same numbers."""

import numpy as np
import pytest

from levit_np.ops import cuda as ops
from levit_np.ops import reference
from levit_np.ops.cuda import device, geometry

from .rounded import ROUNDING, close, draw, exact, put, require_hopper, type_of

pytestmark = pytest.mark.usefixtures("on")

ATTENTIONS = {  # images, heads, queries, keys, D, V, whether there is a bias
    "odd": (2, 3, 5, 7, 3, 6, True), "one": (1, 1, 1, 1, 1, 1, True), "shrinking": (1, 2, 16, 49, 16, 64, True),
    "tiles": (2, 1, 49, 130, 16, 32, True), "no bias": (2, 2, 70, 33, 32, 64, False),
    "stage 1": (1, 1, 196, 196, 16, 32, True),
    "many heads": (90, 3, 16, 16, 16, 32, True), "wide": (1, 1, 49, 49, 32, 128, True),
    "more keys than are in shared memory": (1, 1, 20, 500, 16, 16, True),
    "the same of wide floats": (1, 1, 17, 150, 32, 128, True),
    "of which 64 are there": (1, 1, 33, 150, 64, 256, True)}


PAIRS = ((1, 140, 35, 16, 32),  # a block goes around its ring of pairs more than twice
         (2, 196, 196, 32, 64),  # LeViT-256's first stage; one block has one more pair
         (4, 129, 300, 16, 16))  # each warp copies several parts of the next pair's tokens


# bfloat16 differs from float16 in one instruction, so in the fast suite it has one case, here and below.
@pytest.mark.parametrize("processors, queries, keys, key, value, dtype", [
    pytest.param(*sizes, dtype, marks=pytest.mark.slow if dtype == "bfloat16" and sizes != PAIRS[0] else ())
    for sizes in PAIRS for dtype in ("float16", "bfloat16")])
def test_attention_with_several_pairs_per_block(processors, queries, keys, key, value, dtype, on, monkeypatch):
    """A block works on more pairs than it holds at a time, with fewer warps than a pair has tiles of rows."""
    require_hopper(on, monkeypatch)
    monkeypatch.setattr(geometry, "PROCESSORS", processors)
    name, shape = geometry.attention_for(queries, keys, 9, key, value, dtype, True)
    assert name == "attention_pairs" and shape.grid == (processors,)
    kind, bar, scale = type_of(dtype), ROUNDING[dtype], key**-0.5
    q, k, v = (put(draw(3, 3, n, size), kind) for n, size in ((queries, key), (keys, key), (keys, value)))
    b = put(draw(3, queries, keys), "float32")
    y, kept = ops.attention(q, k, v, b, scale)
    expected, p = reference.attention(exact(q), exact(k), exact(v), exact(b), scale)
    close(y, expected, bar, kind)
    close(ops.attention_probabilities(kept), p, bar, np.float32)


@pytest.mark.parametrize("rise", [2, 4, -4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_of_scores_that_rise(rise, dtype):
    """Scores that rise from key to key, so that the running sum is rescaled each time, sometimes or never. The largest
    are near 0, where tensor cores truncate the least: an error of a score is a factor of its weight."""
    kind = type_of(dtype)
    q, k, v = (put(draw(2, 1, n, size), kind) for n, size in ((20, 16), (131, 16), (131, 32)))
    rising = np.arange(131) // 16 * rise
    b = put(np.broadcast_to(rising - rising.max(), (1, 20, 131)), "float32")
    y, kept = ops.attention(q, k, v, b, 0.25)
    expected, p = reference.attention(exact(q), exact(k), exact(v), exact(b), 0.25)
    close(y, expected, ROUNDING[dtype], kind)
    close(ops.attention_probabilities(kept), p, ROUNDING[dtype], np.float32)


@pytest.mark.parametrize("masked", [-np.inf, -1e20])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_of_masked_keys(dtype, masked):
    """Masked keys at the beginning, as many as a warp processes first; elsewhere; and all but one."""
    kind = type_of(dtype)
    q, k, v, dy = (put(draw(2, 1, n, size), kind) for n, size in ((20, 16), (131, 16), (131, 32), (20, 32)))
    bias = draw(1, 20, 131)
    bias[0, 3, :16] = bias[0, 5, :32] = bias[0, 6, :33] = bias[0, 7, :130] = bias[0, 8, :100] = bias[0, 9, 1:] = masked
    bias[0, 17, 32:64] = masked
    y, kept = ops.attention(q, k, v, put(bias, "float32"), 0.25)
    expected, p = reference.attention(exact(q), exact(k), exact(v), bias, 0.25)
    close(y, expected, ROUNDING[dtype], kind)
    close(ops.attention_probabilities(kept), p, ROUNDING[dtype], np.float32)
    for ours, theirs, type_ in zip(ops.attention_backward(dy, q, k, v, 0.25, kept),
                                   reference.attention_backward(exact(dy), exact(q), exact(k), exact(v), 0.25, p),
                                   (kind, kind, kind, np.float32), strict=True):
        close(ours, theirs, 2 * ROUNDING[dtype], type_)


def test_attention_of_a_row_without_keys_is_nan():
    """As in the reference, and no other row is."""
    q, k, v = (put(draw(1, 1, n, 16), "float16") for n in (20, 70, 70))
    bias = draw(1, 20, 70)
    bias[0, 4] = -np.inf
    y = exact(ops.attention(q, k, v, put(bias, "float32"), 0.25)[0])
    assert np.isnan(y[0, 0, 4]).all() and np.isnan(y).sum() == 16


@pytest.mark.parametrize("dtype, keys, key, value", [("float16", 16, 16, 512), ("float16", 48, 512, 16),
                                                     ("float16", 32, 16, 1024), ("float32", 16, 512, 16),
                                                     ("float32", 50, 16, 1024)])  # only sixteen fit into shared memory
def test_attention_of_long_rows(dtype, keys, key, value):
    """Shared memory ends, or its first part ends, within a row of values or of keys."""
    kind, scale = type_of(dtype), key**-0.5
    q, k, v = (put(draw(1, 1, n, size), kind) for n, size in ((16, key), (keys, key), (keys, value)))
    y, _ = ops.attention(q, k, v, None, scale)
    close(y, reference.attention(exact(q), exact(k), exact(v), None, scale)[0], ROUNDING[dtype], kind)


@pytest.mark.parametrize("name, dtype", [
    pytest.param(name, dtype, marks=pytest.mark.slow if dtype == "bfloat16" and name != "odd" else ())
    for name in ATTENTIONS for dtype in ROUNDING])
def test_attention(name, dtype):
    if name == "many heads" and dtype == "float32":
        pytest.skip("the sharing of a block by several heads is the same for every type")
    batch, heads, queries, keys, key, value, bias = ATTENTIONS[name]
    kind, bar, scale = type_of(dtype), ROUNDING[dtype], key**-0.5
    q, k, v = (put(draw(batch, heads, n, size), kind) for n, size in ((queries, key), (keys, key), (keys, value)))
    b = put(draw(heads, queries, keys), "float32") if bias else None
    dy = put(draw(batch, heads, queries, value, seed=1), kind)
    y, kept = ops.attention(q, k, v, b, scale)
    expected, p = reference.attention(exact(q), exact(k), exact(v), exact(b), scale)
    close(y, expected, bar, kind)
    close(ops.attention_probabilities(kept), p, bar, np.float32)
    found = ops.attention_backward(dy, q, k, v, scale, kept)
    for ours, theirs, type_ in zip(found,
                                   reference.attention_backward(exact(dy), exact(q), exact(k), exact(v), scale, p),
                                   (kind, kind, kind, np.float32), strict=True):
        close(ours, theirs, 2 * bar, type_)


@pytest.mark.parametrize("width, part", [(17, slice(16)), (24, slice(4, 20)), (32, slice(0, 32, 2))])
def test_attention_of_tokens_in_any_place(width, part):
    """If they do not begin at multiples of 16 bytes, or their numbers are apart, they are copied."""
    arrays, laid = [put(draw(2, 1, n, 16), "float16") for n in (20, 35, 35, 20)], []
    for x in arrays:
        laid.append(ops.zeros((*x.shape[:3], width), x.dtype)[..., part])
        laid[-1][...] = x
    found = []
    for q, k, v, dy in (arrays, laid):
        y, kept = ops.attention(q, k, v, None, 0.25)
        found.append([exact(a) for a in (y, *ops.attention_backward(dy, q, k, v, 0.25, kept))])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("queries, keys, key, value", [(20, 35, 16, 32), (49, 49, 32, 128)])
def test_gradients_where_keys_have_a_large_mean(queries, keys, key, value):
    """Each row of ds has the sum 0. Its rounding error must not be multiplied by the large mean of all keys."""
    q, k, v = 0.01 * draw(1, 2, queries, key), 50 + draw(1, 2, keys, key), 50 + draw(1, 2, keys, value)
    q, k, v, dy = (put(a, np.float32) for a in (q, k, v, draw(1, 2, queries, value, seed=1)))
    _, kept = ops.attention(q, k, v, None, 1.0)
    _, p = reference.attention(exact(q), exact(k), exact(v), None, 1.0)
    expected = reference.attention_backward(exact(dy), exact(q), exact(k), exact(v), 1.0, p)
    for ours, theirs, bar in zip(ops.attention_backward(dy, q, k, v, 1.0, kept), expected, (2e-3, 3e-5)):
        assert np.abs(exact(ours) - theirs).max() < bar * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_where_all_scores_are_very_low(dtype):
    """Lower than a float32's exponents reach: the weights of rows that fill up a tile must still be finite. The scores'
    own rounding is a factor of the weights, and larger on tensor cores."""
    kind = type_of(dtype)
    q, k, v, dy = (put(draw(1, 1, n, size), kind) for n, size in ((20, 16), (35, 16), (35, 32), (20, 32)))
    bias = np.full((1, 20, 35), -128.0)  # its quotient by the scale is exact in 16 bits
    _, kept = ops.attention(q, k, v, put(bias, "float32"), 0.25)
    _, p = reference.attention(exact(q), exact(k), exact(v), bias, 0.25)
    for ours, theirs, type_ in zip(ops.attention_backward(dy, q, k, v, 0.25, kept),
                                   reference.attention_backward(exact(dy), exact(q), exact(k), exact(v), 0.25, p),
                                   (kind, kind, kind, np.float32), strict=True):
        close(ours, theirs, 1e-2, type_)


def test_gradients_of_heads_are_merged_without_a_copy():
    """For attention with one set of tokens, and for a shrinking attention's keys and values, they need no copy; others,
    and those of padded sizes, are copied."""
    for queries, keys, key, value in ((20, 20, 16, 32), (9, 20, 16, 64), (20, 20, 8, 24)):
        q, k, v = (put(draw(2, 3, n, size), "float16") for n, size in ((queries, key), (keys, key), (keys, value)))
        y, kept = ops.attention(q, k, v, None, 0.25)
        dq, dk, dv, _ = ops.attention_backward(y, q, k, v, 0.25, kept)
        for parts in ([dq, dk, dv], [dv, dk, dq]) if queries == keys else ([dq], [dk, dv]):
            found = ops.split_heads_backward(parts)
            np.testing.assert_array_equal(exact(found), reference.split_heads_backward([exact(p) for p in parts]))
            same = device.current().address(found) == device.current().address(parts[0])
            assert same == (key == 16 and parts[0] is not dv)


def test_attention_of_scores_far_apart():
    q, k, v = 100 * draw(1, 1, 3, 4), draw(1, 1, 140, 4), draw(1, 1, 140, 4)
    y, _ = ops.attention(*(put(a, np.float32) for a in (q, k, v)), None, 1.0)
    expected = reference.attention(*(exact(put(a, np.float32)) for a in (q, k, v)), None, 1.0)[0]
    assert np.abs(exact(y) - expected).max() < 1e-3
