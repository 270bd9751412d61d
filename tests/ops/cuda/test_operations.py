"""The GPU's operations against the reference operations in float64, from the same numbers: every case, odd sizes, three
types."""

import numpy as np
import pytest

from levit_np.errors import BackendError
from levit_np.ops import cuda as ops
from levit_np.ops import reference
from levit_np.ops.cuda import device, geometry, operands, optimizer
from levit_np.ops.cuda.geometry import WARPGROUP_TILES

from ..cases import CASES
from .rounded import ROUNDING, close, draw, exact, put, require_hopper, type_of

pytestmark = pytest.mark.usefixtures("on")


def case(name, backend, seed, dtype):
    """A case of cases.py with arrays on the device, rounded to `dtype`, or with the same numbers on the host in
    float64."""
    generator = np.random.default_rng(seed)

    def array(*shape):
        x = generator.standard_normal(shape).astype(dtype)
        return ops.asarray(x) if backend is ops else x.astype(np.float64)

    return CASES[name](backend, lambda low=1, high=4: int(generator.integers(low, high + 1)), array), generator


@pytest.mark.parametrize("name", CASES)
def test_every_case(name):
    for seed in range(4):
        (ours, generator), (theirs, _) = (case(name, backend, seed, np.float32) for backend in (ops, reference))
        kept = [ops.to_host(x).copy() for x in ours.inputs]
        expected = theirs.forward(*theirs.inputs)
        close(ops.asarray(ours.forward(*ours.inputs)), expected, ROUNDING["float32"], np.float32)
        dy = generator.standard_normal(np.shape(expected)).astype(np.float32)
        for a, b in zip(ours.backward(ops.asarray(dy), *ours.inputs),
                        theirs.backward(dy.astype(np.float64), *theirs.inputs), strict=True):
            close(a, b, 2 * ROUNDING["float32"], np.float32)
        for x, before in zip(ours.inputs, kept):
            np.testing.assert_array_equal(ops.to_host(x), before)  # inputs are not written to


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("rows, channels, outputs",
                         [(1, 1, 1), (5, 3, 7), (77, 130, 45), (200, 72, 96), (300, 64, 200)])
def test_linear(rows, channels, outputs, dtype):
    kind, bar = type_of(dtype), ROUNDING[dtype]
    x, dy = put(draw(1, rows, channels), kind), put(draw(1, rows, outputs), kind)
    w, b = put(draw(outputs, channels), "float32"), put(draw(outputs), "float32")
    close(ops.linear(x, w, b), reference.linear(exact(x), exact(w), exact(b)), bar, kind)
    dx, dw = ops.linear_backward(dy, x, w)
    expected = reference.linear_backward(exact(dy), exact(x), exact(w))
    close(dx, expected[0], bar, kind)
    close(dw, expected[1], ROUNDING["float32"], np.float32)
    close(ops.bias_backward(dy), reference.bias_backward(exact(dy)), ROUNDING["float32"], np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernel, stride, padding, shape, outputs", [
    (3, 2, 1, (2, 3, 9, 6), 5), (3, 2, 1, (1, 8, 16, 17), 24), (16, 16, 0, (2, 3, 33, 16), 7),
    (4, 3, 2, (2, 4, 7, 5), 3), (3, 2, 1, (2, 1, 8, 9), 8),
    (1, 2, 0, (1, 2, 5, 5), 3), (3, 1, 1, (2, 16, 6, 7), 16), (3, 2, 1, (1, 32, 28, 28), 64)])
def test_convolution(kernel, stride, padding, shape, outputs, dtype):
    kind, bar = type_of(dtype), ROUNDING[dtype]
    x, w = put(draw(*shape), kind), put(draw(outputs, shape[1], kernel, kernel), "float32")
    expected = reference.convolution(exact(x), exact(w), stride, padding)
    close(ops.convolution(x, w, stride, padding), expected, bar, kind)
    dy = put(draw(*expected.shape), kind)
    dx, dw = ops.convolution_backward(dy, x, w, stride, padding)
    dx_expected, dw_expected = reference.convolution_backward(exact(dy), exact(x), exact(w), stride, padding)
    close(dx, dx_expected, bar, kind)
    close(dw, dw_expected, ROUNDING["float32"], np.float32)
    without, again = ops.convolution_backward(dy, x, w, stride, padding, input_gradient=False)
    assert without is None
    close(again, dw_expected, ROUNDING["float32"], np.float32)
    in_blocks = (kernel, stride, padding) == (3, 2, 1) and 2 * shape[1] <= geometry.chunk_of(operands.element_of(x))
    assert in_blocks or np.array_equal(exact(again), exact(dw))


# bfloat16 differs from float16 in one instruction, so in the fast suite it has one tile.
@pytest.mark.parametrize("tile, dtype", [
    pytest.param(tile, dtype, marks=pytest.mark.slow if dtype == "bfloat16" and tile != WARPGROUP_TILES[0] else ())
    for tile in WARPGROUP_TILES for dtype in ("float16", "bfloat16")])
def test_products_by_warpgroups(tile, dtype, on, monkeypatch):
    """With Hopper's instructions, for sizes that no tile divides, with one step and with more steps than stages."""
    require_hopper(on, monkeypatch)
    kind, bar = type_of(dtype), ROUNDING[dtype]
    monkeypatch.setattr(geometry, "TILES", tuple(other._replace(cost=1e9) for other in geometry.TILES))
    monkeypatch.setattr(geometry, "WARPGROUP_TILES", (tile,))
    monkeypatch.setattr(geometry, "PROCESSORS", 1)  # so that a block has several tiles of columns
    assert geometry.tile_for(513, 392, geometry.tiles_of("float16", True)) == tile
    assert (geometry.cut_for(tile, 513, 392, 200, "float16").across > 1) == (tile.columns == 128)
    for rows, channels, outputs in ((131, 72, 136), (1, 64, 8), (257, 456, 40), (513, 200, 392)):
        x, (w, b) = put(draw(rows, channels), kind), (put(draw(outputs, *n), "float32") for n in ((channels,), ()))
        close(ops.linear(x, w, b), reference.linear(exact(x), exact(w), exact(b)), bar, kind)
    x, w = put(draw(2, 24, 17, 15), kind), put(draw(40, 24, 3, 3), "float32")
    close(ops.convolution(x, w, 2, 1), reference.convolution(exact(x), exact(w), 2, 1), bar, kind)


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tile", [*(tile for tile in WARPGROUP_TILES if tile.columns % 64 == 0), geometry.FLAT])
def test_gradients_by_warpgroups(tile, dtype, on, monkeypatch):
    """The same for products whose terms are in different rows of an operand, in one part and in several."""
    require_hopper(on, monkeypatch)
    kind, bar = type_of(dtype), ROUNDING[dtype]
    monkeypatch.setattr(geometry, "TILES", tuple(other._replace(cost=1e9) for other in geometry.TILES))
    monkeypatch.setattr(geometry, "WARPGROUP_TILES", (tile,))
    monkeypatch.setattr(geometry, "FLAT", tile)
    monkeypatch.setattr(geometry, "SQUARE", geometry.SQUARE._replace(cost=1e9))
    for processors, rows, channels, outputs in ((1, 513, 392, 200), (8, 1100, 72, 45), (8, 1030, 130, 64)):
        monkeypatch.setattr(geometry, "PROCESSORS", processors)
        assert geometry.parts_for(outputs, channels, rows, "float16", True)[0] == tile
        x, dy = put(draw(1, rows, channels), kind), put(draw(1, rows, outputs), kind)
        w = put(draw(outputs, channels), "float32")
        dx, dw = ops.linear_backward(dy, x, w)
        expected = reference.linear_backward(exact(dy), exact(x), exact(w))
        close(dx, expected[0], bar, kind)
        close(dw, expected[1], ROUNDING["float32"], np.float32)
    for kernel, stride, padding, shape, outputs in ((3, 2, 1, (2, 24, 33, 35), 40), (4, 3, 2, (1, 64, 9, 8), 72)):
        x, w = put(draw(*shape), kind), put(draw(outputs, shape[1], kernel, kernel), "float32")
        dy = put(draw(*reference.convolution(exact(x), exact(w), stride, padding).shape), kind)
        dx, dw = ops.convolution_backward(dy, x, w, stride, padding)
        expected = reference.convolution_backward(exact(dy), exact(x), exact(w), stride, padding)
        close(dx, expected[0], bar, kind)
        close(dw, expected[1], ROUNDING["float32"], np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape, axis",
                         [((6, 5), -1), ((3, 700, 24), -1), ((2, 16, 9, 7), 1), ((3, 5, 4, 7), 1), ((2, 64), -1)])
def test_batch_norm(shape, axis, dtype):
    kind, bar, channels = type_of(dtype), ROUNDING[dtype], shape[axis]
    x, dy = put(3 * draw(*shape) + 1, kind), put(draw(*shape, seed=1), kind)
    gamma, beta = put(draw(channels), "float32"), put(draw(channels, seed=1), "float32")
    y, statistics = ops.batch_norm(x, gamma, beta, 1e-3, axis)
    expected, theirs = reference.batch_norm(exact(x), exact(gamma), exact(beta), 1e-3, axis)
    close(y, expected, bar, kind)
    assert statistics.count == theirs.count
    for a, b in zip(statistics[:2], theirs[:2]):
        close(a, b, ROUNDING["float32"], np.float32)
    for a, b, type_ in zip(ops.batch_norm_backward(dy, x, gamma, statistics, 1e-3, axis),
                           reference.batch_norm_backward(exact(dy), exact(x), exact(gamma), theirs, 1e-3, axis),
                           (kind, np.float32, np.float32)):
        close(a, b, 2 * bar if type_ == kind else 2e-5, type_)
    y, statistics = ops.batch_norm_hardswish(x, gamma, beta, 1e-3, axis)
    close(y, reference.hardswish(expected), bar, kind)
    exactly = reference.hardswish_backward(exact(dy), expected), exact(x), exact(gamma), theirs, 1e-3, axis
    for a, b, type_ in zip(ops.batch_norm_hardswish_backward(dy, x, gamma, beta, statistics, 1e-3, axis),
                           reference.batch_norm_backward(*exactly), (kind, np.float32, np.float32)):
        close(a, b, 2 * bar if type_ == kind else 2e-5, type_)
    mean, variance = put(draw(channels, seed=2), "float32"), put(draw(channels, seed=3) ** 2 + 0.1, "float32")
    close(ops.normalize(x, gamma, beta, mean, variance, 1e-3, axis),
          reference.normalize(*map(exact, (x, gamma, beta, mean, variance)), 1e-3, axis), bar, kind)
    for a, b, type_ in zip(ops.normalize_backward(dy, x, gamma, mean, variance, 1e-3, axis),
                           reference.normalize_backward(*map(exact, (dy, x, gamma, mean, variance)), 1e-3, axis),
                           (kind, np.float32, np.float32)):
        close(a, b, bar if type_ == kind else 2e-5, type_)
    running = put(draw(channels), "float32"), put(draw(channels) ** 2, "float32")
    for a, b in zip(ops.update_running(running, statistics, 0.1),
                    reference.update_running(tuple(map(exact, running)), theirs, 0.1)):
        close(a, b, ROUNDING["float32"], np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("spoilt", range(2))
def test_with_fixed_statistics_nan_and_infinity_stay_in_their_row(spoilt, bad):
    """Then dx = dy gamma/σ; the general formula's sums over all rows, multiplied by 0, would make every row NaN."""
    dy_and_x = draw(6, 16), draw(6, 16, seed=1)
    dy_and_x[spoilt][2, 3] = bad
    arrays = [put(a, np.float32) for a in (*dy_and_x, draw(16), draw(16, seed=2), draw(16, seed=3) ** 2 + 0.1)]
    with np.errstate(invalid="ignore"):
        expected = reference.normalize_backward(*map(exact, arrays), 1e-3)
    for ours, theirs in zip(ops.normalize_backward(*arrays, 1e-3), expected, strict=True):
        np.testing.assert_array_equal(np.isfinite(exact(ours)), np.isfinite(theirs))


@pytest.mark.parametrize("dtype", ROUNDING)
def test_sums(dtype):
    """In the kernel's layout and in others, and of a float32 parameter, with and without the same shape."""
    kind = type_of(dtype)
    a, b, wide = put(draw(3, 7, 37), kind), put(draw(3, 7, 37, seed=1), kind), put(draw(3, 7, 37, seed=1), "float32")
    for x, y in ((a, b), (a[0], b[0]), (a[:, :0], b[:, :0]), (a.transpose(2, 0, 1), b.transpose(2, 0, 1)), (a, b[0]),
                 (a[2, 6, 1:], b[2, 6, 1:]), (a, wide), (a, wide[0])):
        close(ops.add(x, y), exact(x) + exact(y), ROUNDING[dtype], kind)
    close(ops.sum(a, (0, 2)), exact(a).sum((0, 2)), ROUNDING["float32"], np.float32)


@pytest.mark.parametrize("shift, scale", [(0, 1), (1000, 1), (-3, 1e-3)])
def test_statistics_are_as_good_as_two_passes(shift, scale):
    """float32 holds a mean far from 0 with a relative error of 6e-8; the variance must not suffer from it."""
    x = put(shift + scale * draw(5000, 36), "float32")
    ours, theirs = ops.batch_statistics(x), reference.batch_statistics(exact(x))
    assert np.abs(exact(ours.mean) - theirs.mean).max() < 1e-7 * max(abs(shift), scale)
    # Distances are taken to a mean of the block, which itself is off by 1e-7 of the shift.
    assert np.abs(exact(ours.variance) / theirs.variance - 1).max() < 1e-5


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", ["layer_norm", "hardswish", "silu", "average_pool", "softmax"])
def test_other_operations_in_every_type(name, dtype):
    kind, bar = type_of(dtype), ROUNDING[dtype]
    x, dy, gamma, beta = put(3 * draw(3, 37, 11), kind), put(draw(3, 37, 11, seed=1), kind), *(
        put(draw(11, seed=n), "float32") for n in (2, 3))
    if name == "layer_norm":
        close(ops.layer_norm(x, gamma, beta, 1e-5), reference.layer_norm(*map(exact, (x, gamma, beta)), 1e-5), bar,
              kind)
        for a, b, type_ in zip(ops.layer_norm_backward(dy, x, gamma, 1e-5), reference.layer_norm_backward(
                *map(exact, (dy, x, gamma)), 1e-5), (kind, np.float32, np.float32)):
            close(a, b, bar, type_)
    elif name == "average_pool":
        close(ops.average_pool(x), reference.average_pool(exact(x)), bar, kind)
        close(ops.average_pool_backward(dy[:, 0], 5), reference.average_pool_backward(exact(dy[:, 0]), 5), bar, kind)
    elif name == "softmax":
        close(ops.softmax(x), reference.softmax(exact(x)), bar, kind)
    else:
        close(getattr(ops, name)(x), getattr(reference, name)(exact(x)), bar, kind)
        back = f"{name}_backward"
        close(getattr(ops, back)(dy, x), getattr(reference, back)(exact(dy), exact(x)), bar, kind)
        images = put(draw(2, 5, 4, 3), kind).transpose(0, 3, 1, 2)
        found = getattr(ops, name)(images)
        close(found, getattr(reference, name)(exact(images)), bar, kind)
        assert found.strides == images.strides  # still channels-last


def test_losses_of_halves_are_float32():
    logits, teacher = put(draw(5, 7), np.float16), put(draw(5, 7, seed=1), np.float16)
    targets = ops.targets_of(np.array([0, 6, 3, 3, 1]), 7, 0.1, np.float32)
    close(targets, reference.targets_of(np.array([0, 6, 3, 3, 1]), 7, 0.1), 1e-6, np.float32)
    for name, second in (("cross_entropy", targets), ("soft_distillation", teacher), ("hard_distillation", teacher)):
        more = (3,) if name == "soft_distillation" else ()
        for function in (name, f"{name}_backward"):
            close(ops.asarray(getattr(ops, function)(logits, second, *more)),
                  getattr(reference, function)(exact(logits), exact(second), *more), 1e-5, np.float32)


def test_gradients_of_another_type_are_rounded():
    """Such as a loss's, in float32, for 16-bit activations."""
    x, w, images, kernel = (put(draw(*shape), kind) for shape, kind in (
        ((4, 8), "float16"), ((8, 8), "float32"), ((2, 8, 5, 4), "float16"), ((8, 8, 3, 3), "float32")))
    mean, (_, kept) = put(draw(8), "float32"), ops.attention(images, images, images, None, 0.5)
    for backward, shape in ((lambda dy: ops.linear_backward(dy, x, w), x.shape),
                            (lambda dy: ops.convolution_backward(dy, images, kernel, 1, 1), images.shape),
                            (lambda dy: [ops.hardswish_backward(dy, x), ops.silu_backward(dy, x)], x.shape),
                            (lambda dy: ops.normalize_backward(dy, x, mean, mean, mean**2, 1e-3), x.shape),
                            (lambda dy: ops.layer_norm_backward(dy, x, mean, 1e-3)[:1], x.shape),
                            (lambda dy: ops.attention_backward(dy, images, images, images, 0.5, kept), images.shape)):
        dy = put(draw(*shape, seed=1), "float32")
        for ours, theirs in zip(backward(dy), backward(dy.astype("float16")), strict=True):
            np.testing.assert_array_equal(exact(ours), exact(theirs))


def test_any_layout_and_offset():
    """Strided, in Fortran's order, and a view at any offset: the result depends only on the numbers."""
    x, w = put(draw(6, 40), np.float32), put(draw(24, 40), np.float32)
    expected = ops.to_host(ops.linear(x, w))
    wide = ops.zeros((6, 81), np.float32)
    wide[:, 1::2] = x
    longer = ops.zeros((7, 40), np.float32).reshape(-1)
    longer[3:243] = x.reshape(-1)
    for same in (wide[:, 1::2], x.T.copy().T, longer[3:243].reshape(6, 40), x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(ops.to_host(ops.linear(same, w)), expected)


def test_empty_arrays():
    nothing = ops.zeros((0, 5, 3), np.float32)
    w = put(draw(7, 3), np.float32)
    assert ops.linear(nothing, w).shape == (0, 5, 7) and ops.hardswish(nothing).shape == (0, 5, 3)
    dx, dw = ops.linear_backward(ops.zeros((0, 5, 7), np.float32), nothing, w)
    assert dx.shape == (0, 5, 3) and not ops.to_host(dw).any() and dw.shape == (7, 3)
    images, kernel = ops.zeros((0, 3, 8, 8), np.float32), put(draw(4, 3, 3, 3), np.float32)
    assert ops.convolution(images, kernel, 2, 1).shape == (0, 4, 4, 4)
    dx, dw = ops.convolution_backward(ops.zeros((0, 4, 4, 4), np.float32), images, kernel, 2, 1)
    assert dx.shape == images.shape and dw.shape == kernel.shape


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_nan_stays_in_its_row(dtype):
    x = draw(70, 40)
    x[3, 5] = np.nan
    y = exact(ops.linear(put(x, dtype), put(draw(33, 40), "float32")))
    assert np.isnan(y[3]).all() and np.isnan(y).sum() == 33
    q, k, v = draw(2, 1, 20, 16), draw(2, 1, 70, 16), draw(2, 1, 70, 32)
    q[0, 0, 2, 3] = np.nan
    y = exact(ops.attention(*(put(a, dtype) for a in (q, k, v)), None, 0.25)[0])
    assert np.isnan(y[0, 0, 2]).all() and np.isnan(y).sum() == 32
    for channels, most in (8, 4), (3, 16):  # with three channels, perhaps the whole block of 2×2 pixels
        image = draw(2, channels, 8, 8)
        image[0, 1, 4, 4] = np.nan
        y = exact(ops.convolution(put(image, dtype), put(draw(4, channels, 3, 3), "float32"), 2, 1))
        assert np.isnan(y[0, :, 2, 2]).all() and np.isnan(y[0]).sum() <= most and not np.isnan(y[1]).any()


def test_another_type_is_refused_by_name():
    with pytest.raises(BackendError, match="expected arrays of one type of float32, float16, bfloat16, found float64"):
        ops.linear(put(draw(3, 4), np.float64), put(draw(2, 4), np.float32))


def test_all_parameters_in_one_launch():
    """Clipping and AdamW agree with the reference's, one array at a time; so does the moving average. One array is 0 at
    the beginning, as the last gamma of a residual branch is: it moves all the same."""
    shapes, steps = [(7,), (5, 3), (4, 3, 2, 2), (3, 40), (1,), (), (2, 9)], 3
    parameters = [put(draw(*s, seed=1), np.float32) for s in shapes[:-1]] + [ops.zeros(shapes[-1], np.float32)]
    theirs = [exact(p) for p in parameters]
    moments = [[ops.zeros_like(p) for p in parameters] for _ in "12"]
    expected = [[np.zeros(s) for s in shapes] for _ in "12"]
    decays = [0.1, 0, 0.1, 0, 0, 0.1, 0.1]
    for step in range(1, steps + 1):
        gradients = [put(draw(*s, seed=10 + step), np.float32) for s in shapes]
        ops.update_together(parameters, gradients, *moments, decays, step, 0.01, (0.9, 0.99), 1e-8, 0.02, 0.5)
        for i, gradient in enumerate(gradients):
            clipped = reference.clip_adaptively(0.5 * exact(gradient), theirs[i], 0.02)
            theirs[i], expected[0][i], expected[1][i] = reference.adamw(
                theirs[i], clipped, expected[0][i], expected[1][i], step, 0.01, (0.9, 0.99), 1e-8, decays[i])
    for ours, other in zip((*parameters, *moments[0], *moments[1]), (*theirs, *expected[0], *expected[1])):
        close(ours, other, 1e-5, np.float32)
    averages = [put(draw(*s, seed=5), np.float32) for s in shapes]
    before = [exact(a) for a in averages]
    ops.average_together(averages, parameters, 0.9)
    for ours, average, value in zip(averages, before, parameters):
        close(ours, reference.moving_average(average, exact(value), 0.9), 1e-6, np.float32)


def test_nothing_is_written_after_the_last_parameter():
    """A block has warps for eight units, here for three more than there are."""
    kept = [draw(40, seed=n).astype(np.float32) for n in range(5)]
    longer = [put(values, np.float32) for values in kept]
    parameter, gradient, first, second, average = (array[:15].reshape(5, 3) for array in longer)
    ops.update_together([parameter], [gradient], [first], [second], [0.1], 1, 0.01, clip=0.02)
    ops.average_together([average], [parameter], 0.9)
    for array, values in zip(longer, kept):
        np.testing.assert_array_equal(ops.to_host(array)[15:], values[15:])


def test_one_minus_decay_is_computed_in_double():
    """In float32, 1 - 0.99996 has a relative error of 1.3e-4: the average would forget so much sooner or later."""
    gradient = put(draw(5, 3), np.float32)
    parameter, first, second, average = (ops.zeros((5, 3), np.float32) for _ in "1234")
    ops.update_together([parameter], [gradient], [first], [second], [0], 1, 0.01, (0.99996, 0.9999))
    ops.average_together([average], [gradient], 0.99996)
    g = exact(gradient)
    for ours, expected in (first, 4e-5 * g), (second, 1e-4 * g**2), (average, 4e-5 * g):
        np.testing.assert_allclose(exact(ours), expected, rtol=3e-7)  # five roundings


def test_the_table_of_addresses_is_reused():
    """As long as arrays and decays are the same; not for other arrays in the same place."""
    first, second = (put(draw(5, 3, seed=n), np.float32) for n in "12")
    table = optimizer._table("a kernel", [first], [second], decays=[0.1])
    assert optimizer._table("a kernel", [first], [second], decays=[0.1]) is table
    for groups, decays in (([first], [first]), [0.1]), (([first], [second]), [0.2]), (([second], [first]), [0.1]):
        other = optimizer._table("a kernel", *groups, decays=decays)
        assert other is not table
        assert [int(a) for a in exact(other[0]).ravel()] == [device.current().address(g[0]) for g in groups]


def test_gradients_summed_over_ranks_are_read_without_copies(monkeypatch):
    """There they are slices of a bucket; copying each would take some hundred kernels a step."""
    bucket, shapes = put(draw(30), np.float32), [(3,), (5, 3), (2, 2)]
    starts = np.cumsum([1, *(int(np.prod(s)) for s in shapes)])
    gradients = [bucket[start : start + int(np.prod(s))].reshape(s) for start, s in zip(starts, shapes)]
    parameters = [put(draw(*s, seed=1), np.float32) for s in shapes]
    moments = [[ops.zeros_like(p) for p in parameters] for _ in "12"]
    expected = [reference.adamw(*map(exact, (p, g, m, v)), 1, 0.01)[0]
                for p, g, m, v in zip(parameters, gradients, *moments)]
    for name in ("ascontiguousarray", "copy"):
        monkeypatch.setattr(device.arrays(), name, None, raising=False)
    norm = float(ops.squared_norm(*gradients))
    ops.update_together(parameters, gradients, *moments, [0, 0, 0], 1, 0.01)
    assert norm == pytest.approx(reference.squared_norm(*map(exact, gradients)), rel=1e-6)
    for ours, other in zip(parameters, expected):
        close(ours, other, 1e-6, np.float32)


def test_one_parameter_at_a_time():
    p, g, m, v = (put(draw(5, 3, seed=n) ** (2 if n == 3 else 1), np.float32) for n in range(4))
    expected = reference.adamw(*map(exact, (p, g, m, v)), 2, 0.01, decay=0.1)
    for a, b in zip(ops.adamw(p, g, m, v, 2, 0.01, decay=0.1, out=(p, m, v)), expected):
        close(a, b, 1e-6, np.float32)
    close(ops.clip_adaptively(g, p, 0.01), reference.clip_adaptively(exact(g), exact(p), 0.01), 1e-5, np.float32)


def test_the_norm_of_all_gradients():
    arrays = [put(draw(*shape), np.float32) for shape in [(5, 3), (), (7,), (40, 3, 3, 2)]]
    arrays.append(arrays[3].transpose(0, 2, 3, 1))
    assert float(ops.squared_norm(*arrays)) == pytest.approx(reference.squared_norm(*map(exact, arrays)), rel=1e-6)
    for bad in (np.nan, np.inf, 1e30):
        spoilt = exact(arrays[2])
        spoilt[3] = bad
        assert not np.isfinite(float(ops.squared_norm(*arrays, put(spoilt, np.float32))))
