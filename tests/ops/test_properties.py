"""Properties of every operation for random inputs: the backward is the adjoint, inputs are not modified, the dtype is
kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.ops import reference as ops

from .cases import CASES, Case, adjoint_error, drawn, op_is_right

every_op = pytest.mark.parametrize("name", CASES)
seeds = st.integers(0, 2**32)
some = settings(max_examples=25, derandomize=True, deadline=None)


def test_every_backward_has_a_case():
    assert {name.removesuffix("_backward") for name in dir(ops) if name.endswith("_backward")} == set(CASES)


@every_op
@some
@given(seed=seeds)
def test_backward_is_the_adjoint(name, seed):
    assert op_is_right(name, ops, [seed])


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_nan_gradient_is_not_the_adjoint(wrong):
    """In the gradient of either input. (This tests the check that the test above uses.)"""
    case = Case(np.add, lambda dy, *inputs: [dy * (np.nan if n == wrong else 1) for n in (0, 1)], 2 * (np.ones(3),))
    assert not adjoint_error(case, np.random.default_rng(0)) < 1e-8


def results(case, generator):
    y = case.forward(*case.inputs)
    dy = generator.standard_normal(np.shape(y)).astype(case.inputs[0].dtype)
    return [np.asarray(a) for a in (y, *case.backward(dy, *case.inputs))]


@every_op
@settings(some, max_examples=5)
@given(seed=seeds)
def test_the_dtype_follows(name, seed):
    single, double = (results(*drawn(name, ops, seed, dtype)) for dtype in (np.float32, np.float64))
    assert {a.dtype for a in single} == {np.dtype(np.float32)} and {a.dtype for a in double} == {np.dtype(np.float64)}
    for a, b in zip(single, double):
        np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3)


@every_op
@settings(some, max_examples=5)
@given(seed=seeds)
def test_inputs_may_be_strided_and_read_only(name, seed):
    """A write into an input would raise an error; results are the same to rounding."""
    case, _ = drawn(name, ops, seed)
    strided = tuple(np.repeat(x[..., None], 2, -1)[..., 0] for x in case.inputs)
    fortran = tuple(np.asfortranarray(x) for x in case.inputs)
    expected = results(case, np.random.default_rng(0))
    for inputs in (strided, fortran):
        for x in inputs:
            x.flags.writeable = False
        for a, b in zip(results(case._replace(inputs=inputs), np.random.default_rng(0)), expected):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@some
@given(seed=seeds, shift=st.floats(-1e6, 1e6))
def test_softmax_ignores_a_constant_added_to_all_scores(seed, shift):
    x = np.random.default_rng(seed).standard_normal((3, 5))
    np.testing.assert_allclose(ops.softmax(x + shift), ops.softmax(x), rtol=1e-8)
    np.testing.assert_allclose(ops.softmax(x).sum(-1), 1)


def test_softmax_of_scores_whose_exponentials_overflow():
    x = np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)
    np.testing.assert_array_equal(ops.softmax(x), [[1, 0], [0.5, 0.5]])


@some
@given(height=st.integers(1, 6), width=st.integers(1, 6), stride=st.integers(1, 3))
def test_a_bias_depends_on_the_distance_alone(height, width, stride):
    """Two pairs of pixels share an entry if, and only if, |Δy| and |Δx| are equal."""
    index = ops.bias_index(height, width, stride)
    keys = [(y, x) for y in range(height) for x in range(width)]
    queries = [(y, x) for y, x in keys if y % stride == 0 == x % stride]
    assert index.shape == (len(queries), len(keys))
    entry = {}
    for i, (qy, qx) in enumerate(queries):
        for j, (ky, kx) in enumerate(keys):
            assert entry.setdefault((abs(qy - ky), abs(qx - kx)), index[i, j]) == index[i, j]
    assert len(set(entry.values())) == len(entry) and 0 <= index.min() and index.max() < height * width


@some
@given(seed=seeds, axis=st.sampled_from([-1, 1]))
def test_batch_norm_ignores_scale_and_shift(seed, axis):
    generator = np.random.default_rng(seed)
    x, gamma, beta = generator.standard_normal((6, 3, 4)), *generator.standard_normal((2, 4 if axis == -1 else 3))
    expected, _ = ops.batch_norm(x, gamma, beta, 0.0, axis)
    y, _ = ops.batch_norm(5 * x - 3, gamma, beta, 0.0, axis)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drop_path_keeps_the_expected_value(rate, dtype):
    mask = ops.drop_path_mask(np.random.default_rng(0), 100_000, rate, np.dtype(dtype))
    assert mask.shape == (100_000, 1, 1) and mask.dtype == dtype
    assert set(np.unique(mask)) == {dtype(0), 1 / dtype(1 - rate)}
    assert abs(mask.mean() - 1) < 5 * (rate / (1 - rate) / 100_000) ** 0.5  # five standard deviations
