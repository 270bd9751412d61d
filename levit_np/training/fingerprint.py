"""Whether two sets of arrays, of which one was on another machine or at another time, are the same."""

import hashlib
from collections.abc import Mapping


def fingerprint(arrays: Mapping) -> str:
    """SHA-256, in hexadecimal, over the bytes of the arrays, in their order."""
    found = hashlib.sha256()
    for array in arrays.values():
        found.update(array.tobytes())
    return found.hexdigest()
