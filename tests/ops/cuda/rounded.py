"""Arrays on the device, rounded to a type, and their comparison with float64."""

import numpy as np
import pytest

from levit_np.ops import cuda as ops

# Allowed errors relative to the largest value, for rounding of the result and in between; the types' units are 2^-24,
# 2^-11 and 2^-8. A GPU's tensor cores truncate sums, which are rounded in the emulation; on an H200 float32's error was
# up to 9e-6.
ROUNDING = {"float32": 1.5e-5, "float16": 4e-3, "bfloat16": 3e-2}


def type_of(name):
    """NumPy's own type, or the one added by ml_dtypes."""
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
    """Skips on a GPU that is not Hopper; the emulated device can act as one."""
    if on.current().capability != on.HOPPER:
        if hasattr(on.current().arrays, "cuda"):
            pytest.skip(f"expected compute capability 9.0, found {on.current().capability / 10}")
        monkeypatch.setattr(on.current(), "capability", on.HOPPER)
