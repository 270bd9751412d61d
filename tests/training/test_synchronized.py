"""BN over several ranks against BN of one process with all their images, with a stand-in for the messages; test_mpi.py
uses several processes."""

import numpy as np
import pytest

from levit_np.ops import reference
from levit_np.training import synchronized
from levit_np.training.synchronized import _Synchronized

EPS = 1e-5


@pytest.fixture
def ops(monkeypatch):
    """The operations of one of two ranks, the other of which has the same values."""
    monkeypatch.setattr(synchronized, "collected", lambda _, values: np.array([values, values], np.float64))
    monkeypatch.setattr(synchronized, "summed", lambda _, array: 2 * array)
    return _Synchronized(reference, None)


@pytest.mark.parametrize("dtype, bar", [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("joined, axis", [(False, -1), (False, 1), (True, 1)])
def test_two_ranks_are_one_process(joined, axis, dtype, bar, ops):
    """And everything has the type of the network. joined: with Hardswish, as in Activation.join."""
    generator = np.random.default_rng(0)
    x, dy = generator.standard_normal((2, 4, 3, 3)).astype(dtype)
    gamma, beta = generator.standard_normal((2, 3)).astype(dtype)
    if joined:
        y, statistics = ops.batch_norm_hardswish(x, gamma, beta, EPS, axis)
        gradients = ops.batch_norm_hardswish_backward(dy, x, gamma, beta, statistics, EPS, axis)
    else:
        y, statistics = ops.batch_norm(x, gamma, beta, EPS, axis)
        gradients = ops.batch_norm_backward(dy, x, gamma, statistics, EPS, axis)

    x, dy = np.concatenate([x, x]), np.concatenate([dy, dy])
    expected, whole = reference.batch_norm(x, gamma, beta, EPS, axis)
    if joined:
        expected, dy = reference.hardswish(expected), reference.hardswish_backward(dy, expected)
    dx, *dparameters = reference.batch_norm_backward(dy, x, gamma, whole, EPS, axis)
    assert statistics.count == whole.count
    for found, wanted in zip((y, *statistics[:2], *gradients),
                             (expected[:4], *whole[:2], dx[:4], *(d / 2 for d in dparameters)), strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted, rtol=bar, atol=bar)
