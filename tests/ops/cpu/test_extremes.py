"""The whole range of float32 (the largest and smallest numbers, infinities, NaNs with different bits) against the
reference operations in float64."""

import numpy as np
import pytest

from levit_np.inference.reference import ReferenceExecutor
from levit_np.ops import cpu, reference

from ...random_model import random_images, random_model
from .operation_calls import FAST, SMALL, TEXTBOOK, changed, draw, perform

F = np.finfo(np.float32)
NANS = np.array([0x7F800001, 0x7FC00001, 0xFFC001FF, 0xFFFFFFFF], np.uint32).view(np.float32)
EDGES = np.array([0.0, -0.0, 3, -3, F.tiny, -F.tiny, F.smallest_subnormal, F.max, F.min, np.inf, -np.inf, np.nan,
                  -87.4, -88.02, -88.37, -88.4, -88.8, -1e38, 1e38], np.float32)


def whole_range():
    """About a hundred numbers of either sign with each exponent, and those where a function's range ends."""
    bits = np.arange(0, 2**32, 2**32 // 50021, np.int64).astype(np.uint32)
    return np.concatenate([bits.view(np.float32), EDGES, NANS])


def agree(found, exact, tolerance):
    """The same infinities and NaNs in the same places; elsewhere an error of at most `tolerance`, relative to the
    number or, if that is less than 1, absolute."""
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.asarray(exact).astype(np.float32)
    assert found.dtype == np.float32 and np.array_equal(np.isnan(found), np.isnan(exact))
    infinite = np.isinf(exact)
    assert np.array_equal(found[infinite], exact[infinite])
    rest = np.isfinite(exact)
    assert (np.abs(found[rest] - exact[rest]) <= tolerance * np.maximum(1, np.abs(exact[rest]))).all()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", ["hardswish", "silu"])
def test_activations(name):
    """Both give NaN for ∞ · 0."""
    x = whole_range()
    agree(getattr(cpu, name)(x), getattr(reference, name)(x.astype(np.float64)), 1e-6)
    for slope in (1.0, -3.0):
        dy = np.full_like(x, slope)
        exact = getattr(reference, f"{name}_backward")(dy.astype(np.float64), x.astype(np.float64))
        agree(getattr(cpu, f"{name}_backward")(dy, x), exact, 1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("keys", [5, 16, 49])
def test_attention_of_masked_keys(keys):
    """A masked key has probability 0. If all keys are masked, the row is NaN, as in the reference."""
    q, k, v = draw(2, 2, 7, 16), draw(2, 2, keys, 16), draw(2, 2, keys, 32)
    bias = draw(2, 7, keys)
    bias[0, 1, ::2] = bias[0, 3, 1:] = bias[1, 4] = -np.inf
    bias[0, 2, 0], bias[0, 2, 1], bias[1, 2], bias[1, 3] = 1e38, -1e38, 3.3e38, -3.3e38
    bias[0, 5, 0], bias[0, 6, 1] = np.inf, np.nan
    exact = [a.astype(np.float64) for a in (q, k, v, bias)]
    y, p = cpu.attention(q, k, v, bias, 0.25)
    expected, probabilities = reference.attention(*exact, 0.25)
    agree(y, expected, 2e-6)
    agree(p, probabilities, 2e-6)
    assert not p[:, 0, 1, ::2].any()
    dy = draw(*y.shape)
    for ours, theirs in zip(cpu.attention_backward(dy, q, k, v, 0.25, p),
                            reference.attention_backward(dy.astype(np.float64), *exact[:3], 0.25, probabilities)):
        agree(ours, theirs, 1e-5)


@pytest.mark.parametrize("nan", NANS)
def test_attention_returns_nan_for_a_nan_of_any_bits(nan):
    """In the query's row alone."""
    q, k, v, bias, scale = SMALL["attention"]
    spoilt = q.copy()
    spoilt[1, 0, 2, 3] = nan
    y, p = cpu.attention(spoilt, k, v, bias, scale)
    assert np.isnan(y[1, 0, 2]).all() and np.isnan(p[1, 0, 2]).all()
    assert np.isnan(y).sum() == y.shape[-1] and np.isnan(p).sum() == p.shape[-1]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", FAST)
def test_nan_and_infinity_reach_the_same_results_as_in_the_reference(name, value):
    """An input that is not finite makes those results not finite that depend on it, and no others. (An infinity may
    become a NaN.)"""
    inputs = []
    changed(SMALL[name], lambda a: inputs.append(a) or a)
    for which, a in enumerate(inputs):
        number = iter(range(len(inputs)))
        spoilt = changed(SMALL[name], lambda b: spoiled(b, value) if next(number) == which else b)
        exact = perform(TEXTBOOK, name, changed(spoilt, lambda b: b.astype(np.float64)))
        for ours, theirs in zip(perform(cpu, name, spoilt), exact, strict=True):
            assert np.array_equal(np.isfinite(ours), np.isfinite(theirs)), (which, a.shape)


def spoiled(x, value):
    x = x.copy()
    x[tuple(n // 2 for n in x.shape)] = value
    return x


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("activation", ["hardswish", "silu"])
def test_evaluation_with_masked_keys(activation):
    """A whole network with activations far below 0 and masked keys; if one head has all keys masked, every logit is
    NaN."""
    model = random_model(backend="cpu", activation=activation, attention_activation=activation)
    x, state = random_images(model), {name: value.copy() for name, value in model.state().items()}
    for name, value in state.items():
        if name.endswith(("convolutions.0.bn.beta", "mlp.up.bn.beta")):
            value[1::3] = -1e37
        if name.endswith("bias.table"):
            value[0, 1] = -np.inf
    model.set_state(state)
    agree(model(x), ReferenceExecutor(model)(x.astype(np.float64)), 1e-5)
    state["stages.1.blocks.0.attention.bias.table"][0] = -np.inf
    model.set_state(state)
    assert np.isnan(model(x)).all() and np.isnan(ReferenceExecutor(model)(x.astype(np.float64))).all()
