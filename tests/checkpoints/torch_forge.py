"""Builds .pth files byte by byte, from the pickle's opcodes and the zip's records; valid unless something else is asked
for."""

import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Attack(NamedTuple):
    """A file that must be refused, and part of the expected message."""

    data: bytes
    reason: str


# Opcodes.

ORDERED = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FALSE = b"\x89"


def text(characters: str | bytes) -> bytes:
    raw = characters if isinstance(characters, bytes) else characters.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(number: int) -> bytes:
    length = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + number.to_bytes(length, "little", signed=True)


def integers(*numbers: int) -> bytes:
    return b"(" + b"".join(integer(number) for number in numbers) + b"t"


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> bytes:
    named = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + named + text(key) + text("cpu") + integer(numel) + b"tQ"


def tensor(
    stored: bytes | None = None, offset: bytes | int = 0, shape: bytes | tuple = (2, 2),
    strides: bytes | tuple = (2, 1), last: bytes = FALSE + ORDERED, function: bytes = REBUILD,
) -> bytes:
    """A call of _rebuild_tensor_v2; in place of a number, bytes give any opcodes."""
    numbers = offset if isinstance(offset, bytes) else integer(offset)
    for sizes in (shape, strides):
        numbers += sizes if isinstance(sizes, bytes) else integers(*sizes)
    return function + b"(" + (storage() if stored is None else stored) + numbers + last + b"tR"


def state(**items: bytes) -> bytes:
    """The opcodes of {'model': OrderedDict(items)}, without the pickle's end."""
    return b"}" + text("model") + ORDERED + b"(" + pairs(items) + b"us"


def pairs(items: Mapping[str, bytes]) -> bytes:
    return b"".join(text(name) + value for name, value in items.items())


def program(body: bytes) -> bytes:
    return b"\x80\2" + body + b"."


# The zip archive.

FOLLOWS, UTF8 = 8, 1 << 11
_LOCAL = {"signature": "4s", "needed": "H", "flags": "H", "method": "H", "time": "H", "date": "H", "crc": "L",
          "compressed": "L", "size": "L", "name_length": "H", "extra_length": "H"}
_CENTRAL = {"signature": "4s", "made": "H", "needed": "H", "flags": "H", "method": "H", "time": "H",
            "date": "H", "crc": "L", "compressed": "L", "size": "L", "name_length": "H", "extra_length": "H",
            "comment_length": "H", "disk": "H", "internal": "H", "external": "L", "offset": "L"}
_END = {"signature": "4s", "disk": "H", "first_disk": "H", "here": "H", "count": "H", "size": "L",
        "start": "L", "comment_length": "H"}
_END64 = {"signature": "4s", "rest": "Q", "made": "H", "needed": "H", "disk": "L", "first_disk": "L",
          "here": "Q", "count": "Q", "size": "Q", "start": "Q"}
_LOCATOR = {"signature": "4s", "disk": "L", "offset": "Q", "disks": "L"}


class Part(NamedTuple):
    """A member of the archive; `local` and `central` override single fields of its two headers."""

    name: bytes
    data: bytes
    flags: int = FOLLOWS | UTF8
    local: Mapping[str, Any] = {}
    central: Mapping[str, Any] = {}
    local_name: bytes | None = None
    extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    descriptor: bytes | None = None
    before: bytes = b""


class End(NamedTuple):
    """Overridden fields in the records at the end of the archive, and bytes around the directory."""

    end: Mapping[str, Any] = {}
    end64: Mapping[str, Any] = {}
    locator: Mapping[str, Any] = {}
    zip64: bool = True
    before: bytes = b""
    after: bytes = b""
    reverse: bool = False


def _packed(layout: Mapping[str, str], fields: Mapping[str, Any], lies: Mapping[str, Any]) -> bytes:
    values = dict.fromkeys(layout, 0) | fields | lies
    return struct.pack("<" + "".join(layout.values()), *(values[name] for name in layout))


def archive(parts: Iterable[Part], end: End | None = None) -> bytes:
    """The archive as torch writes it: sizes after each member's data, ZIP64 records at the end."""
    end = end or End()
    data = b""
    directory: list[bytes] = []
    for part in parts:
        data += part.before
        fields = {"flags": part.flags, "crc": zlib.crc32(part.data), "compressed": len(part.data),
                  "size": len(part.data), "name_length": len(part.name), "offset": len(data)}
        central = fields | {"signature": b"PK\1\2", "extra_length": len(part.central_extra),
                            "comment_length": len(part.comment)}
        local_name = part.name if part.local_name is None else part.local_name
        local = fields | {"signature": b"PK\3\4", "extra_length": len(part.extra),
                          "name_length": len(local_name)}
        del local["offset"]
        descriptor = b""
        if part.flags & FOLLOWS:
            local |= {"crc": 0, "compressed": 0, "size": 0}
            descriptor = struct.pack("<4s3L", b"PK\7\10", fields["crc"], len(part.data), len(part.data))
        if part.descriptor is not None:
            descriptor = part.descriptor
        data += _packed(_LOCAL, local, part.local) + local_name + part.extra + part.data + descriptor
        entry = _packed(_CENTRAL, central, part.central)
        directory.append(entry + part.name + part.central_extra + part.comment)
    if end.reverse:
        directory.reverse()
    return data + _ended(b"".join(directory), len(data), len(directory), end)


def _ended(directory: bytes, position: int, count: int, lies: End) -> bytes:
    start = position + len(lies.before)
    fields = {"here": count, "count": count, "size": len(directory), "start": start}
    tail = directory
    if lies.zip64:
        offset = start + len(directory)
        tail += _packed(_END64, fields | {"signature": b"PK\6\6", "rest": 44}, lies.end64)
        tail += _packed(_LOCATOR, {"signature": b"PK\6\7", "offset": offset, "disks": 1}, lies.locator)
    return lies.before + tail + _packed(_END, fields | {"signature": b"PK\5\6"}, lies.end) + lies.after


FOUR = np.arange(4, dtype="<f4").tobytes()


def parts(
    body: bytes | None = None, records: Mapping[str, bytes] | None = None, pickled: bytes | None = None
) -> dict[str, Part]:
    """The members of a checkpoint by their short names."""
    if pickled is None:
        pickled = program(state(a=tensor()) if body is None else body)
    contents = {"data.pkl": pickled}
    contents["byteorder"] = b"little"
    contents |= {f"data/{key}": data for key, data in ({"0": FOUR} if records is None else records).items()}
    contents["version"] = b"3\n"
    return {name: Part(b"archive/" + name.encode(), data) for name, data in contents.items()}


def checkpoint(
    body: bytes | None = None, records: Mapping[str, bytes] | None = None, pickled: bytes | None = None
) -> bytes:
    """A valid archive around a pickle: `body` without its beginning and end, or `pickled` complete."""
    return archive(parts(body, records, pickled).values())


def altered(member: str, **changes: Any) -> bytes:
    """The valid checkpoint with one member changed."""
    honest = parts()
    honest[member] = honest[member]._replace(**changes)
    return archive(honest.values())


def ended(**lies: Any) -> bytes:
    """The valid checkpoint with its end changed."""
    return archive(parts().values(), End(**lies))
