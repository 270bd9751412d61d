"""Small pictures, and files made from them, for the tests of this folder."""

import io
import struct
import zlib

import numpy as np

from levit_np.images.decoding import open_image

RNG = np.random.default_rng(20210402)
COLOUR = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0].copy()


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(colour_type, bit_depth, rows, *chunks):
    """A PNG built by hand: `rows` are the packed scan lines; `chunks` (kind, body) come before the pixels."""
    height, width = len(rows), len(rows[0]) * 8 // bit_depth // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))   # filter type 0: none
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    framed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def exif(orientation, order="<", kind=3, count=1, entries=2, directory=8):
    """An EXIF block whose first directory contains the image's width and its orientation."""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", directory, entries)
    width = struct.pack(order + "HHII", 0x0100, 4, 1, 640)
    tag = struct.pack(order + "HHI", 0x0112, kind, count)
    return start + width + tag + struct.pack(order + {3: "Hxx", 4: "I"}[kind], orientation) + bytes(4)


def as_rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def opened(source, mode="RGB"):
    image = open_image(source, mode)
    assert image.mode == mode
    return np.asarray(image)
