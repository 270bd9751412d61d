"""Minimal filtering of convolutions, on whole numbers, for which it agrees with the direct computation to the last
bit."""

from importlib import import_module

import numpy as np
import pytest

import levit_np
from levit_np.ops import cpu, reference
from levit_np.ops.cpu import minimal_filtering
from levit_np.ops.cpu.library import library
from levit_np.ops.cpu.minimal_filtering import KERNEL, NINE_PARTS, SHARED, SIDES
from levit_np.ops.cpu.running import run
from levit_np.ops.cpu.training_step import Kind
from levit_np.ops.cpu.training_step import KernelTerms as K

from ...random_model import random_model

filtering = import_module("levit_np.ops.cpu.filtering")
# How five adjacent inputs are combined.
INPUT = np.array([[1, 0, -1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, -1, 0, 1], [0, 0, 0, 1, 0]])


def whole_numbers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def test_nine_parts_make_four_outputs():
    x, w = whole_numbers(5, 5), whole_numbers(3, 3, seed=1)
    products = (INPUT @ x @ INPUT.T) * (KERNEL @ w @ KERNEL.T)
    part = {sides: products[np.ix_(SIDES[sides[0]], SIDES[sides[1]])].sum() for sides in NINE_PARTS}
    for y in range(2):
        for x_ in range(2):
            window = x[2 * y : 2 * y + 3, 2 * x_ : 2 * x_ + 3]
            found = part[y, x_] + part[y, SHARED] + part[SHARED, x_] + part[SHARED, SHARED]
            assert found == (window * w).sum()
    assert products.size == minimal_filtering.TERMS == sum(minimal_filtering.SIZES) == 25


def made(w, g):
    """The kernels' terms of w (O, C, 3, 3), and the adjoint of g (O, 25, C)."""
    terms, dw = np.empty_like(g), np.empty_like(w)
    for kind, weight, target in ((Kind.KERNEL_TERMS, w, terms), (Kind.KERNEL_TERMS_BACKWARD, dw, g)):
        run((kind, {K.OUTPUTS: len(w), K.CHANNELS: w.shape[1], K.WEIGHT: weight, K.TERMS: target, K.ROW: g.strides[0]}))
    return terms, dw


def test_the_kernels_terms_and_their_adjoint():
    w, g = whole_numbers(2, 32, 3, 3), whole_numbers(2, 25, 32, seed=1)
    terms, (ours, dw) = minimal_filtering.kernel_terms(w), made(w, g)
    for number, (p, q) in enumerate(minimal_filtering.ORDER):
        assert np.array_equal(terms[:, number], np.einsum("i,j,ocij->oc", KERNEL[p], KERNEL[q], w))
    assert np.array_equal(ours, terms)
    assert (terms * g).sum() == (w * dw).sum()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels, outputs", [(24, 48), (32, 16), (48, 96), (64, 32)])
@pytest.mark.parametrize("images, height, width", [(1, 3, 4), (3, 8, 7), (6, 28, 28)])
def test_whole_numbers_are_exact(images, height, width, channels, outputs, threads):
    levit_np.set_threads(threads)
    x, w = whole_numbers(images, channels, height, width), whole_numbers(outputs, channels, 3, 3, seed=1)
    expected = reference.convolution(x, w, 2, 1)
    dy = whole_numbers(*expected.shape, seed=2)
    assert np.array_equal(cpu.convolution(x, w, 2, 1), expected)
    gradients = cpu.convolution_backward(dy, x, w, 2, 1)
    for found, textbook in zip(gradients, reference.convolution_backward(dy, x, w, 2, 1)):
        assert np.array_equal(found, textbook)


@pytest.mark.skipif(library("training_kernels").instructions.bfloat16 == "tiles", reason="AMX has faster products")
def test_which_convolutions_use_minimal_filtering():
    """All but the first, which has three input channels, and those of 24 channels where vectors have 16 lanes."""
    found = {}
    for name in ("levit_128s", "levit_192", "levit_384"):
        for layer in random_model(name).stem.convolutions:
            x, size = np.empty((1, layer.weight.shape[1], 8, 8), np.float32), (4, 4)
            found[name, x.shape[1]] = filtering.suits(layer.weight, 2, 1, size)
    narrow = library("training_kernels").instructions.lanes <= 8
    assert found == {("levit_128s", 3): False, ("levit_128s", 16): True, ("levit_128s", 32): True,
                     ("levit_128s", 64): True, ("levit_192", 3): False, ("levit_192", 24): narrow,
                     ("levit_192", 48): True, ("levit_192", 96): True, ("levit_384", 3): False,
                     ("levit_384", 48): True, ("levit_384", 96): True, ("levit_384", 192): True}


@pytest.mark.parametrize("stride, padding, kernel, shape", [(1, 1, 3, (8, 8)), (2, 0, 3, (9, 9)), (2, 1, 5, (8, 8)),
                                                            (2, 1, 3, (5, 8))])
def test_other_convolutions_do_not_use_it(stride, padding, kernel, shape):
    x, w = whole_numbers(2, 32, *shape), whole_numbers(32, 32, kernel, kernel, seed=1)
    expected = reference.convolution(x, w, stride, padding)
    assert not filtering.suits(w, stride, padding, expected.shape[2:])
    assert np.array_equal(cpu.convolution(x, w, stride, padding), expected)


def test_a_value_that_is_not_finite_affects_only_outputs_that_read_it():
    x, w = whole_numbers(2, 32, 8, 8), whole_numbers(16, 32, 3, 3, seed=1)
    expected = cpu.convolution(x, w, 2, 1).copy()
    for y in range(8):
        for value in (np.inf, np.nan):
            spoilt = x.copy()
            spoilt[0, 5, y, 7 - y] = value
            with np.errstate(invalid="ignore"):
                lost = ~np.isfinite(reference.convolution(spoilt, w, 2, 1))
            found = cpu.convolution(spoilt, w, 2, 1)
            assert lost.any() and np.array_equal(~np.isfinite(found), lost)
            assert np.array_equal(found[~lost], expected[~lost])
