"""Training data: where images are stored, their order, and the worker processes that prepare batches in advance.

A *source* has `len`, `classes` (names), `target(i)` (the class's index), `name(i)` (for messages), `read(i)` (the
encoded image), `size(i)` (its size in bytes) and `fingerprint` (equal for sources of the same names, classes and
order).
"""

import os


def open_source(path: str | os.PathLike):
    """The source at a path: Folder for a folder, Packed for a file written by `levit-np pack`.  Raises DataError or
    CheckpointError."""
    if os.path.isfile(path):
        from .packed import Packed

        return Packed(path)
    from .folder import Folder

    return Folder(path)
