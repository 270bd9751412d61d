"""Image files that are refused before a decoder sees them: truncated, too large, damaged, or of another format."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from levit_np.errors import ImageError
from levit_np.images import decoding
from levit_np.images.containers import MAX_JPEG_SCANS, MAX_PARTS, read_container
from levit_np.images.decoding import open_image

from .samples import encode

PICTURE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (9, 14, 3), dtype=np.uint8))
TURNED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"   # EXIF: orientation 6
EXIF = b"Exif\0\0" + TURNED

FILES = {
    "jpeg": encode(PICTURE, "JPEG", exif=EXIF),
    "jpeg, progressive": encode(PICTURE, "JPEG", progressive=True, comment=b"a comment"),
    "jpeg, cmyk": encode(PICTURE.convert("CMYK"), "JPEG"),
    "png": encode(PICTURE, "PNG", exif=EXIF),
    "png, palette": encode(PICTURE.quantize(9), "PNG", transparency=bytes(9), icc_profile=b"a profile"),
    "png, animated": encode(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(90)]),
    "webp": encode(PICTURE, "WEBP"),
    "webp, lossless": encode(PICTURE, "WEBP", lossless=True),
    "webp, extended": encode(PICTURE.convert("RGBA"), "WEBP", exif=EXIF),
    "webp, animated": encode(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(90)]),
}


def refusal(source):
    """The one-line message with which it is refused, the same under all warning filters."""
    messages = set()
    for action in ("error", "ignore", "always"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter(action)
            with pytest.raises(ImageError) as caught:
                open_image(source)
        assert not seen
        messages.add(str(caught.value))
    (message,) = messages
    assert message.isprintable()
    return message


def with_crcs(data):
    """The PNG with every checksum corrected."""
    parts, position = [data[:8]], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4: position + 8 + length]
        parts.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        position += 12 + length
    return b"".join(parts)


def replaced(data, position, new):
    return data[:position] + new + data[position + len(new):]


def jpeg_of(width, height):
    data = FILES["jpeg"]
    return replaced(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


# -- truncation

@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_anywhere_is_refused(kind, tmp_path):
    data = FILES[kind]
    assert open_image(data).size == ((9, 14) if TURNED in data else (14, 9))
    for length in range(len(data)):
        with pytest.raises(ImageError):
            open_image(data[:length])
    path = tmp_path / "cut.jpg"
    for length in (len(data) // 2, len(data) - 12, len(data) - 1):
        path.write_bytes(data[:length])
        assert refusal(path).startswith(f"{path}: truncated")


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_jpeg():
    small = FILES["jpeg"]
    data = small[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(small)) + small + small[2:]
    assert open_image(data).tobytes() == open_image(small).tobytes()
    assert "before its end-of-image marker" in refusal(data[:-2])


@pytest.mark.parametrize("trailing", [b"trailing bytes", b"EXIF\x1a\0\0\0" + TURNED])
@pytest.mark.parametrize("kind", FILES)
def test_bytes_after_a_complete_file_are_ignored(kind, trailing):
    assert open_image(FILES[kind] + trailing).tobytes() == open_image(FILES[kind]).tobytes()


# -- sizes

def test_a_decoder_that_finds_another_size_is_not_trusted(monkeypatch):
    lie = read_container(FILES["png"])._replace(width=13)
    monkeypatch.setattr(decoding, "read_container", lambda data: lie)
    assert "damaged: the header says 13 x 9, the image 14 x 9" in refusal(FILES["png"])


@pytest.mark.parametrize(("data", "size"), [
    (with_crcs(replaced(FILES["png"], 16, struct.pack(">II", 60000, 60000))), "60000 x 60000"),
    (with_crcs(replaced(FILES["png"], 16, struct.pack(">II", 2**31 - 1, 1))), "2147483647 x 1"),
    (with_crcs(replaced(FILES["png"], 16, struct.pack(">II", 16_666_667, 3))), "16666667 x 3"),
    (jpeg_of(65500, 65500), "65500 x 65500"),
    (replaced(FILES["webp, extended"], 24, b"\xfe\xff\1\0\0\2"), "131071 x 131073"),
    (replaced(FILES["webp"], 26, b"\xff\x3f\xff\x3f"), "16383 x 16383"),
    (replaced(FILES["webp, lossless"], 21, b"\xff\xff\xff\x0f"), "16384 x 16384"),
])
def test_a_bomb_is_refused_before_it_is_decoded(data, size, monkeypatch):
    monkeypatch.setattr(decoding, "DECODERS", {})
    assert len(data) < 3000
    assert refusal(data) == f"bytes: expected at most 50 megapixels, found {size}"


def test_pillows_own_limit_holds_if_it_is_lower_and_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)   # PICTURE has 126: Pillow would only warn
    for source in [*FILES.values(), PICTURE, np.asarray(PICTURE)]:
        assert "expected at most 0.0001 megapixels, found 14 x 9" in refusal(source)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14 * 9)
    assert open_image(PICTURE).size == (14, 9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(PICTURE).size == (14, 9)
    assert "50 megapixels" in refusal(jpeg_of(65500, 65500))


def test_the_scaling_bits_of_a_webp_are_not_part_of_its_size():
    data = FILES["webp"]
    scaled = replaced(data, 27, bytes([data[27] | 0x40, data[28], data[29] | 0x80]))
    assert open_image(scaled).tobytes() == open_image(data).tobytes()


@pytest.mark.parametrize("data", [
    jpeg_of(0, 9), jpeg_of(14, 0), with_crcs(replaced(FILES["png"], 16, bytes(8))),
    replaced(FILES["webp"], 26, bytes(4)),
])
def test_images_without_pixels_are_refused(data):
    assert "expected at least one pixel" in refusal(data)


def test_files_over_50_mb_are_refused(tmp_path):
    path = tmp_path / "large.png"
    with open(path, "wb") as file:
        file.write(FILES["png"])
        file.truncate(50_000_001)   # sparse: takes no disk
    assert refusal(path) == f"{path}: expected at most 50 MB, found more"
    with open(path, "rb") as file:
        assert "50 MB" in refusal(file)
    with open(path, "r+b") as file:
        file.truncate(50_000_000)
    assert open_image(path).size == (9, 14)


def test_a_jpeg_of_very_many_scans_is_refused():
    data = FILES["jpeg, progressive"]
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    assert open_image(data[:-2] + scan * 50 + data[-2:]).size == (14, 9)
    more = MAX_JPEG_SCANS - data.count(b"\xff\xda")
    assert read_container(data[:-2] + scan * more + data[-2:]).width == 14
    assert f"at most {MAX_JPEG_SCANS} scans" in refusal(data[:-2] + scan * (more + 1) + data[-2:])


def test_files_of_very_many_parts_are_refused():
    jpeg, png = FILES["jpeg"], FILES["png"]
    empty = struct.pack(">I4sI", 0, b"tEXt", zlib.crc32(b"tEXt"))
    for count, refused in ((MAX_PARTS - 100, False), (MAX_PARTS, True)):
        for data in (jpeg[:2] + b"\xff\xfe\0\2" * count + jpeg[2:], png[:33] + empty * count + png[33:]):
            if refused:
                assert f"at most {MAX_PARTS}" in refusal(data)
            else:
                assert open_image(data).size == (9, 14)


# -- other formats

@pytest.mark.parametrize(("data", "found"), [
    (b"", "an empty file"),
    (encode(PICTURE, "GIF"), "GIF"),
    (encode(PICTURE, "TIFF"), "TIFF"),
    (b"MM\0*" + bytes(99), "TIFF"),
    (encode(PICTURE, "BMP"), "BMP"),
    (encode(PICTURE, "ICO"), "ICO"),
    (encode(PICTURE, "PDF"), "PDF"),
    (encode(PICTURE, "PPM"), "no known image format"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
    (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", "AVIF"),
    (b"\0\0\0\x1cftypisom\0\0\0\0isommp42", "a film or another ISO media file"),
    (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    (b"<!DOCTYPE html><html><body>Not found</body></html>", "HTML"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x0a" + bytes(9), "JPEG XL"),
    (b"RIFF\x24\0\0\0WAVEfmt ", "no known image format"),
    (b"just some text", "no known image format"),
])
def test_other_formats_are_refused_by_name(data, found, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    assert refusal(path) == f"{path}: expected a JPEG, PNG or WebP image, found {found}"


def test_unreadable_paths(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert refusal(tmp_path / "none.jpg") == f"{tmp_path}/none.jpg: cannot be read: No such file or directory"
    assert "cannot be read: embedded null byte" in refusal("a\0b.jpg")
    assert refusal("two\nlines.jpg") == r"'two\nlines.jpg': cannot be read: No such file or directory"


# -- damage

def test_whatever_pillow_raises_is_an_image_error_in_one_line(monkeypatch):
    def raising(error):
        def decode(file):
            raise error
        return decode

    for error in (OSError("two\nlines"), SyntaxError("one"), KeyError("k"), SystemError("C"),
                  Image.DecompressionBombError("bomb"), Image.DecompressionBombWarning("bomb")):
        monkeypatch.setattr(decoding, "DECODERS", {"PNG": raising(error)})
        start, reason = refusal(FILES["png"]).split("decoded: ")
        assert start == "bytes: cannot be " and reason


def test_too_little_memory_is_not_the_images_fault(monkeypatch):
    """Otherwise a training that skips bad images would skip good ones."""
    def decode(file):
        raise MemoryError

    monkeypatch.setattr(decoding, "DECODERS", {"PNG": decode})
    with pytest.raises(MemoryError, match="^bytes: too little memory to decode it$"):
        decoding.open_image(FILES["png"])


@pytest.mark.parametrize(("data", "message"), [
    (b"\xff\xd8\xff\xd9", "the JPEG holds no scan"),
    (b"\xff\xd8" + b"\xff" * 99, "truncated"),
    (b"\xff\xd8\xff\xe0\0\1" + bytes(99), "a JPEG segment of 1 bytes does not fit"),
    (FILES["jpeg"].replace(b"\xff\xc0", b"\xff\xe3"), "the JPEG holds no frame header"),
    (FILES["jpeg"].replace(b"\xff\xdb", b"\xff\xc0", 1), "two frame headers"),
    (FILES["png"].replace(b"IHDR", b"ihdr"), "one PNG header, first"),
    (with_crcs(FILES["png"][:11] + b"\x0e" + FILES["png"][12:29] + bytes(5) + FILES["png"][33:]), "of 13 bytes"),
    (FILES["png"][:33] + FILES["png"][8:], "one PNG header, first"),
    (with_crcs(FILES["png"].replace(b"IDAT", b"CgBI")), "critical chunk 'CgBI'"),
    (with_crcs(FILES["png"].replace(b"IDAT", b"iDAT")), "cannot be decoded"),
    (with_crcs(FILES["png, palette"].replace(b"PLTE", b"pLTE")), "the palette is missing"),
    (FILES["webp"].replace(b"VP8 ", b"VP7 "), "found the chunk 'VP7 ' first"),
    (b"RIFF\x0c\0\0\0WEBPVP8X\0\0\0\0", "ends inside its header"),
    (b"RIFF\x04\0\0\0WEBP", "found the chunk '' first"),
], ids=range(14))
def test_damaged_framing_is_refused(data, message):
    assert message in refusal(data)


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])
def test_a_png_chunk_with_a_wrong_checksum_is_refused(chunk):
    data = FILES["png, palette"]
    position = data.index(chunk) + 4 + struct.unpack_from(">I", data, data.index(chunk) - 4)[0]
    assert f"the checksum of PNG chunk '{chunk.decode()}' does not match" in refusal(
        replaced(data, position, bytes([data[position] ^ 1])))


def test_a_png_whose_orientation_is_damaged_is_refused():
    data = FILES["png"]
    assert "the checksum of PNG chunk 'eXIf' does not match" in refusal(replaced(data, data.index(TURNED) + 19, b"\3"))


def test_the_first_orientation_of_a_jpeg_counts():
    data, other = FILES["jpeg"], TURNED[:19] + b"\3" + TURNED[20:]
    second = b"\xff\xe1" + struct.pack(">H", 8 + len(other)) + b"Exif\0\0" + other
    start = data.index(b"\xff\xdb")
    assert read_container(data[:2] + second + data[2:]).orientation == 3
    assert read_container(data[:start] + second + data[start:]).orientation == 6


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC])
def test_other_segments_of_a_jpeg_are_not_taken_for_a_frame_header(marker):
    data = FILES["jpeg"]
    container = read_container(data[:2] + bytes([0xFF, marker]) + b"\0\x08\x08\0\1\0\1\0" + data[2:])
    assert (container.width, container.height) == (14, 9)


@pytest.mark.parametrize("kind", FILES)
def test_metadata_is_left_out_and_the_pixels_stay(kind):
    container = read_container(FILES[kind])
    assert (container.width, container.height) == (14, 9)
    assert container.orientation == (6 if TURNED in FILES[kind] else 1)
    if container.format != "WEBP":
        for metadata in (b"Exif", b"eXIf", b"iCCP", b"a comment", b"acTL", b"fdAT"):
            assert metadata not in container.data
    theirs, ours = (Image.open(io.BytesIO(data)).convert("RGBA") for data in (FILES[kind], container.data))
    assert ours.tobytes() == theirs.tobytes()
