"""Adaptive gradient clipping against its definition, unit by unit, and against timm's where timm is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from levit_np.ops import reference as ops

SHAPES = [(6, 5), (4, 3, 2, 2), (7,), (1, 3), ()]


def drawn(shape, size, seed=0):
    generator = np.random.default_rng(seed)
    return size * generator.standard_normal(shape), generator.standard_normal(shape)


def by_definition(gradient, parameter, factor, eps):
    """Brock et al., section 4, one row (an output unit) at a time; a vector is one unit."""
    if gradient.ndim > 1:
        return np.stack([by_definition(g.ravel(), w.ravel(), factor, eps).reshape(g.shape)
                         for g, w in zip(gradient, parameter)])
    norm = np.linalg.norm(gradient)
    largest = factor * max(np.linalg.norm(parameter), eps)
    return gradient * min(1, largest / norm)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-4, 0.02, 1, 300])
def test_by_definition(shape, size):
    gradient, parameter = drawn(shape, size)
    parameter = np.asarray(parameter)
    if parameter.ndim:
        parameter[0] = 0  # a unit that starts at zero
    gradient, before = np.asarray(gradient), np.array(gradient)
    found = ops.clip_adaptively(gradient, parameter, 0.01, 1e-3)
    np.testing.assert_allclose(found, by_definition(gradient, parameter, 0.01, 1e-3), rtol=1e-12)
    assert np.array_equal(gradient, before)
    assert np.array_equal(ops.clip_adaptively(gradient, parameter), found)  # timm's constants are the default
    if gradient.ndim:
        assert ops.clip_adaptively(gradient, parameter, 0.01, 1e-3, out=gradient) is gradient
        assert np.array_equal(gradient, found)


def test_some_units_are_clipped_and_some_are_not():
    """This distinguishes the norm of a unit from the norm of the whole array."""
    gradient, parameter = np.array([[3.0, 4.0], [0.03, 0.04], [0, 0]]), np.array(3 * [[6.0, 8.0]])
    expected = [[0.6, 0.8], [0.03, 0.04], [0, 0]]  # a zero gradient stays zero, without a division by zero
    np.testing.assert_allclose(ops.clip_adaptively(gradient, parameter, 0.1), expected, rtol=1e-15)
    narrow = ops.clip_adaptively(gradient.astype(np.float32), parameter.astype(np.float32))
    assert narrow.dtype == np.float32


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_against_timm(shape):
    found = importlib.util.find_spec("timm")
    if not found:
        pytest.skip("timm is not installed")
    # timm's package needs torchvision; this one file does not
    place = Path(found.origin).parent / "utils/agc.py"
    specification = importlib.util.spec_from_file_location("timm_agc", place)
    timm = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(timm)
    for size in (1e-4, 0.02, 1, 300):
        gradient, parameter = drawn(shape, size)
        peer = torch.nn.Parameter(torch.from_numpy(parameter))
        peer.grad = torch.from_numpy(gradient.copy())
        timm.adaptive_clip_grad([peer])
        np.testing.assert_allclose(ops.clip_adaptively(gradient, parameter), peer.grad.numpy(), rtol=1e-13)


def test_squared_norm():
    x = drawn((3, 4, 5), 1)[0]
    assert ops.squared_norm(x) == pytest.approx((x**2).sum(), rel=1e-14)
    assert ops.squared_norm(x.transpose(2, 0, 1)) == pytest.approx((x**2).sum(), rel=1e-14)
    for bad in (np.nan, np.inf, -np.inf):
        x[1, 2, 3] = bad
        assert not np.isfinite(ops.squared_norm(x))
    assert ops.squared_norm(np.full(10, 1e30, np.float32)) == np.inf
