"""Parses the container of a JPEG, PNG or WebP file: its format, size and orientation, and whether it is complete.

This happens before a decoder sees the file, so that size limits apply before memory is allocated, and so that the
metadata of JPEG and PNG (colour profiles, text, EXIF, animation control) never reaches the decoder: it changes no
pixel, and Pillow warns about it if it is damaged. Sources: ITU-T T.81 annex B (JPEG), the PNG specification, RFC 9649
(WebP), Exif 2.32 section 4.6 (orientation).
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ImageError


class Container(NamedTuple):
    """What the container says about its image, and the data for the decoder."""

    format: str        # "JPEG", "PNG" or "WEBP"
    width: int
    height: int
    orientation: int   # the EXIF tag: 1 is upright or not given, 2 to 8 are rotated or mirrored
    bit_depth: int     # bits per sample, as stored
    data: bytes        # the file without the metadata that changes no pixel


MAX_JPEG_SCANS = 100   # each scan covers the whole image, so a small file with thousands of empty ones takes hours
MAX_PARTS = 100_000    # segments or chunks; Pillow needs a minute and gigabytes for ten million empty ones

# FF and a byte that is neither stuffing (00), a fill byte (FF) nor a marker without a segment (01, D0 to D8)
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
REFUSED_SIGNATURES = {
    b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF", b"8BPS": "PSD",
    b"\0\0\1\0": "ICO", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL",
}
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_container(data: bytes) -> Container:
    """Parses a JPEG, PNG or WebP file.  Raises ImageError (without a file name) for anything else, and for a truncated
    file, which ends before its container says that it should.
    """
    if not data:
        raise ImageError("expected a JPEG, PNG or WebP image, found an empty file")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(data)
        if data.startswith(PNG_SIGNATURE):
            return _read_png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _read_webp(data)
    except struct.error:   # every read past the end of the bytes
        raise ImageError("truncated or damaged: the file ends inside its header") from None
    raise ImageError(f"expected a JPEG, PNG or WebP image, found {_name_refused(data)}")


def _name_refused(data: bytes) -> str:
    for signature, name in REFUSED_SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"avif", b"avis"):
            return "AVIF"
        return "HEIC" if data[8:12] in HEIC_BRANDS else "a film or another ISO media file"
    start = data[:4096].lower()
    for tag, name in ((b"<svg", "SVG"), (b"<html", "HTML"), (b"<!doctype html", "HTML")):
        if tag in start:
            return name
    return "no known image format"


def _read_jpeg(data: bytes) -> Container:
    """Walks the segments up to the first scan; keeps all except comments and application data."""
    frame, orientation, kept = None, 1, [b"\xff\xd8"]
    for marker, start, end in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):   # a start of frame
            if frame is not None:
                raise ImageError("damaged: the JPEG holds two frame headers")
            frame = struct.unpack_from(">BHH", data, start + 4)   # bits, height, width
        if marker == 0xE1 and data[start + 4: start + 10] == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(data[start + 4: end])
        # Kept of the application data: JFIF (E0) and Adobe (EE), which define the colour space of the samples.
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in (0xE0, 0xEE):
            kept.append(data[start: end])
    if frame is None:
        raise ImageError("damaged: the JPEG holds no frame header")
    if data.find(b"\xff\xd9", end) < 0:   # in entropy-coded data FF is always followed by 00
        raise ImageError("truncated: the JPEG ends before its end-of-image marker")
    if data.count(b"\xff\xda", end) >= MAX_JPEG_SCANS:
        raise ImageError(f"expected a JPEG of at most {MAX_JPEG_SCANS} scans, found more")
    kept.append(memoryview(data)[end:])
    bit_depth, height, width = frame
    return Container("JPEG", width, height, orientation, bit_depth, b"".join(kept))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, position of its FF, end of the segment), up to and including the first scan's header."""
    end = 2
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(data, end)
        if found is None:
            raise ImageError("truncated: the JPEG ends before its first scan")
        start, marker = found.start(), data[found.start() + 1]
        if marker == 0xD9:
            raise ImageError("damaged: the JPEG holds no scan")
        (length,) = struct.unpack_from(">H", data, start + 2)   # counts itself
        end = start + 2 + length
        if length < 2 or end > len(data):
            raise ImageError(f"truncated or damaged: a JPEG segment of {length} bytes does not fit the file")
        yield marker, start, end
        if marker == 0xDA:
            return
    raise ImageError(f"expected a JPEG of at most {MAX_PARTS} segments, found more")


def _read_png(data: bytes) -> Container:
    """Walks the chunks; keeps the critical ones and the transparency."""
    view, kept, orientation, palette = memoryview(data), [PNG_SIGNATURE], 1, False
    for kind, start, end in _png_chunks(data):
        if (kind == b"IHDR") != (len(kept) == 1) or (kind == b"IHDR" and end - start != 25):
            raise ImageError("damaged: expected one PNG header, first and of 13 bytes")
        if kind == b"eXIf":
            orientation = _exif_orientation(data[start + 8: end - 4])
        elif kind in PNG_KEPT:
            kept.append(view[start: end])
            palette = palette or kind == b"PLTE"
        elif not kind[0] & 0x20:   # a capital first letter means critical: a reader that does not know it must stop
            raise ImageError(f"expected a standard PNG, found the critical chunk {_printable(kind)}")
    width, height, bit_depth, colour_type = struct.unpack_from(">IIBB", data, 16)
    if colour_type == 3 and not palette:
        raise ImageError("damaged: the palette is missing")
    return Container("PNG", width, height, orientation, bit_depth, b"".join(kept))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk up to IEND, after checking the checksums of those that are used."""
    view, end = memoryview(data), len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        start = end
        length, kind = struct.unpack_from(">I4s", data, start)   # the length counts the body alone
        end = start + 12 + length
        if end > len(data):
            raise ImageError(f"truncated: the file ends in the {length} bytes of chunk {_printable(kind)}")
        if kind in PNG_KEPT or kind == b"eXIf":
            if zlib.crc32(view[start + 4: end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise ImageError(f"damaged: the checksum of PNG chunk {_printable(kind)} does not match")
        yield kind, start, end
        if kind == b"IEND":
            return
    raise ImageError(f"expected a PNG of at most {MAX_PARTS} chunks, found more")


def _read_webp(data: bytes) -> Container:
    """Takes the canvas size from the first chunk and the orientation from the EXIF chunk, if there is one."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise ImageError(f"truncated: the WebP file has {len(data)} bytes of {end}")
    data = data[:end]
    first = data[12:16]
    if first == b"VP8 ":     # lossy: a key frame header, 14 bits a side
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif first == b"VP8L":   # lossless: 14 bits a side, minus one
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif first == b"VP8X":   # extended: 24 bits a side, minus one
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        width, height = (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    else:
        raise ImageError(f"expected a WebP image, found the chunk {_printable(first)} first")
    orientation, position = 1, 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            orientation = _exif_orientation(data[position + 8: position + 8 + length])
        position += 8 + length + length % 2   # chunks are padded to even lengths
    return Container("WEBP", width, height, orientation, 8, data)


def _exif_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory; 1 (upright) if it is missing or malformed."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == 0x0112 and kind in (3, 4) and count == 1:   # SHORT; LONG is not standard, but written
                (orientation,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
                return orientation
    except struct.error:   # an offset past the end
        pass
    return 1


def _printable(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))
