"""A file appears whole or not at all: written beside its place, forced to the disk, then renamed onto it."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a temporary file (binary, read and write) that becomes `path` when the block ends normally.

    Whatever happens, power loss included, `path` holds either all of its old content or all of the new. If
    the block or a step after it raises (also KeyboardInterrupt, also disk full), the temporary is removed and
    the exception goes on; an OSError names `path`. Only a kill leaves a temporary, `.levit_np-*.tmp`, in the
    directory. A symbolic link stays one: the file that it points at is replaced. An existing file's
    permissions are kept; a new one gets what the umask leaves of 0666. Raises OSError where `path` is a
    directory or a device.
    """
    target = os.path.realpath(os.fsdecode(path))
    temporary = os.path.join(os.path.dirname(target), f".levit_np-{secrets.token_hex(8)}.tmp")
    try:
        mode = mode_of_regular_file(target)
        file = open(temporary, "x+b")
        try:
            yield file
            file.flush()
            if mode is not None and os.name != "nt":  # there read-only, which it knows alone, would only keep it here
                os.chmod(temporary, mode)
            force(file.fileno())
        finally:
            _close(file)
        os.replace(temporary, target)
        _sync_directory(os.path.dirname(target))
    except BaseException as error:
        # After os.replace there is no such file any more; nobody else uses a name of 64 random bits.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, target) from error
        raise


def force(descriptor: int) -> None:
    """fsync, which on macOS leaves the data in the disk's own memory; there is another call for it to get further."""
    try:
        from fcntl import F_FULLFSYNC, fcntl
    except ImportError:
        return os.fsync(descriptor)
    try:
        fcntl(descriptor, F_FULLFSYNC)
    except OSError:  # some file systems do not know it; a full disk's error comes again
        os.fsync(descriptor)


def _close(file: BinaryIO) -> None:
    # The data is on the disk already, or an exception is under way that must not be hidden by a second one.
    with contextlib.suppress(OSError):
        file.close()


def mode_of_regular_file(path: str) -> int | None:
    """The permission bits, None where there is no such file. Raises OSError for what a rename must not replace."""
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
    """Makes the rename itself durable. Windows has no such call; some network file systems refuse it."""
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
