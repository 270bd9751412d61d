"""The seal: a block with a hash, in front of a file's content, that reveals any damage to the content or to itself.

It does not protect against malice, as a forger can compute the hash too.
"""

import hashlib
import struct

from ..errors import CheckpointError

MAGIC = b"levit_np"
VERSION = 1
# The smallest user block of HDF5: HDF5 tools look for their own signature after it and skip ours.
SIZE = 512
# magic, version, size of this block, bytes of content, offset (from the start of the file) and bytes of the list of
# contents, SHA-256 of the whole file with these last 32 bytes set to zero.
_FIELDS = struct.Struct("<8sIIQQQ32s")


def seal(content: bytes | memoryview, contents_offset: int, contents_nbytes: int) -> bytes:
    """The block of SIZE bytes to be written before `content`."""
    fields = (MAGIC, VERSION, SIZE, len(content), contents_offset, contents_nbytes)
    digest = hashlib.sha256(_FIELDS.pack(*fields, b"").ljust(SIZE, b"\0"))
    digest.update(content)
    return _FIELDS.pack(*fields, digest.digest()).ljust(SIZE, b"\0")


def check(data: bytes | memoryview, place: str) -> tuple[int, int]:
    """(offset, size in bytes) of the list of contents. Raises CheckpointError unless `data` is a seal and the content
    that it was made for."""
    if len(data) < SIZE or data[: len(MAGIC)] != MAGIC:
        raise CheckpointError(f"{place}: damaged: expected a seal of {SIZE} bytes, found {bytes(data[:8])!r}, "
                              f"{len(data)} bytes")
    _, version, _, length, contents_offset, contents_nbytes, digest = _FIELDS.unpack_from(data)
    if version != VERSION:
        raise CheckpointError(f"{place}: expected version {VERSION} of the file format, found {version}")
    if length != len(data) - SIZE:
        raise CheckpointError(f"{place}: damaged: expected {length} bytes after the seal, found {len(data) - SIZE}")
    right = seal(memoryview(data)[SIZE:], contents_offset, contents_nbytes)
    if data[:SIZE] != right:
        found = _FIELDS.unpack_from(right)[-1]
        raise CheckpointError(f"{place}: damaged: content hash expected {digest.hex()}, found {found.hex()}")
    return contents_offset, contents_nbytes
