"""A fingerprint of arrays, which tells whether those on another machine or of an earlier run are the same."""

import hashlib
from collections.abc import Mapping


def fingerprint(arrays: Mapping) -> str:
    """The SHA-256, in hexadecimal, of the bytes of the arrays, in their order."""
    found = hashlib.sha256()
    for array in arrays.values():
        found.update(array.tobytes())
    return found.hexdigest()
