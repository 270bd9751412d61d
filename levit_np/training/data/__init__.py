"""Images for a training: where they lie, in which order they come, and the processes that prepare them ahead.

A *source* has `len`, `classes` (names), `target(i)`, `name(i)` (for messages), `read(i)` (the encoded image),
`size(i)` (its bytes) and `fingerprint` (equal for sources of the same names, classes and order).
"""

import os


def open_source(path: str | os.PathLike):
    """A folder's images (Folder), or those of a file that `levit-np pack` wrote (Packed).  Raises DataError or
    CheckpointError."""
    if os.path.isfile(path):
        from .packed import Packed

        return Packed(path)
    from .folder import Folder

    return Folder(path)
