"""Every kind of pixel (16 bits, transparency, palettes, colour spaces) against arithmetic on arrays written out
here."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from levit_np.images.decoding import open_image

from .samples import COLOUR, GREY, as_rgb, encode, opened, png

RNG = np.random.default_rng(384)
ALPHA = RNG.integers(0, 256, (7, 11), dtype=np.uint8)
ALPHA[0, :4] = 0, 1, 254, 255


def over_white(pixels, alpha):
    """round((alpha * value + (255 - alpha) * 255) / 255), exactly."""
    alpha = alpha.astype(int).reshape(*alpha.shape, *(1,) * (pixels.ndim - 2))
    return ((2 * (alpha * pixels.astype(int) + (255 - alpha) * 255) + 255) // 510).astype(np.uint8)


# -- 16 bits

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMP_IN_8_BITS = np.rint(RAMP / 257)


def test_16_bit_grey_is_scaled_and_not_clipped():
    big_endian = Image.frombytes("I;16B", RAMP.shape, RAMP.astype(">u2").tobytes())
    ramps = [Image.fromarray(RAMP), Image.fromarray(RAMP.astype(np.int32)), big_endian]
    assert [ramp.mode for ramp in ramps] == ["I;16", "I", "I;16B"]
    by_hand = png(0, 16, [row.astype(">u2").tobytes() for row in RAMP])
    for source in [*ramps, by_hand, encode(ramps[0], "PNG")]:
        np.testing.assert_array_equal(opened(source, "L"), RAMP_IN_8_BITS)
    np.testing.assert_array_equal(opened(ramps[0]), as_rgb(RAMP_IN_8_BITS))


def test_32_bit_integers_beyond_16_bits_are_clipped():
    source = Image.fromarray(np.array([[-5, 0, 65535, 65536, 2**31 - 1]], np.int32))
    assert opened(source, "L").tolist() == [[0, 0, 255, 255, 255]]


def test_16_bit_colour():
    values = RNG.integers(0, 65536, (4, 5, 3))
    data = png(2, 16, [row.astype(">u2").tobytes() for row in values])
    assert np.abs(opened(data) - values / 257).max() <= 1   # Pillow keeps the high byte


def test_16_bit_grey_with_alpha():
    values = np.array([[[0, 65535], [65535, 65535], [0, 0], [0, 32768]]])
    data = png(4, 16, [row.astype(">u2").tobytes() for row in values])
    assert opened(data, "L").tolist() == [[0, 255, 255, 127]]


# -- transparency

def test_alpha_is_laid_over_white():
    colour = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    webp = encode(colour, "WEBP", lossless=True, exact=True)
    for source in (colour, np.asarray(colour), encode(colour, "PNG"), webp):
        np.testing.assert_array_equal(opened(source), over_white(COLOUR, ALPHA))
    for source in (grey, encode(grey, "PNG")):
        np.testing.assert_array_equal(opened(source), as_rgb(over_white(GREY, ALPHA)))
        np.testing.assert_array_equal(opened(source, "L"), over_white(GREY, ALPHA))


def test_premultiplied_alpha_is_laid_over_white():
    colour = Image.fromarray(np.dstack([COLOUR, ALPHA])).convert("RGBa")
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]).convert("La")
    # The stored values are alpha * value / 255, rounded; undoing that is exact to one level over white.
    assert np.abs(opened(colour).astype(int) - over_white(COLOUR, ALPHA)).max() <= 1
    assert np.abs(opened(grey, "L").astype(int) - over_white(GREY, ALPHA)).max() <= 1


INDICES = np.arange(77, dtype=np.uint8).reshape(7, 11) % 16
COLOURS = RNG.integers(0, 256, (16, 3), dtype=np.uint8)


def palette_image():
    image = Image.fromarray(INDICES).convert("P")
    image.putdata(INDICES.ravel())
    image.putpalette(COLOURS.tobytes())
    return image


def test_palette():
    for source in (palette_image(), encode(palette_image(), "PNG")):
        np.testing.assert_array_equal(opened(source), COLOURS[INDICES])


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16)), b"\x09\xff\0"],
                         ids=["one", "all", "some"])
def test_palette_with_transparency(transparency):
    alphas = np.full(16, 255, np.uint8)
    if isinstance(transparency, int):
        alphas[transparency] = 0
    else:
        alphas[:len(transparency)] = list(transparency)
    image = palette_image()
    image.info["transparency"] = transparency
    for source in (image, encode(image, "PNG", transparency=transparency)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(opened(source), over_white(COLOURS[INDICES], alphas[INDICES]))
        assert not seen


def test_palettes_that_carry_alpha():
    alphas = RNG.integers(0, 256, 16, dtype=np.uint8)
    image = palette_image()
    image.putpalette(np.hstack([COLOURS, alphas[:, None]]).tobytes(), "RGBA")
    np.testing.assert_array_equal(opened(image), over_white(COLOURS[INDICES], alphas[INDICES]))
    with_alpha = palette_image().convert("PA")
    with_alpha.putalpha(Image.fromarray(ALPHA))
    np.testing.assert_array_equal(opened(with_alpha), over_white(COLOURS[INDICES], ALPHA))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_value_of_a_grey_png_becomes_white(bits):
    levels = 2**bits
    row = np.arange(8 * levels) % levels
    packed = np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits:])
    expected = row * 255 // (levels - 1)
    assert opened(png(0, bits, [packed]), "L").tolist() == [expected.tolist()]
    for key in {0, 1, levels - 2}:
        data = png(0, bits, [packed], (b"tRNS", struct.pack(">H", key)))
        assert opened(data, "L").tolist() == [np.where(row == key, 255, expected).tolist()]


def test_the_transparent_colour_of_a_png_becomes_white():
    colour = COLOUR.copy()
    key = colour[2, 3]
    colour[0, 0, :2] = key[:2]  # two of the three values are equal, so it is not transparent
    expected = colour.copy()
    expected[2, 3] = 255
    keyed = encode(Image.fromarray(colour), "PNG", transparency=tuple(key.tolist()))

    def wide(values):  # 16 bits, of which Pillow takes the upper 8
        return np.stack([values, 0 * values], -1).tobytes()

    for source in (keyed, Image.open(io.BytesIO(keyed)),
                   png(2, 16, [wide(row) for row in colour], (b"tRNS", wide(key)))):
        np.testing.assert_array_equal(opened(source), expected)


def test_the_transparent_value_of_a_16_bit_png_becomes_white():
    data = png(0, 16, [struct.pack(">3H", 1000, 1001, 65535)], (b"tRNS", struct.pack(">H", 1001)))
    assert opened(data, "L").tolist() == [[4, 255, 255]]


def test_a_transparency_that_does_not_fit_the_mode_is_left_alone():
    for pixels, mode, stale in ((COLOUR, "RGB", (3, (1, 2), b"\0\1", None, "0")),
                                (GREY, "L", ((1, 2), b"\0\1", None, "0"))):
        image = Image.fromarray(pixels)
        for key in stale:
            image.info["transparency"] = key
            np.testing.assert_array_equal(opened(image, mode), pixels)


# -- other colour spaces

def test_cmyk_jpegs_are_read_as_pillow_reads_them():
    patch = Image.new("CMYK", (16, 16), (255, 0, 0, 0))   # cyan
    inverted = encode(patch, "JPEG", quality=100)          # with Adobe's marker, and inverted
    assert b"Adobe" in inverted
    assert np.abs(opened(inverted).astype(int) - (0, 255, 255)).max() <= 3
    start = inverted.index(b"\xff\xee")
    for data in (inverted, inverted[:start] + inverted[start + 16:]):
        np.testing.assert_array_equal(opened(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("options", [
    {"quality": 30}, {"progressive": True}, {"subsampling": "4:4:4"}, {"keep_rgb": True},
    {"comment": b"x" * 900}, {"icc_profile": b"profile" * 99}, {"restart_marker_blocks": 1},
], ids=str)
def test_jpegs_are_bit_equal_to_pillows_own_reading(options):
    picture = Image.fromarray(COLOUR).resize((61, 47))
    data = encode(picture, "JPEG", **options)
    np.testing.assert_array_equal(opened(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    grey = encode(picture.convert("L"), "JPEG", **{k: v for k, v in options.items() if k != "keep_rgb"})
    np.testing.assert_array_equal(opened(grey, "L"), np.asarray(Image.open(io.BytesIO(grey))))


def with_components(data, names):
    """The three-component JPEG with its components renamed in the frame's and the scan's header."""
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data = bytearray(data)
    data[frame + 10: frame + 19: 3] = data[scan + 5: scan + 11: 2] = names
    return bytes(data)


def test_the_markers_that_tell_a_jpegs_colour_space_are_kept():
    picture = Image.fromarray(COLOUR)
    plain, rgb = encode(picture, "JPEG"), encode(picture, "JPEG", keep_rgb=True)
    assert b"JFIF" in plain and b"Adobe" in rgb and b"JFIF" not in rgb
    # Without the marker, components called R, G, B would be taken for RGB, and 1, 2, 3 for YCbCr.
    for data in (with_components(plain, b"RGB"), with_components(rgb, b"\1\2\3")):
        np.testing.assert_array_equal(opened(data), np.asarray(Image.open(io.BytesIO(data))))
    assert opened(with_components(rgb, b"\1\2\3")).tobytes() == opened(rgb).tobytes()


def test_one_bit():
    bits = GREY > 127
    image = Image.fromarray(bits)
    assert image.mode == "1"
    for source in (image, encode(image, "PNG")):
        np.testing.assert_array_equal(opened(source, "L"), bits * 255)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "RGBX", "CMYK"])
def test_other_modes_of_pil_images(mode):
    smooth = Image.linear_gradient("L").resize((32, 32)).convert("RGB")   # modes that change grey little
    with_mode = smooth.convert(mode)
    assert np.abs(opened(with_mode).astype(int) - np.asarray(smooth)).max() <= 4
    np.testing.assert_array_equal(opened(with_mode, "L"), np.asarray(open_image(with_mode).convert("L")))
