"""Arrays on the device, rounded to a type, and what is computed from them held against float64."""

import numpy as np
import pytest

from levit_np.ops import cuda as ops

# Relative to the largest value: rounding of the result and of what is rounded on the way; units 2^-24, 2^-11, 2^-8.  A
# GPU's tensor cores cut their sums off where the emulated ones round, which took float32 to 9e-6 on an H200.
ROUNDING = {"float32": 1.5e-5, "float16": 4e-3, "bfloat16": 3e-2}


def type_of(name):
    """NumPy's own type, or the one that ml_dtypes adds."""
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def put(x, dtype):
    return None if x is None else ops.asarray(np.asarray(x).astype(dtype))


def exact(x):
    return None if x is None else np.array(ops.to_host(x), np.float64)


def close(found, expected, bar, dtype):
    found = ops.to_host(found)
    assert found.shape == np.shape(expected) and found.dtype == dtype, (found.shape, found.dtype)
    assert np.isfinite(np.array(found, np.float64)).all()
    gap = np.abs(np.array(found, np.float64) - expected).max() if found.size else 0
    assert gap < bar * max(np.abs(expected).max(initial=0), 0.2), gap  # terms of about 1 may cancel


def require_hopper(on, monkeypatch):
    """What is emulated is as good as one."""
    if on.current().capability != on.HOPPER:
        if hasattr(on.current().arrays, "cuda"):
            pytest.skip(f"expected compute capability 9.0, found {on.current().capability / 10}")
        monkeypatch.setattr(on.current(), "capability", on.HOPPER)
