"""Opens a weight file that a user has named."""

import os
import stat
from typing import BinaryIO

from ..errors import CheckpointError


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading. Raises CheckpointError, naming `path`, if it does not exist or is not a regular
    file."""
    try:
        # Reading from a pipe could block, and from a device never end.
        if not stat.S_ISREG(mode := os.stat(path).st_mode):
            raise CheckpointError(f"{os.fspath(path)}: expected a regular file, found a "
                                  f"{'folder' if stat.S_ISDIR(mode) else 'pipe or device'}")
        return open(path, "rb")
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{os.fspath(path)!r}: expected a path, found {error}") from error
