"""A strict reader of uncompressed zip archives, in which every byte must have one meaning: the members one directly
after the other, then the directory, then its end record.

Zip keeps each name and size in two places and lets members overlap. Attacks have exploited readers that disagree on
which one counts, and have turned twelve kilobytes into gigabytes. Here both places must agree and no byte may be left
over, as in what `torch.save` writes. Layout: PKWARE APPNOTE 6.3.
"""

import os
import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

from ..errors import CheckpointError
from .values import read_exactly

_MOST_MEMBERS = 4096 + 64
_LARGEST_DIRECTORY = 2 << 20
_LONGEST_NAME = 512
_BLOCK = 1 << 20

# Signature, versions, flags, method, time, date, checksum, compressed size, size, lengths of name and extra;
# a directory entry also has the length of the comment, disk, two attributes, offset.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4s3L"), struct.Struct("<4sL2Q")
_END, _LOCATOR, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")

_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 1, 8, 1 << 11
_DIRECTORY = 0x10  # DOS attribute of a directory
_REGULAR = 8  # Unix file type of a regular file, above the permission bits
_ZIP64, _PADDING = 1, 0x4246  # the extra fields that torch writes
_ELSEWHERE = 0xFFFFFFFF  # "see the ZIP64 field"


class Member(NamedTuple):
    """The content of a member: `size` bytes of the file from `start` on, with the CRC-32 `checksum`."""

    start: int
    size: int
    checksum: int


class _Entry(NamedTuple):
    """A member as the directory describes it."""

    name: bytes
    flags: int
    checksum: int
    size: int
    offset: int


def members(file: BinaryIO, place: str) -> dict[str, Member]:
    """The members by name, in the order of the file.

    Raises CheckpointError, beginning with `place`, for a member that is compressed, encrypted, a directory, present
    twice, named so as to lead out of the archive's folder, or described differently by its own header and by the
    directory; and for gaps, overlaps, or bytes before the first or after the last member. Reads no content; see
    `require_intact`.
    """
    count, start, size = _directory(file, file.seek(0, os.SEEK_END), place)
    if count > _MOST_MEMBERS or size > _LARGEST_DIRECTORY:
        raise CheckpointError(f"{place}: expected at most {_MOST_MEMBERS} members in a directory of "
                              f"{_LARGEST_DIRECTORY} bytes, found {count} in {size} bytes")
    found: dict[str, Member] = {}
    reached = 0
    for entry in _entries(read_exactly(file, start, size, place), count, place):
        name = _name(entry.name, place)
        if name in found:
            raise CheckpointError(f"{place}: expected one member {name}, found two")
        if entry.offset != reached or entry.size > start:
            raise CheckpointError(f"{place}: {name}: expected to begin at byte {reached} and end before byte {start}, "
                                  f"found byte {entry.offset} and {entry.size} bytes")
        found[name], reached = _member(file, entry, f"{place}: {name}")
    if reached != start:
        raise CheckpointError(f"{place}: expected the zip directory at byte {reached}, found it at {start}")
    return found


def require_intact(file: BinaryIO, found: dict[str, Member], place: str) -> None:
    """Raises CheckpointError, beginning with `place`, for a member whose content does not have its checksum."""
    for name, member in found.items():
        checksum, left = 0, member.size
        file.seek(member.start)
        while block := file.read(min(left, _BLOCK)):
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        if checksum != member.checksum:
            raise CheckpointError(f"{place}: {name}: expected the CRC-32 {member.checksum:08x}, found {checksum:08x}")


def content(file: BinaryIO, member: Member, most: int, place: str) -> bytes:
    """The content of a member. Raises CheckpointError, beginning with `place`, if it is longer than `most` bytes."""
    if member.size > most:
        raise CheckpointError(f"{place}: expected at most {most} bytes, found {member.size}")
    return read_exactly(file, member.start, member.size, place)


def _directory(file: BinaryIO, length: int, place: str) -> tuple[int, int, int]:
    """(number of entries, first byte, size) of the directory, which must end where the end records begin."""
    if length < _END.size:
        raise CheckpointError(f"{place}: expected a zip archive, found {length} bytes")
    end = length - _END.size
    signature, disk, first_disk, here, count, size, start, comment = _END.unpack(
        read_exactly(file, end, _END.size, place)
    )
    if signature != b"PK\5\6" or comment:
        raise CheckpointError(f"{place}: expected a zip archive, found no zip directory at its end")
    if disk or first_disk or here != count:
        raise CheckpointError(f"{place}: expected a zip archive in one part, found several")
    locator = end - _LOCATOR.size
    if locator >= _END64.size and read_exactly(file, locator, 4, place) == b"PK\6\7":
        wide = _directory64(file, locator, place)
        # miniz, the zip library in torch, also writes each number into the old end record, if it fits.
        if (count, start, size) != (min(wide[0], 0xFFFF), min(wide[1], _ELSEWHERE), min(wide[2], _ELSEWHERE)):
            raise CheckpointError(f"{place}: expected the two ends of the zip directory to agree, found "
                                  f"{(count, start, size)} and {wide}")
        (count, start, size), end = wide, locator - _END64.size
    if start + size != end:
        raise CheckpointError(f"{place}: expected the zip directory to end at byte {end}, found {start} + {size}")
    return count, start, size


def _directory64(file: BinaryIO, locator: int, place: str) -> tuple[int, int, int]:
    _, disk, offset, disks = _LOCATOR.unpack(read_exactly(file, locator, _LOCATOR.size, place))
    end = locator - _END64.size
    record = _END64.unpack(read_exactly(file, end, _END64.size, place))
    signature, rest, _, _, this_disk, first_disk, here, count, size, start = record
    if signature != b"PK\6\6" or offset != end or rest != _END64.size - 12:
        raise CheckpointError(f"{place}: expected the ZIP64 end at byte {end}, found it at {offset}")
    if disk or disks != 1 or this_disk or first_disk or here != count:
        raise CheckpointError(f"{place}: expected a zip archive in one part, found several")
    return count, start, size


def _entries(directory: bytes, count: int, place: str) -> list[_Entry]:
    entries, position = [], 0
    for _ in range(count):
        if len(directory) - position < _CENTRAL.size:
            raise CheckpointError(f"{place}: expected {count} directory entries, found {len(entries)}")
        signature, _, _, flags, method, _, _, checksum, compressed, size, *others = _CENTRAL.unpack_from(
            directory, position
        )
        *lengths, disk, _, attributes, offset = others
        position += _CENTRAL.size
        parts = []
        for length in lengths:
            parts.append(directory[position : position + length])
            position += length
        name, extra, comment = parts
        if signature != b"PK\1\2" or position > len(directory):
            raise CheckpointError(f"{place}: expected {count} directory entries, found {len(entries)}")
        member = f"{place}: {name!r:.300}"
        if disk or comment:
            raise CheckpointError(f"{member}: expected no comment and one part, found {comment!r:.100}")
        _require_plain(flags, method, attributes, member)
        wide = _wide(_extra_fields(extra, member), [size, compressed, offset], member)
        if wide[0] != wide[1]:
            raise CheckpointError(f"{member}: expected it stored, found {wide[0]} bytes in {wide[1]}")
        entries.append(_Entry(name, flags, checksum, wide[0], wide[2]))
    if position != len(directory):
        raise CheckpointError(f"{place}: expected a zip directory of {position} bytes, found {len(directory)}")
    return entries


def _require_plain(flags: int, method: int, attributes: int, place: str) -> None:
    if flags & _ENCRYPTED:
        raise CheckpointError(f"{place}: expected it readable, found it encrypted")
    if flags & ~(_SIZES_FOLLOW | _UTF8):
        raise CheckpointError(f"{place}: expected the zip flags 0x808 at most, found {flags:#x}")
    if method:
        raise CheckpointError(f"{place}: expected it stored, found compression method {method}")
    # torch would leave the memory for a member marked as a directory uninitialised.
    if attributes & _DIRECTORY or attributes >> 28 not in (0, _REGULAR):
        raise CheckpointError(f"{place}: expected a regular file, found the attributes {attributes:#x}")


def _extra_fields(extra: bytes, place: str) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        header = extra[position : position + 4]
        key, length = int.from_bytes(header[:2], "little"), int.from_bytes(header[2:], "little")
        field = extra[position + 4 : position + 4 + length]
        if len(header) < 4 or len(field) < length:
            raise CheckpointError(f"{place}: expected whole extra fields, found one cut off")
        if key not in (_ZIP64, _PADDING) or key in fields:
            raise CheckpointError(f"{place}: expected padding or ZIP64 as extra fields, found {key:#06x}")
        fields[key] = field
        position += 4 + length
    return fields


def _wide(fields: dict[int, bytes], numbers: list[int], place: str) -> list[int]:
    """`numbers`, with each that is _ELSEWHERE replaced by the next number of the ZIP64 field."""
    field = fields.get(_ZIP64, b"")
    expected = 8 * numbers.count(_ELSEWHERE)
    if len(field) != expected:
        raise CheckpointError(f"{place}: expected a ZIP64 field of {expected} bytes, found {len(field)}")
    wide = iter(struct.unpack(f"<{len(field) // 8}Q", field))
    return [next(wide) if number == _ELSEWHERE else number for number in numbers]


def _name(raw: bytes, place: str) -> str:
    """The name, which must be a relative path without `..`. Nothing is extracted, but honest archives have no
    others."""
    name = raw.decode(errors="replace")
    sound = len(raw) <= _LONGEST_NAME and name.isprintable() and not re.search(r"\\|^[A-Za-z]:|\ufffd", name)
    if not sound or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise CheckpointError(f"{place}: expected members with plain relative names, found {name!r:.300}")
    return name


def _member(file: BinaryIO, entry: _Entry, place: str) -> tuple[Member, int]:
    """The member and the byte after it; its own header must say what the directory says."""
    signature, _, flags, method, _, _, checksum, compressed, size, *lengths = _LOCAL.unpack(
        read_exactly(file, entry.offset, _LOCAL.size, place)
    )
    start = entry.offset + _LOCAL.size + sum(lengths)
    names = read_exactly(file, entry.offset + _LOCAL.size, sum(lengths), place)
    name, fields = names[: lengths[0]], _extra_fields(names[lengths[0] :], place)
    if (signature, name, flags, method) != (b"PK\3\4", entry.name, entry.flags, 0):
        raise CheckpointError(f"{place}: expected the header to repeat the directory, found {name!r:.300}, flags "
                              f"{flags:#x}, method {method} at byte {entry.offset}")
    if flags & _SIZES_FOLLOW:
        followed = _DESCRIPTOR64 if _ZIP64 in fields else _DESCRIPTOR
        end = start + entry.size
        descriptor = followed.unpack(read_exactly(file, end, followed.size, place))
        repeated = [*descriptor, checksum, compressed, size]
        expected = [b"PK\7\10", entry.checksum, entry.size, entry.size, 0, 0, 0]
        end += followed.size
    else:
        repeated = [checksum, *_wide(fields, [size, compressed], place)]
        expected = [entry.checksum, entry.size, entry.size]
        end = start + entry.size
    if repeated != expected:
        raise CheckpointError(f"{place}: expected checksum and sizes {expected}, found {repeated}")
    return Member(start, entry.size, entry.checksum), end
