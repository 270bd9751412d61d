"""Randomly mutated image files give an image or an ImageError: no other exception, no warning, no huge image."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from levit_np.errors import ImageError
from levit_np.images.decoding import open_image

TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def encode(mode, format, **options):
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (11, 18, 4), dtype=np.uint8))
    frames = [noise.convert(mode), noise.rotate(180).convert(mode)]
    if options.get("save_all"):
        options["append_images"] = frames[1:]
    file = io.BytesIO()
    frames[0].save(file, format, **options)
    return file.getvalue()


SEEDS = {
    "JPEG": [
        encode("RGB", "JPEG", exif=TURNED), encode("L", "JPEG", quality=20), encode("CMYK", "JPEG"),
        encode("RGB", "JPEG", progressive=True, comment=b"x"), encode("RGB", "JPEG", restart_marker_blocks=1),
    ],
    "PNG": [
        encode("RGB", "PNG", exif=TURNED), encode("RGBA", "PNG"), encode("P", "PNG", transparency=bytes(9)),
        encode("LA", "PNG"), encode("1", "PNG"), encode("I;16", "PNG"), encode("RGB", "PNG", save_all=True),
        encode("L", "PNG", bits=4, transparency=3),
    ],
    "WEBP": [
        encode("RGB", "WEBP"), encode("RGBA", "WEBP"), encode("RGB", "WEBP", lossless=True),
        encode("RGBA", "WEBP", lossless=True, exif=TURNED[6:]), encode("RGB", "WEBP", save_all=True),
    ],
}
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 127, 128, 254, 255, 256, 4096, 0x7FFF, 0x8000, 0xFFFF,
           0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutated(rng, seeds):
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        # Half of the changes are in the first 64 bytes, where the headers are.
        at = rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at: at + rng.choice((1, 2, 4, 30))]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 30)))
        elif kind == 4:
            number = struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS))
            number = number[:rng.choice((1, 2, 3, 4))]
            data[at: at + len(number)] = number
        elif kind == 5:
            other = rng.choice(seeds)
            start = rng.randrange(len(other))
            data[at: at + rng.choice((0, 4, 50))] = other[start: start + rng.choice((4, 50, 400))]
        else:
            del data[at + 1:]
        data = data or bytearray(b"\0")
    return bytes(data)


def repaired(data):
    """The file with its checksums (PNG) or its length (WebP) corrected, so that mutations reach the decoder."""
    data = bytearray(data)
    if data.startswith(b"RIFF") and len(data) > 8:
        data[4:8] = struct.pack("<I", len(data) - 8)
        return bytes(data)
    position = 8
    while data.startswith(b"\x89PNG") and position + 12 <= len(data):
        end = position + 8 + struct.unpack_from(">I", data, position)[0]
        if end + 4 <= len(data):
            data[end: end + 4] = struct.pack(">I", zlib.crc32(data[position + 4: end]))
        position = end + 4
    return bytes(data)


def fuzz(format, mutations):
    """How many mutated files were decoded; fails on anything but an image or an ImageError in one line."""
    rng = random.Random(f"{format} {mutations}")
    decoded = 0
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")   # with the filter "error" a warning would be taken for an ImageError
        for _ in range(mutations):
            data = mutated(rng, SEEDS[format])
            data = repaired(data) if rng.random() < 0.7 else data
            mode = rng.choice(("RGB", "L"))
            try:
                image = open_image(data, mode)
            except ImageError as error:
                assert str(error).startswith("bytes: ") and str(error).isprintable()
                continue
            assert image.mode == mode and 0 < image.width * image.height <= 50_000_000
            decoded += 1
    assert not seen, seen[0]
    return decoded


@pytest.mark.parametrize("format", SEEDS)
def test_mutated_files(format):
    decoded = fuzz(format, 2000)
    assert 80 < decoded < 1900   # many mutations reach the decoder, and many are refused


@pytest.mark.slow
@pytest.mark.parametrize("format", SEEDS)
def test_very_many_mutated_files(format):
    fuzz(format, 100_000)
