"""The cpu backend's operations for training, in float32, against the reference operations in float64."""

import inspect
from functools import partial

import numpy as np
import pytest

import levit_np
from levit_np import ops
from levit_np.ops import cpu, reference
from levit_np.ops.cpu import running
from levit_np.ops.cpu.scatter import places

from ..cases import CASES, drawn
from .operation_calls import FAST, LARGE, SMALL, TEXTBOOK, arrays, bn, changed, draw, gap, perform, with_beta

# float32 rounds to 6e-8; errors of sums of a few terms, and of a few thousand.
ROUNDING, LONG_SUMS = 5e-6, 1e-5


@pytest.mark.parametrize("name", ops.PRECISIONS)
def test_every_backend_has_the_same_functions(name):
    backend = ops.backend(name)
    for key, function in vars(reference).items():
        if inspect.isfunction(function) and not key.startswith("_"):
            assert inspect.signature(getattr(backend, key)) == inspect.signature(function), key
            assert getattr(backend, key).__doc__, key
    assert all(hasattr(backend, key) for key in ("add", "multiply", "sum", "copyto", "zeros", "zeros_like"))


def test_copyto_and_sum():
    """With any layout; some need a fallback to NumPy."""
    for target, source in ((np.zeros((5, 7), np.float32), draw(5, 7)), (np.zeros((7, 5), np.float32).T, draw(5, 7)),
                           (np.zeros((5, 7), np.float32), draw(7, 5).T), (np.zeros((5, 7)), draw(5, 7)),
                           (np.zeros((5, 7), np.float32), draw(7))):
        assert cpu.copyto(target, source) is None
        np.testing.assert_array_equal(target, np.broadcast_to(source, (5, 7)))
    with pytest.raises(ValueError, match="read-only"):
        cpu.copyto(np.frombuffer(bytes(4), np.float32), draw(1))
    np.testing.assert_array_equal(cpu.sum(draw(3, 4, 5), (0, 2)), draw(3, 4, 5).sum((0, 2)))


def test_the_kernels_are_used(monkeypatch):
    """Falling back to the reference operations everywhere would pass the other tests."""
    runs, run = [], running.run_with_threads
    monkeypatch.setattr(running, "run_with_threads", lambda *arguments: runs.append(1) or run(*arguments))
    q, k, v, _, scale = SMALL["attention"]
    for name, arguments in [*SMALL.items(), ("attention", (q, k, v, None, scale)),
                            ("copyto", (np.zeros((5, 7), np.float32), draw(5, 7)))]:
        runs.clear()
        getattr(cpu, name.split()[0])(*arguments)
        assert runs, name


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", [cpu, reference], ids=["cpu", "reference"])
def test_every_case(name, backend):
    for seed in range(6):
        case, generator = drawn(name, backend, seed, np.float32)
        exact, _ = drawn(name, reference, seed, np.float32)
        wide = [np.asarray(a, np.float64) for a in case.inputs]
        y = case.forward(*case.inputs)
        dy = np.asarray(generator.standard_normal(np.shape(y)), np.float32)
        assert gap(np.float32(y), exact.forward(*wide)) < ROUNDING
        for ours, theirs in zip(case.backward(dy, *case.inputs), exact.backward(dy.astype(np.float64), *wide),
                                strict=True):
            assert gap(ours, theirs) < 2 * ROUNDING


@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", FAST)
def test_against_float64(name, sizes):
    exact = perform(TEXTBOOK, name, changed(sizes[name], lambda a: a.astype(np.float64)))
    for ours, theirs in zip(perform(cpu, name, sizes[name]), exact, strict=True):
        assert gap(ours, theirs) < LONG_SUMS


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("size, kernel, stride, padding", [
    ((7, 1), 5, 1, 2), ((1, 7), 5, 1, 2), ((2, 1), 7, 1, 3), ((1, 1), 8, 1, 4), ((3, 2), 9, 2, 4), ((1, 1), 3, 5, 3)])
def test_a_kernel_wider_than_the_image(size, kernel, stride, padding, channels):
    x, w = draw(2, channels, *size), draw(4, channels, kernel, kernel)
    dy = draw(*reference.convolution(x, w, stride, padding).shape)
    for name, inputs in (("convolution", (x, w)), ("convolution_backward", (dy, x, w))):
        exact = perform(reference, name, (*(a.astype(np.float64) for a in inputs), stride, padding))
        for ours, theirs in zip(perform(cpu, name, (*inputs, stride, padding)), exact, strict=True):
            assert gap(ours, theirs) < ROUNDING


@pytest.mark.parametrize("name", FAST)
def test_any_layout(name):
    """To the last bit, and inputs are not written to."""
    expected = perform(cpu, name, SMALL[name])
    read_only = lambda a: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape)
    unaligned = lambda a: np.frombuffer(b"\0" + a.tobytes(), np.float32, offset=1).reshape(a.shape)
    strided, reversed_ = (lambda a: np.repeat(a, 2, -1)[..., ::2]), (lambda a: a[::-1].copy()[::-1])
    for layout in (np.asfortranarray, strided, reversed_, read_only):
        arguments = changed(SMALL[name], layout)
        kept = changed(arguments, np.array)
        for ours, same in zip(perform(cpu, name, arguments), expected, strict=True):
            assert np.array_equal(ours, same)
        changed(arguments, lambda a, rest=iter(arrays(kept)): np.testing.assert_array_equal(a, next(rest)))
    for ours, same in zip(perform(cpu, name, changed(SMALL[name], unaligned)), expected, strict=True):
        assert gap(ours, same) < LONG_SUMS


@pytest.mark.parametrize("name", FAST)
def test_other_types_use_the_reference_operations(name):
    for kind in (np.float64, ">f4", np.float16):
        arguments = changed(SMALL[name], lambda a: a.astype(kind))
        for ours, theirs in zip(perform(cpu, name, arguments), perform(TEXTBOOK, name, arguments), strict=True):
            assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


@pytest.mark.parametrize("count", [1, 3])
def test_adamw_writes_where_it_is_told(count):
    """The same bits as new arrays have, into the inputs themselves, into other arrays, and into arrays for which there
    is no kernel."""
    levit_np.set_threads(count)
    for sizes in (SMALL, LARGE):
        parameter, gradient, first, second, *rest = sizes["adamw"]
        expected = cpu.adamw(parameter, gradient, first, second, *rest)
        own = [a.copy() for a in (parameter, first, second)]
        cpu.adamw(own[0], gradient, *own[1:], *rest, out=own)
        others = [np.empty_like(parameter) for _ in range(3)]
        strided = [np.empty((*parameter.shape, 2), np.float32)[..., 0] for _ in range(3)]
        for out in (others, strided):
            given = cpu.adamw(parameter, gradient, first, second, *rest, out=out)
            assert all(a is b for a, b in zip(given, out, strict=True))
        for out in (own, others, strided):
            assert all(np.array_equal(a, b) for a, b in zip(out, expected, strict=True))
    wide = [a.astype(np.float64) for a in (parameter, first, second)]
    exact = reference.adamw(wide[0], gradient, *wide[1:], *rest)
    cpu.adamw(wide[0], gradient, *wide[1:], *rest, out=wide)
    assert all(np.array_equal(a, b) for a, b in zip(wide, exact, strict=True))
    fixed = expected[0].copy()
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        cpu.adamw(parameter, gradient, first, second, *rest, out=[fixed, first.copy(), second.copy()])


@pytest.mark.parametrize("clip, scale", [(None, 1.0), (0.02, 0.5)])
@pytest.mark.parametrize("backend", [reference, cpu])
def test_all_parameters_together(backend, clip, scale):
    """The same as updating one parameter after the other, to the last bit and in place, also with parameters for which
    there is no kernel. With clipping the kernel's norms are summed in another order."""
    levit_np.set_threads(2)
    shapes = [(7,), (5, 3), (4, 3, 2, 2), (300, 40), (6, 4), ()]
    kinds = [np.float32] * 4 + [np.float64, np.float32]
    parameters, gradients = ([np.array(draw(*s, seed=n), k) for s, k in zip(shapes, kinds)] for n in (1, 2))
    gradients[1] = np.asfortranarray(gradients[1])
    moments = [[np.array(np.abs(draw(*s, seed=n)), k) for s, k in zip(shapes, kinds)] for n in (3, 4)]
    decays = [0.1, 0.0, 0.1, 0.0, 0.1, 0.0]
    expected = []
    for p, g, m, v, decay in zip(parameters, gradients, *moments, decays, strict=True):
        g = backend.clip_adaptively(np.asarray(g * g.dtype.type(scale)), p, clip) if clip else g
        expected.append(backend.adamw(p.copy(), g, m.copy(), v.copy(), 3, 1e-2, (0.9, 0.99), 1e-8, decay))
    backend.update_together(parameters, gradients, *moments, decays, 3, 1e-2, (0.9, 0.99), 1e-8, clip, scale)
    same = partial(np.testing.assert_allclose, rtol=2e-6) if clip and backend is cpu else np.testing.assert_array_equal
    for found, wanted in zip(zip(parameters, *moments), expected, strict=True):
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    averages = [np.ones_like(p) for p in parameters]
    backend.average_together(averages, parameters, 0.9)
    assert all(np.array_equal(a, backend.moving_average(np.ones_like(p), p, 0.9)) for a, p in zip(averages, parameters))


@pytest.mark.parametrize("parameter, gradient", [(np.asfortranarray, np.array), (np.array, np.float64),
                                                 (np.array, lambda g: g[:1])])
def test_parameters_without_a_kernel_among_the_others(parameter, gradient):
    """A network keeps the memory order of its state's axes, even Fortran's."""
    first, g = draw(6, 3), gradient(draw(6, 3, seed=1))
    expected, found = ([first.copy(), np.zeros_like(first), np.zeros_like(first)] for _ in "12")
    found[0] = parameter(first)
    reference.adamw(expected[0], g, *expected[1:], 3, 1e-2, decay=0.1, out=expected)
    cpu.update_together(found[:1], [g], *([a] for a in found[1:]), [0.1], 3, 1e-2)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_indices_outside_of_the_bias_table():
    """Indices outside of a bias's table are never written to."""
    dbias, index = draw(2, 12, 12), reference.bias_index(3, 4)
    with pytest.raises(ValueError):
        cpu.gather_bias_backward(dbias, index - 1, 12)
    with pytest.raises(IndexError):
        cpu.gather_bias(draw(2, 11), index)
    for other in (index + 1, index[:, ::-1]):  # a longer table, as the reference allows; another layout
        np.testing.assert_allclose(cpu.gather_bias_backward(dbias, other, 12),
                                   reference.gather_bias_backward(dbias, other, 12), atol=1e-6)


def test_which_index_arrays_the_kernels_accept():
    """The kernels themselves check nothing."""
    index = np.array([[0, 3], [2, 1]])
    odd = np.zeros(index.nbytes + 4, np.uint8)[4:].view(np.int64)
    assert places(index, 4) and places(index, 5) and odd.ctypes.data % 8
    for other in (index - 1, index + 1, index.T, index[:0], index.astype(np.int32), index.astype(">i8"), index.tolist(),
                  odd):
        assert not places(other, 4)


def test_empty_arrays():
    """Without images: the reference's shapes, and gradients of 0. (Batch statistics need two values; BN refuses.)"""
    x, channels = np.empty((0, 4, 3), np.float32), (draw(3), draw(3, seed=1))
    spread = draw(3) ** 2 + np.float32(0.1)
    image = np.empty((0, 3, 9, 6), np.float32)
    heads = [np.empty((0, 2, tokens, size), np.float32) for tokens, size in ((4, 5), (9, 5), (9, 6))]
    dy, p = np.empty((0, 2, 4, 6), np.float32), np.empty((0, 2, 4, 9), np.float32)
    for name, arguments in {
            "linear": (x, draw(7, 3)), "linear_backward": (np.empty((0, 4, 7), np.float32), x, draw(7, 3)),
            "convolution": (image, draw(4, 3, 3, 3), 2, 1), "attention": (*heads, draw(2, 4, 9), 0.3),
            "convolution_backward": (np.empty((0, 4, 5, 3), np.float32), image, draw(4, 3, 3, 3), 2, 1),
            "attention_backward": (dy, *heads, 0.3, p), "normalize": (x, *channels, channels[0], spread, 1e-5),
            "normalize_backward": (x, x, *channels, spread, 1e-5),
            "batch_norm_backward": (x, x, channels[0], reference.Statistics(channels[1], spread, 0), 1e-5),
            "batch_norm_hardswish_backward": (x, x, *channels, reference.Statistics(channels[1], spread, 0), 1e-5),
            "hardswish": (x,), "silu": (x,), "hardswish_backward": (x, x), "silu_backward": (x, x),
            "adamw": (x, x, x, x, 7, 1e-3)}.items():
        ours, theirs = perform(cpu, name, arguments), perform(TEXTBOOK, name, arguments)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)), name


@pytest.mark.parametrize("name, arguments", [
    ("linear", (draw(4, 3), draw(5, 4))), ("linear_backward", (draw(4, 5), draw(3, 3), draw(5, 3))),
    ("linear_backward", (draw(4, 6), draw(4, 3), draw(5, 3))),
    ("convolution", (draw(1, 3, 8, 8), draw(4, 2, 3, 3), 2, 1)),
    ("convolution_backward", (draw(1, 3, 4, 4), draw(1, 3, 8, 8), draw(4, 3, 3, 3), 2, 1)),
    ("attention", (draw(1, 2, 3, 4), draw(1, 2, 5, 3), draw(1, 2, 5, 4), None, 1.0)),
    ("attention", (draw(1, 2, 3, 4), draw(1, 2, 5, 4), draw(1, 2, 6, 4), None, 1.0)),
    ("gather_bias_backward", (draw(2, 4, 6), np.zeros((4, 8), np.int64), 9)),
    ("batch_norm", (draw(4, 3), draw(2), draw(3), 1e-5)), ("hardswish_backward", (draw(4, 3), draw(4, 2))),
    ("batch_norm_backward", (draw(4, 2), *bn((0, draw(4, 3), draw(3)))[1:], 1e-5)),
    ("batch_norm_hardswish", (draw(4, 3), draw(3), draw(2), 1e-5)),
    ("batch_norm_hardswish_backward", with_beta((draw(4, 3), *bn((0, draw(4, 3), draw(3)))[1:]), draw(2), 1e-5))])
def test_shapes_that_do_not_fit(name, arguments):
    """The kernels would read outside of the arrays."""
    with pytest.raises(ValueError):
        getattr(cpu, name)(*arguments)


Q, K, V, BIAS = draw(2, 3, 4, 5), draw(2, 3, 6, 5), draw(2, 3, 6, 7), draw(3, 4, 6)
P = reference.attention(Q, K, V, BIAS, 0.3)[1]
X, C, ONE = draw(4, 3), draw(3), draw(1)
WIDE, S = X.astype(np.float64), reference.Statistics(C, C**2, 4)


@pytest.mark.parametrize("name, arguments", [
    ("attention", (Q[:1], K, V, BIAS, 0.3)), ("attention", (Q[:, :1], K, V, BIAS, 0.3)),
    ("attention", (Q, K[:1], V[:1], BIAS, 0.3)), ("attention", (Q, K, V[:1], BIAS, 0.3)),
    ("attention", (Q[0], K[0], V[0], BIAS, 0.3)), ("attention", (Q, K, V, BIAS[:1], 0.3)),
    ("attention", (Q, K, V, BIAS[:, :1], 0.3)), ("attention", (Q, K, V, BIAS[None], 0.3)),
    ("attention", (Q, K, V, BIAS.astype(np.float64), 0.3)),
    ("attention_backward", (draw(1, 3, 4, 7), Q, K, V, 0.3, P)),
    ("attention_backward", (draw(2, 3, 4, 7), Q, K[:1], V[:1], 0.3, P)),
    ("attention_backward", (draw(2, 3, 4, 7), Q, K, V, 0.3, P[:1])),
    ("normalize", (X, ONE, C, C, C**2, 1e-5)), ("normalize", (X, C, C, C, ONE**2, 1e-5)),
    ("normalize_backward", (X[:1], X, C, C, C**2, 1e-5)), ("normalize_backward", (X, X, ONE, C, C**2, 1e-5)),
    ("batch_norm", (X, ONE, C, 1e-5)), ("batch_norm_hardswish", (X, C, ONE, 1e-5)),
    *(("batch_norm_backward", (dy, X, gamma, S, 1e-5)) for dy, gamma in ((X[:1], C), (X, ONE), (WIDE, C))),
    *(("batch_norm_hardswish_backward", (dy, X, gamma, C, S, 1e-5)) for dy, gamma in ((X[:1], C), (X, ONE), (WIDE, C))),
    ("normalize_backward", (WIDE, X, C, C, C**2, 1e-5)), ("hardswish_backward", (WIDE, X)), ("add", (X, WIDE)),
    ("linear_backward", (WIDE, draw(4, 2), draw(3, 2))), ("adamw", (X, WIDE, X, X**2, 3, 1e-3)),
    ("attention_backward", (draw(2, 3, 4, 7).astype(np.float64), Q, K, V, 0.3, P)),
    ("update_running", ((C, C**2), reference.Statistics(ONE, ONE**2, 4), 0.1)),
    ("update_running", ((ONE, C**2), reference.Statistics(C, C**2, 4), 0.1)),
    ("update_running", ((C, C**2), reference.Statistics(C, ONE**2, 4), 0.1)),
    ("adamw", (X, X[:1], X, X**2, 3, 1e-3)), ("adamw", (X, X, X, X[:1] ** 2, 3, 1e-3)),
    ("hardswish_backward", (X[:1], X)), ("silu_backward", (X, X[:1])), ("add", (X, X[:1])), ("add", (X, C)),
    *(("multiply", (X, factor)) for factor in (X, X[:1], X[:, :1].astype(np.float64), C, ONE[0])),
    ("multiply", (X.astype(np.float64), X[:, :1])), ("multiply", (draw(3, 3), C)), ("multiply", (C, C)),
    ("gather_bias_backward", (BIAS, np.zeros((4, 6), np.int32), 9)),
    *(("gather_bias", (table, np.full((4, 6), place, dtype))) for table, place, dtype in (
        (WIDE, 1, np.int64), (X, 1, np.int32), (X, -1, np.int64))),
    ("subsample", (draw(2, 15, 4).astype(np.float64), 5, 3, 2)),
    ("subsample_backward", (draw(2, 6, 4).astype(np.float64), 5, 3, 2))])
def test_broadcasting_and_mixed_types_use_the_reference_operations(name, arguments):
    """The kernels expect one number for each element, of one type, and would read beyond shorter arrays."""
    for ours, theirs in zip(perform(cpu, name, arguments), perform(TEXTBOOK, name, arguments), strict=True):
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_a_bias_or_none():
    q, k, v, _, scale = SMALL["attention"]
    x, w = SMALL["linear"]
    for ours, theirs in zip(cpu.attention(q, k, v, None, scale), reference.attention(q, k, v, None, scale)):
        assert gap(ours, theirs) < ROUNDING
    assert gap(cpu.linear(x, w, draw(7)), reference.linear(x, w, draw(7))) < ROUNDING


def test_heads_are_split_and_merged():
    """attention_backward writes its results where split_heads_backward needs them; other arrays are copied there."""
    x = draw(2, 9, 3 * (16 + 16 + 32))
    q, k, v = cpu.split_heads(x, 3, (16, 16, 32))
    y, p = cpu.attention(q, k, v, None, 0.25)
    *parts, _ = cpu.attention_backward(draw(*y.shape), q, k, v, 0.25, p)
    together = cpu.split_heads_backward(parts)
    assert np.array_equal(together, reference.split_heads_backward(parts)) and np.shares_memory(together, parts[0])
    for some in (parts[::-1], parts[1:], parts[:1], [p.copy() for p in parts], [parts[0], parts[0], parts[2]]):
        assert np.array_equal(cpu.split_heads_backward(some), reference.split_heads_backward(some))


@pytest.mark.parametrize("shift, scale", [(0, 1), (1000, 1), (-3, 1e-3)])
def test_statistics_are_as_good_as_two_passes(shift, scale):
    """float32 holds a mean far from 0 with a relative error of 6e-8; the variance must not suffer from it."""
    x = (shift + scale * draw(5000, 35)).astype(np.float32)
    x[:20] += 5 * np.float32(scale)  # the first rows are unlike the others
    ours, exact = cpu.batch_statistics(x), reference.batch_statistics(x.astype(np.float64))
    assert ours.count == exact.count and np.abs(ours.mean - exact.mean).max() < 1e-7 * max(abs(shift), scale)
    assert np.abs(ours.variance / exact.variance - 1).max() < 2e-6
    assert (cpu.batch_statistics(np.full((77, 5), 0.1, np.float32)).variance < 1e-15).all()


def test_a_nan_stays_a_nan():
    """And no other row becomes NaN."""
    for name in ("hardswish", "silu"):
        x = draw(3, 40)
        x[1, 7] = np.nan
        for y in (getattr(cpu, name)(x), getattr(cpu, f"{name}_backward")(draw(3, 40), x)):
            assert np.isnan(y).sum() == 1 and np.isnan(y[1, 7])
    x = draw(40, 20)
    x[3, 5] = np.nan
    y = cpu.linear(x, draw(33, 20))
    assert np.isnan(y[3]).all() and np.isnan(y).sum() == 33
    assert np.isnan(cpu.linear_backward(draw(40, 33), x, draw(33, 20))[1][:, 5]).all()
    y, statistics = cpu.batch_norm(x, draw(20), draw(20), 1e-5)
    assert np.isnan(y[:, 5]).all() and np.isnan(y).sum() == 40 and np.isnan(statistics.variance).sum() == 1
    q, k, v, bias, scale = (a.copy() if isinstance(a, np.ndarray) else a for a in LARGE["attention"])
    q[0, 1, 2, 3] = np.nan
    y, p = cpu.attention(q, k, v, bias, scale)
    assert np.isnan(y[0, 1, 2]).all() and np.isnan(p[0, 1, 2]).all()
    assert np.isnan(y).sum() == y.shape[-1] and np.isnan(p).sum() == p.shape[-1]
    image = draw(2, 3, 8, 8)
    image[0, 1, 4, 4] = np.nan
    y = cpu.convolution(image, draw(4, 3, 3, 3), 2, 1)
    assert np.isnan(y[0, :, 2, 2]).all() and np.isnan(y).sum() == 4


def test_attention_of_scores_far_apart():
    q, k, v = 100 * draw(1, 1, 3, 4), draw(1, 1, 40, 4), draw(1, 1, 40, 4)
    for ours, theirs in zip(cpu.attention(q, k, v, None, 1.0), reference.attention(
            *(a.astype(np.float64) for a in (q, k, v)), None, 1.0), strict=True):
        assert np.abs(ours - theirs).max() < 1e-4  # scores of several hundred have an absolute error of 3e-5
