"""float32 products computed from bfloat16 parts (AMX): three parts add up to the whole number, for any sizes.

Without AMX the same must hold for ordinary products, so the tests run on any processor."""

import numpy as np
import pytest

import levit_np
from levit_np.ops import cpu, reference


def numbers(random, *shape):
    """Numbers with all 24 bits, over twenty orders of magnitude."""
    return (random.standard_normal(shape) * 10.0 ** random.integers(-10, 11, shape)).astype(np.float32)


def test_a_number_times_one_is_the_number():
    """As left and as right factor, bit for bit: the parts add up without rounding."""
    random, one = np.random.default_rng(0), np.eye(96, dtype=np.float32)
    x = numbers(random, 64, 96)
    assert np.array_equal(cpu.linear(x, one), x)
    w = numbers(random, 64, 96)
    assert np.array_equal(cpu.linear(one, w), w.T)
    dx, dw = cpu.linear_backward(one[:64, :64].copy(), x, w[:, :96])
    assert np.array_equal(dx, w) and np.array_equal(dw, x)


# Terms that are no multiple of 32, several groups of terms, rows slightly more than a tile, a thousand outputs.
@pytest.mark.parametrize("rows, terms, outputs", [(32, 64, 32), (33, 65, 64), (100, 300, 96), (49, 257, 1024),
                                                  (700, 96, 27), (130, 520, 1000), (257, 1056, 224), (3, 96, 64)])
def test_products_of_any_size(rows, terms, outputs):
    """Within 1e-6 of the product of the vectors' norms, about the number of terms; float32 itself rounds to 6e-8."""
    random = np.random.default_rng(rows)
    shapes = (rows, terms), (outputs, terms), (rows, outputs)
    x, w, dy = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    wide = [a.astype(np.float64) for a in (x, w, dy)]
    exact = reference.linear(*wide[:2]), *reference.linear_backward(wide[2], *wide[:2])
    ours = cpu.linear(x, w), *cpu.linear_backward(dy, x, w)
    lengths = terms, outputs, rows
    for mine, true, length in zip(ours, exact, lengths):
        assert mine.shape == true.shape and np.abs(mine - true).max() < 1e-6 * length
    for count in (2, 3):
        levit_np.set_threads(count)
        again = cpu.linear(x, w), *cpu.linear_backward(dy, x, w)
        assert all(np.array_equal(a, b) for a, b in zip(again, ours))


def test_what_is_not_finite_stays_in_its_row():
    random = np.random.default_rng(1)
    x, w = random.standard_normal((64, 96)).astype(np.float32), random.standard_normal((64, 96)).astype(np.float32)
    clean = cpu.linear(x, w)
    for value in (np.nan, np.inf, -np.inf):
        x[5, 3] = value
        y = cpu.linear(x, w)
        assert not np.isfinite(y[5]).any() and np.array_equal(np.delete(y, 5, 0), np.delete(clean, 5, 0))
