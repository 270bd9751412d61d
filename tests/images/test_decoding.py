"""Every kind of source gives the same upright image and is not modified; sources that do not fit are refused by
name."""

import io
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from levit_np.errors import ImageError
from levit_np.images import decoding
from levit_np.images.decoding import open_image

from .samples import COLOUR, GREY, as_rgb, encode, exif, opened, png

ROOT = Path(__file__).parents[2]


class Unseekable(io.RawIOBase):
    """A stream like a socket: it can only be read forwards, a piece at a time."""

    def __init__(self, data):
        self.stream = io.BytesIO(data)

    def read(self, size=-1):
        return self.stream.read(size if size < 0 else min(size, 50))


# -- sources

def test_all_sources_of_one_picture_are_equal(tmp_path):
    data = encode(Image.fromarray(COLOUR), "PNG")
    path = tmp_path / "picture.jpg"   # the content decides, not the extension
    path.write_bytes(data)
    alpha = np.dstack([COLOUR, np.full((7, 11), 255, np.uint8)])
    sources = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), Unseekable(data),
               SimpleNamespace(read=io.BytesIO(data).read),   # like a member of an archive, or a server's answer
               Image.fromarray(COLOUR), Image.open(path), COLOUR, alpha, np.asfortranarray(COLOUR),
               COLOUR[::-1, ::-1][::-1, ::-1]]
    with open(path, "rb") as file:
        for source in [*sources, file]:
            np.testing.assert_array_equal(opened(source), COLOUR)


@pytest.mark.parametrize("array", [GREY, GREY[:, :, None], GREY.T.copy().T])
def test_grey_arrays(array):
    np.testing.assert_array_equal(opened(array, "L"), GREY)
    np.testing.assert_array_equal(opened(array), as_rgb(GREY))


def test_a_file_object_is_read_from_where_it_stands_and_put_back():
    file = io.BytesIO(b"before" + encode(Image.fromarray(COLOUR), "PNG"))
    file.seek(6)
    np.testing.assert_array_equal(opened(file), COLOUR)
    assert file.tell() == 6 and not file.closed


def test_nothing_given_is_modified_or_shared():
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.info["transparency"] = bytes(range(16))
    before = palette.tobytes(), palette.getpalette("RGBA"), palette.info.copy(), palette.mode
    open_image(palette)
    assert before == (palette.tobytes(), palette.getpalette("RGBA"), palette.info, palette.mode)
    for array, mode in ((GREY.copy(), "L"), (COLOUR.copy(), "RGB")):
        for source in (array, Image.fromarray(array)):
            image = open_image(source, mode)
            pixels = image.tobytes()
            array[:] = 255 - array
            assert image.tobytes() == pixels
            array[:] = 255 - array
            image.paste("black", (0, 0, *image.size))
            np.testing.assert_array_equal(np.asarray(source), COLOUR if mode == "RGB" else GREY)


def test_a_users_lazy_image_stays_usable(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(COLOUR).save(path)
    with Image.open(path) as image:
        open_image(image)
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), COLOUR)


@pytest.mark.parametrize(("source", "message"), [
    (COLOUR.astype(np.float32) / 255, "array: expected a uint8 array, values 0 to 255, found float32"),
    (COLOUR.astype(np.int64), "found int64"),
    (GREY > 9, "found bool"),
    (np.zeros((0, 4, 3), np.uint8), "expected at least one pixel, found 4 x 0"),
    (np.zeros((4, 0), np.uint8), "expected at least one pixel, found 0 x 4"),
    (np.zeros((2, 4, 4, 3), np.uint8), r"found \(2, 4, 4, 3\)"),
    (np.zeros((3, 224, 224), np.uint8), r"expected an array \(H, W\).*, found \(3, 224, 224\)"),
    (np.zeros((4, 4, 2), np.uint8), r"found \(4, 4, 2\)"),
    (np.zeros(9, np.uint8), r"found \(9,\)"),
    (np.uint8(3), "found uint8"),
    ([[1, 2]], "found list"),
    (None, "found NoneType"),
    (io.StringIO("text"), "binary mode"),
    (Image.new("F", (2, 2)), "mode F"),
    (Image.new("RGB", (0, 3)), "PIL image: expected at least one pixel, found 0 x 3"),
    (np.broadcast_to(np.uint8(0), (8000, 8000)), "expected at most 50 megapixels, found 8000 x 8000"),
])
def test_refused_sources(source, message):
    with pytest.raises(ImageError, match=message) as caught:
        open_image(source)
    assert len(str(caught.value).splitlines()) == 1


def test_messages_name_the_source(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encode(Image.fromarray(COLOUR), "PNG"))
    image = Image.open(path)
    image.close()
    (tmp_path / "none").write_bytes(b"no image")
    with open(tmp_path / "none", "rb") as file:
        for source, name in ((file, tmp_path / "none"), (image, path), (io.BytesIO(b"no image"), "BytesIO"), (3, "int"),
                             (bytearray(9), "bytearray")):
            with pytest.raises(ImageError) as caught:
                open_image(source)
            assert str(caught.value).startswith(f"{name}: ")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ImageError, match="expected mode 'RGB' or 'L', found 'RGBA'"):
        open_image(COLOUR, "RGBA")


def test_a_closed_image_is_an_image_error():
    image = Image.open(io.BytesIO(encode(Image.fromarray(COLOUR), "PNG")))
    image.close()
    with pytest.raises(ImageError, match="^PIL image: cannot be decoded"):
        open_image(image)


# -- orientation

UPRIGHT = {   # Exif 2.32: where row 0 and column 0 of the stored pixels are in the picture
    1: lambda a: a,                    # top, left
    2: lambda a: a[:, ::-1],           # top, right
    3: lambda a: a[::-1, ::-1],        # bottom, right
    4: lambda a: a[::-1],              # bottom, left
    5: lambda a: a.T,                  # left, top
    6: lambda a: a[::-1].T,            # right, top
    7: lambda a: a[::-1, ::-1].T,      # right, bottom
    8: lambda a: a[:, ::-1].T,         # left, bottom
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation(format, orientation, order):
    options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[format]
    picture = Image.fromarray(GREY)
    plain = opened(encode(picture, format, **options), "L")
    prefix = b"" if format == "WEBP" else b"Exif\0\0"   # the prefix that Pillow expects
    data = encode(picture, format, exif=prefix + exif(orientation, order), **options)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    np.testing.assert_array_equal(opened(data, "L"), UPRIGHT[orientation](plain))
    np.testing.assert_array_equal(opened(Image.open(io.BytesIO(data)), "L"), UPRIGHT[orientation](plain))
    once = open_image(data)
    assert open_image(once).tobytes() == once.tobytes()


@pytest.mark.parametrize("damaged", [
    exif(0), exif(9), exif(6, count=2), exif(6, entries=1), exif(6, entries=65535)[:20], exif(6)[:31],
    exif(6, directory=10**9), exif(6, directory=7), b"", b"II", b"no tiff" * 9,
], ids=range(11))
def test_with_damaged_exif_the_image_is_not_turned(damaged):
    data = encode(Image.fromarray(COLOUR), "PNG", exif=b"Exif\0\0" + damaged)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(opened(data), COLOUR)
    assert not seen


def test_with_damaged_exif_a_pil_image_is_not_turned():
    data = encode(Image.fromarray(COLOUR), "PNG", exif=b"Exif\0\0" + b"no tiff" * 9)
    np.testing.assert_array_equal(opened(Image.open(io.BytesIO(data))), COLOUR)


def test_orientation_written_as_a_long_is_taken():
    data = encode(Image.fromarray(GREY), "PNG", exif=b"Exif\0\0" + exif(6, kind=4, order=">"))
    np.testing.assert_array_equal(opened(data, "L"), UPRIGHT[6](GREY))


# -- animations

@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_frame_of_an_animation(format, options):
    frames = [Image.fromarray(np.roll(COLOUR, shift, axis=0)) for shift in range(3)]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(opened(data), COLOUR)


def test_a_users_animation_gives_its_current_frame_and_stays_there():
    frames = [Image.fromarray(np.roll(COLOUR, shift, axis=0)) for shift in range(3)]
    image = Image.open(io.BytesIO(encode(frames[0], "PNG", save_all=True, append_images=frames[1:])))
    image.seek(2)
    np.testing.assert_array_equal(opened(image), np.asarray(frames[2]))
    assert image.tell() == 2


def test_damaged_animation_control_is_not_even_a_warning():
    data = png(2, 8, [row.tobytes() for row in COLOUR], (b"acTL", bytes(8)), (b"acTL", bytes(8)))
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(data))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(opened(data), COLOUR)
    assert not seen


# -- any pixels

MODES = ["1", "L", "LA", "La", "I", "I;16", "I;16B",
         "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@st.composite
def pil_images(draw):
    mode = draw(st.sampled_from(MODES))
    width, height = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    image = Image.new(mode, (width, height))
    image.frombytes(np.random.default_rng(draw(st.integers(0, 999))).bytes(len(image.tobytes())))
    if draw(st.booleans()):
        image.getexif()[0x0112] = draw(st.integers(0, 9))
    return image


@settings(max_examples=300, deadline=None, derandomize=True)
@given(pil_images(), st.sampled_from(["RGB", "L"]))
def test_any_pil_image_gives_an_upright_one_of_the_mode_asked_for(image, mode):
    pixels, size = image.tobytes(), image.size
    result = open_image(image, mode)
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    assert result.mode == mode and result.size == (size[::-1] if turned else size)
    assert image.tobytes() == pixels and image.size == size
    assert not result.info and result is not image
    assert open_image(result, mode).tobytes() == result.tobytes()
    if mode == "L":
        assert result.tobytes() == open_image(image).convert("L").tobytes()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(0, 9999), st.sampled_from(["RGB", "RGBA", "L", "LA", "P"]))
def test_files_and_pil_images_agree(orientation, seed, mode):
    rng = np.random.default_rng(seed)
    image = Image.new(mode, tuple(rng.integers(1, 30, 2).tolist()))
    image.frombytes(rng.bytes(len(image.tobytes())))
    data = encode(image, "PNG", exif=b"Exif\0\0" + exif(orientation))
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert open_image(data).tobytes() == open_image(theirs).tobytes()


@pytest.mark.parametrize("limit, words", [(15, "at most 1.5e-05 megapixels, found 4 x 4"), (16, None), (None, None)])
def test_a_lower_limit_of_pillows_own_applies(limit, words, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    array = np.zeros((4, 4), np.uint8)
    for source in (array, png(0, 8, array), Image.fromarray(array)):
        with pytest.raises(ImageError, match=words) if words else nullcontext():
            open_image(source)


def test_pillows_switch_for_truncated_images_changes_nothing(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for format in ("JPEG", "PNG", "WEBP"):
        data = encode(Image.fromarray(COLOUR), format)
        with pytest.raises(ImageError, match="truncated"):
            open_image(data[:-len(data) // 4])


# -- memory

@pytest.mark.parametrize("pixels", [1, 11, 25, 76, 77])
def test_an_image_converted_in_strips_is_the_one_converted_whole(monkeypatch, pixels):
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    key = {"transparency": tuple(COLOUR[5, 3].tolist())}
    sources = [encode(colour.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))), encode(colour, "PNG", **key),
               encode(Image.merge("LA", [grey, grey]), "PNG"),
               encode(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), encode(grey.convert("1"), "PNG"),
               encode(colour.convert("CMYK"), "JPEG", exif=b"Exif\0\0" + exif(6))]
    whole = [opened(source, mode) for source in sources for mode in ("RGB", "L")]
    monkeypatch.setattr(decoding, "STRIP", pixels)
    for one, other in zip(whole, (opened(source, mode) for source in sources for mode in ("RGB", "L")), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("mode", "format", "options", "bytes_a_pixel"), [
    ("P", "PNG", {"transparency": bytes(255)}, 1 + 4),   # Pillow keeps an index in one byte, a colour in four
    ("RGB", "PNG", {"transparency": (7, 7, 7)}, 4 + 4),
    ("RGB", "JPEG", {}, 4),
    ("RGB", "JPEG", {"exif": b"Exif\0\0" + exif(6)}, 4 + 4),
])
def test_decoding_takes_the_memory_of_the_stored_image_and_of_the_result(mode, format, options, bytes_a_pixel):
    image = Image.new("L", (3000, 3000), 7).convert(mode)
    run = subprocess.run([sys.executable, "-m", "tests.images.decoding_child"], cwd=ROOT, capture_output=True,
                         input=encode(image, format, **options))
    assert run.returncode == 0, run.stderr
    assert bytes_a_pixel - 1 < int(run.stdout) / (3000 * 3000) < bytes_a_pixel + 2.5   # strips, and the file
