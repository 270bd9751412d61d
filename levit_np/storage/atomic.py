"""Atomic writing: a file is written under a temporary name in the same directory, forced to the disk, then renamed to
its path."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A context manager: opens a temporary file (binary, read and write) that becomes `path` if the block succeeds.

    At any time, also after a power loss, `path` holds either all of its old content or all of the new. If the block or
    a later step raises (including KeyboardInterrupt and a full disk), the temporary file is removed and the exception
    propagates; an OSError names `path`. Only a killed process leaves a temporary file, `.levit_np-*.tmp`. For a
    symbolic link, the file that it points at is replaced. An existing file's permissions are kept; a new file gets 0666
    minus the umask. Raises OSError if `path` is a directory or a device.
    """
    target = resolved(path)
    temporary = os.path.join(os.path.dirname(target), f".levit_np-{secrets.token_hex(8)}.tmp")
    try:
        mode = mode_of_regular_file(target)
        file = open(temporary, "x+b")
        try:
            yield file
            file.flush()
            if mode is not None and os.name != "nt":  # Windows has only read-only, which would pin the temporary
                os.chmod(temporary, mode)
            force(file.fileno())
        finally:
            _close(file)
        os.replace(temporary, target)
        _sync_directory(os.path.dirname(target))
    except BaseException as error:
        # After os.replace the temporary file is gone, and nobody else uses its name of 64 random bits.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, target) from error
        raise


def resolved(path: str | os.PathLike) -> str:
    """The absolute path of the file that `path` leads to, through symbolic links. Raises OSError, naming `path`, for a
    relative one in a current folder that was removed."""
    try:
        return os.path.realpath(os.fsdecode(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def force(descriptor: int) -> None:
    """Forces written data to the disk.  On macOS fsync leaves it in the disk's cache, and F_FULLFSYNC is needed."""
    try:
        from fcntl import F_FULLFSYNC, fcntl
    except ImportError:
        return os.fsync(descriptor)
    try:
        fcntl(descriptor, F_FULLFSYNC)
    except OSError:  # some file systems do not support it; a real error such as a full disk will recur
        os.fsync(descriptor)


def _close(file: BinaryIO) -> None:
    # The data is already on the disk, or an exception is propagating that a second one must not hide.
    with contextlib.suppress(OSError):
        file.close()


def mode_of_regular_file(path: str) -> int | None:
    """The permission bits of a file, None if it does not exist. Raises OSError for a directory or a device, which must
    not be replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "expected a regular file", path)
    return stat.S_IMODE(mode)


def _sync_directory(path: str) -> None:
    """Makes the rename durable too. Windows has no such call, and some network file systems refuse it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        force(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
