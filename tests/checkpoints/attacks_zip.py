"""Hostile archives around a valid pickle; each differs from the honest file in one thing. See attacks_torch.py."""

import io
import struct
import tarfile
import zipfile
import zlib

from tests.checkpoints.torch_forge import (
    FOLLOWS, FOUR, UTF8, Attack, End, Part, altered, archive, checkpoint, ended, parts, program, state, tensor,
)

ZIP_ATTACKS: dict[str, Attack] = {}
HONEST = checkpoint()
_CRC = zlib.crc32(FOUR)


def _file(name: str, data: bytes, reason: str) -> None:
    assert name not in ZIP_ATTACKS and data != HONEST
    ZIP_ATTACKS[name] = Attack(data, reason)


def _added(name: str, reason: str, *more: Part) -> None:
    _file(name, archive([*parts().values(), *more]), reason)


def _altered(name: str, reason: str, member: str = "data/0", **changes) -> None:
    _file(name, altered(member, **changes), reason)


def _ended(name: str, reason: str, **lies) -> None:
    _file(name, ended(**lies), reason)


# Other files.

_ZIP = "expected a zip archive"
_file("empty file", b"", _ZIP)
_file("signature alone", b"PK\3\4", _ZIP)
_file("end of a zip archive alone", b"PK\5\6" + bytes(18), _ZIP)
_file("archive without members", archive([]), _ZIP)
_file("zeros", bytes(1000), f"found {bytes(4)!r}")
_file("pickle of torch before 1.6", b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
      "found a pickle of an older one")
_file("pickle of protocol 0", b"cos\nsystem\n(S'touch /tmp/owned'\ntR.", _ZIP)
_file("nine bytes without an archive", b"\x80\2Nr\xff\xff\xff\x1f.", "found a pickle of an older one")


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 4
            written.addfile(member, io.BytesIO(b"\x80\2N."))
    return file.getvalue()


_file("signature and end of a zip archive", b"PK\3\4" + archive([], End(zip64=False)),
      "expected the zip directory to end at byte 4, found 0 + 0")
_file("tar of torch before 0.1.10", _tar(), _ZIP)
_file("cut off by one byte", HONEST[:-1], "no zip directory at its end")
_file("cut off in the middle", HONEST[: len(HONEST) // 2], "no zip directory at its end")
_file("bytes before the archive", b"#!/bin/sh\n" + HONEST, _ZIP)
_file("archive behind another program", b"PK\3\4" + HONEST, "ZIP64 end")
_file("bytes after the archive", HONEST + b"\0", "no zip directory at its end")
_file("comment that is another archive", ended(end={"comment_length": len(HONEST)}, after=HONEST),
      "expected the ZIP64 end")

# Members that overlap, or leave gaps.


def _overlapping() -> bytes:
    """A thousand directory entries for the same bytes."""
    kernel = Part(b"archive/data/0", bytes(1 << 16))
    repeated = [Part(b"archive/data/%d" % i, b"", flags=0, local_name=b"",
                     central={"offset": 0, "crc": zlib.crc32(kernel.data), "compressed": 1 << 16,
                              "size": 1 << 16, "flags": kernel.flags}) for i in range(1, 1000)]
    return archive([kernel, *repeated])


def _nested() -> bytes:
    """The content of each member contains the next member's header and content."""
    inner = archive([Part(b"archive/data/1", FOUR, flags=0)])[: 30 + len(b"archive/data/1") + len(FOUR)]
    first = Part(b"archive/data/0", inner, flags=0)
    start = 30 + len(b"archive/data/0")
    second = Part(b"archive/data/1", b"", flags=0,
                  central={"offset": start, "crc": _CRC, "compressed": 16, "size": 16})
    return archive([first, second])


_BEGIN = "expected to begin at byte"
_file("a thousand members in the same bytes", _overlapping(), _BEGIN)
_file("member inside a member", _nested(), _BEGIN)
_altered("gap before a member", _BEGIN, before=b"#!/bin/sh\n")
_altered("gap before the first member", _ZIP, member="data.pkl", before=bytes(4))
_altered("member that begins later", _BEGIN, central={"offset": 1 << 20})
_altered("member that begins at 4 GB", "ZIP64", central={"offset": 0xFFFFFFFF})
_altered("member as large as 4 GB", _BEGIN, central={"compressed": 0xFFFFFFFE, "size": 0xFFFFFFFE})
_ended("gap before the directory", "expected the zip directory at byte", before=bytes(100))
_ended("directory in another order than the members", _BEGIN, reverse=True)

# Members that are not stored.

_deflated = zlib.compress(FOUR, wbits=-15)
_altered("deflated member", "found compression method 8",
         data=_deflated, local={"method": 8}, central={"method": 8, "size": 16, "crc": _CRC},
         descriptor=struct.pack("<4s3L", b"PK\7\10", _CRC, len(_deflated), 16))


def _bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, part in parts().items():
            written.writestr(f"archive/{name}", part.data if name != "data/0" else bytes(100 << 20))
    return file.getvalue()


_file("deflated member of 100 MB", _bomb(), "found compression method 8")
_altered("deflated in the header alone", "expected the header to repeat", local={"method": 8})
_altered("deflated in the directory alone", "found compression method 8", central={"method": 8})
_altered("method 99", "found compression method 99", local={"method": 99}, central={"method": 99})
_altered("stored in fewer bytes", "expected it stored", central={"size": 1 << 20})
_altered("encrypted member", "found it encrypted", flags=FOLLOWS | UTF8 | 1)
_altered("encrypted in the header alone", "expected the header to repeat",
         local={"flags": FOLLOWS | UTF8 | 1})
_altered("encrypted in the directory alone", "found it encrypted", central={"flags": FOLLOWS | UTF8 | 1})
_altered("strongly encrypted member", "found it encrypted", flags=FOLLOWS | UTF8 | 0x41)
_altered("patch", "expected the zip flags", flags=FOLLOWS | UTF8 | 0x20)
_altered("masked headers", "expected the zip flags", flags=FOLLOWS | UTF8 | 0x2000)

_altered("directory by its attributes", "expected a regular file", central={"external": 0x10})
_altered("directory of Unix by its attributes", "expected a regular file",
         central={"external": 0o040755 << 16})
_altered("symbolic link by its attributes", "expected a regular file", central={"external": 0o120777 << 16})

# Headers that disagree.

_REPEAT = "expected the header to repeat"
_SIZES = "expected checksum and sizes"
_altered("other name in the header", _REPEAT, local_name=b"archive/data/1")
_altered("longer name in the header", _REPEAT, local_name=b"archive/data/00")
_altered("other signature of the header", _REPEAT, local={"signature": b"PK\3\5"})
_altered("other size in the header", _SIZES, flags=UTF8, local={"size": 8})
_altered("other compressed size in the header", _SIZES, flags=UTF8, local={"compressed": 8})
_altered("other checksum in the header", _SIZES, flags=UTF8, local={"crc": 1})
_altered("sizes in the header and after it", _SIZES, local={"size": 16, "compressed": 16})
_altered("other checksum after the member", _SIZES, descriptor=struct.pack("<4s3L", b"PK\7\10", 1, 16, 16))
_altered("other size after the member", _SIZES, descriptor=struct.pack("<4s3L", b"PK\7\10", _CRC, 16, 8))
_altered("sizes after the member without a signature", _SIZES, descriptor=struct.pack("<4L", _CRC, 16, 16, 0))
_altered("no sizes after the member", _SIZES, descriptor=b"")
_altered("wrong checksum", "expected the CRC-32 00000001", flags=UTF8, local={"crc": 1}, central={"crc": 1})
_file("one bit of a weight", HONEST.replace(FOUR, FOUR[:-1] + b"\x41"), "expected the CRC-32")
_file("one bit of a member that is not read", altered("version", name=b"archive/.a").replace(b"3\n", b"4\n"),
      "expected the CRC-32")

# Names.

_NAMES = "expected members with plain relative names"
for _name, _bytes in {
    "..": b"archive/../../etc/passwd", "absolute": b"/etc/passwd", "drive": b"C:/data.pkl",
    "backslashes": b"archive\\..\\data", "NUL": b"archive/data/0\0", "no UTF-8": b"archive/\xff",
    "control characters": b"archive/\x1b[31m", "nothing": b"", "an empty part": b"archive//data",
    "a point": b"archive/./data",
    "513 bytes": b"archive/" + b"a" * 505, "a directory": b"archive/data/",
}.items():
    _added(f"name of {_name}", _NAMES, Part(_bytes, b"", flags=UTF8))
_FOLDER = "expected data.pkl, version, byteorder and data/* in one folder"
_added("member twice", "expected one member archive/data/0, found two", parts()["data/0"])
_added("program twice", "expected one member archive/data.pkl, found two", parts()["data.pkl"])
_added("second folder", _FOLDER, Part(b"other/data.pkl", b"a"))
_added("member without a folder", _FOLDER, Part(b"data.pkl", b"a"))
_added("TorchScript's constants", _FOLDER, Part(b"archive/constants.pkl", program(b")")))
_added("TorchScript's code", _FOLDER, Part(b"archive/code/__torch__.py", b"import os"))
_added("member that is a program", _FOLDER, Part(b"archive/__main__.py", b"import os"))
_MOST = "expected at most 4160 members in a directory of 2097152 bytes, found"
_added("4,161 members", f"{_MOST} 4161", *[Part(b"archive/.%d" % i, b"a") for i in range(4157)])
_added("directory of 3 MB", f"{_MOST} 54",
       *[Part(b"archive/.%d" % i, b"a", central_extra=b"FB\xf0\xff" + bytes(0xFFF0)) for i in range(50)])

# Extra fields and ZIP64.

_EXTRA = "expected padding or ZIP64 as extra fields"
_WHOLE = "expected whole extra fields"
_WIDE = "expected a ZIP64 field of"
_altered("another name as an extra field", _EXTRA, central_extra=b"up\7\0\1\0\0\0\0ab")
_altered("another name in the header's extra field", _EXTRA, extra=b"up\7\0\1\0\0\0\0ab")
_altered("times as an extra field", _EXTRA, extra=b"UT\5\0\1\0\0\0\0")
_altered("padding twice", _EXTRA, extra=b"FB\0\0FB\0\0")
_altered("extra field cut off", _WHOLE, extra=b"FB\4\0\0")
_altered("extra field of three bytes", _WHOLE, central_extra=b"FB\0")
_altered("size in ZIP64 without the field", _WIDE, central={"size": 0xFFFFFFFF})
_altered("ZIP64 field that nothing needs", _WIDE, central_extra=struct.pack("<2HQ", 1, 8, 16))
_altered("ZIP64 field that is too short", _WIDE, central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
         central_extra=struct.pack("<2HQ", 1, 8, 16))
_altered("size of 2^64 - 1", _BEGIN,
         central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
         central_extra=struct.pack("<2H2Q", 1, 16, (1 << 64) - 1, (1 << 64) - 1))
_altered("size of 2^40", _BEGIN, central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
         central_extra=struct.pack("<2H2Q", 1, 16, 1 << 40, 1 << 40))
_altered("two sizes in ZIP64", "expected it stored", central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
         central_extra=struct.pack("<2H2Q", 1, 16, 16, 8))
_altered("offset in ZIP64 that is another", _BEGIN, central={"offset": 0xFFFFFFFF},
         central_extra=struct.pack("<2HQ", 1, 8, 0))
_altered("other size in the header's ZIP64", _SIZES, flags=UTF8,
         local={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
         extra=struct.pack("<2H2Q", 1, 16, 1 << 40, 1 << 40))
_altered("ZIP64 that promises wide sizes after the member", _SIZES, extra=struct.pack("<2H2Q", 1, 16, 16, 16))

# The end of the directory.

_AGREE = "expected the two ends of the zip directory to agree"
_PARTS = "in one part"
_ended("comment", "no zip directory at its end", end={"comment_length": 4}, after=b"#!sh")
_ended("comment that is not there", "no zip directory at its end", end={"comment_length": 4})
_ended("one of two parts", _PARTS, end={"disk": 1})
_ended("one of two parts in ZIP64", _PARTS, end64={"disk": 1})
_ended("directory that begins in another part", _PARTS, end={"first_disk": 1})
_ended("directory that begins in another part in ZIP64", _PARTS, end64={"first_disk": 1})
_ended("directory in another part in the locator", _PARTS, locator={"disk": 1})
_ended("two parts in the locator", _PARTS, locator={"disks": 2})
_ended("more entries in all than here", _PARTS, end={"count": 9})
_ended("more entries in all than here in ZIP64", _PARTS, end64={"count": 9})
_ended("fewer entries in ZIP64", _AGREE, end64={"count": 3, "here": 3})
_ended("fewer entries", "expected a zip directory of", end={"count": 3, "here": 3}, zip64=False)
_ended("more entries", "expected 5 directory entries, found 4", end={"count": 5, "here": 5}, zip64=False)
_ended("directory elsewhere", "expected the zip directory to end at byte", end={"start": 0}, zip64=False)
_ended("directory elsewhere in ZIP64", _AGREE, end64={"start": 0})
_ended("larger directory in ZIP64", _AGREE, end64={"size": 1 << 40})
_ended("2^40 entries in ZIP64", "expected at most 4160", end={"count": 0xFFFF, "here": 0xFFFF},
       end64={"count": 1 << 40, "here": 1 << 40})
_ended("directory at 2^63", "expected the zip directory to end at", end={"start": 0xFFFFFFFF},
       end64={"start": 1 << 63})
_ended("ZIP64 numbers without ZIP64", "expected the zip directory to end at",
       end={"start": 0xFFFFFFFF, "size": 0xFFFFFFFF}, zip64=False)
_ended("locator that points elsewhere", "expected the ZIP64 end at byte", locator={"offset": 0})
_ended("ZIP64 end of another length", "expected the ZIP64 end at byte", end64={"rest": 1 << 40})
_ended("ZIP64 end without a signature", "expected the ZIP64 end at byte", end64={"signature": b"PK\0\0"})
_ended("ZIP64 locator without a signature", "expected the zip directory to end",
       locator={"signature": b"PK\0\0"})
_altered("comment of a member", "expected no comment", comment=b"#!/bin/sh")
_altered("member in another part", "expected no comment and one part", central={"disk": 1})
_altered("other signature in the directory", "expected 4 directory entries, found 2",
         central={"signature": b"PK\1\3"})
_altered("longer comment than the directory", "directory entries", member="version",
         central={"comment_length": 100})

# What torch checks too.

_without = {name: [part for key, part in parts().items() if key != name] for name in parts()}
_file("archive without a program", archive(_without["data.pkl"]), "found an archive without data.pkl")
_file("archive without a version", archive(_without["version"]), "found an archive without version")
_file("archive without the record", archive(_without["data/0"]), "expected the id of a storage")
_altered("version 0", "expected a version from 1 to 10", "version", data=b"0\n")
_altered("version 11", "expected a version from 1 to 10, found b'11'", "version", data=b"11\n")
_altered("version of words", "expected a version from 1 to 10", "version", data=b"three")
_altered("version of other digits", "expected a version from 1 to 10", "version", data="³".encode())
_altered("version of 9 bytes", "expected at most 8 bytes, found 9", "version", data=b"3" + b"\n" * 8)
_altered("big-endian", "expected the byte order little, found b'big'", "byteorder", data=b"big")
_altered("byte order of 1 MB", "expected at most 8 bytes", "byteorder", data=b"l" * (1 << 20))
_altered("program of 5 MB", "expected at most 4194304 bytes", "data.pkl",
         data=program(state(a=tensor())) + bytes(5 << 20))
