"""The check that weights contain neither NaN nor infinity, made whenever they are read or written."""

import numpy as np

from ..errors import CheckpointError


def require_finite(array: np.ndarray, place: str) -> None:
    """Raises CheckpointError, beginning with `place`, if a floating `array` holds a NaN or an infinity."""
    if array.dtype.kind != "f" or array.size == 0:
        return
    # min and max are not finite if any element is not, and need no mask as large as the array.
    with np.errstate(invalid="ignore"):
        extremes = np.array([array.min(), array.max()])
    if not np.isfinite(extremes).all():
        raise CheckpointError(f"{place}: expected finite values, found {extremes[~np.isfinite(extremes)][0]}")
