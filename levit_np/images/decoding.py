"""Decodes any image a user has to an upright 8-bit RGB or grey PIL image without transparency, or raises ImageError.

Pillow only gets files that containers.py has found complete and not too large, so that neither Pillow's switch for
truncated files nor Python's warning filters decide what is accepted.
"""

import os
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import ImageError, shown
from .containers import read_container

MAX_BYTES = 50_000_000
MAX_PIXELS = 50_000_000

# Called directly, as Image.open would load every plugin, and would warn about large images instead of refusing them.
DECODERS = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}

# EXIF orientation -> the transposition that turns the stored image upright (Exif 2.32, tag 0x0112)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION_TAG = 0x0112

STRIP = 1 << 18   # pixels that are converted at a time

# 16-bit value -> nearest 8-bit value: 65535 = 257 * 255, and v / 257 is never halfway between two integers
EIGHT_BIT = ((np.arange(65536) + 128) // 257).astype(np.uint8)


def open_image(source, mode: str = "RGB") -> Image.Image:
    """An upright PIL image of `mode` "RGB" or "L", with 8 bits per channel.

    source: a path; bytes or a binary file object (read from its current position, which is restored if it can seek); a
    PIL image (its current frame); or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). It is neither modified
    nor closed, and shares no memory with the result.

    Files must be JPEG, PNG or WebP by content, of at most 50 MB and 50 megapixels. The EXIF orientation is applied;
    16-bit grey (also PIL's mode "I") is scaled by 255/65535; transparency is blended onto white; palettes and CMYK are
    converted; the first frame of an animation is used. Colour profiles are not applied, as in the reference pipelines.
    Raises ImageError, naming the source and the reason in one line, and MemoryError where memory
    does not suffice to decode it.
    """
    name = source_name(source)
    try:
        if mode not in ("RGB", "L"):
            raise ImageError(f"expected mode 'RGB' or 'L', found {mode!r}")
        image, orientation = _load(source)
        image = _converted(image, mode)
        if orientation in UPRIGHT:
            image = image.transpose(UPRIGHT[orientation])
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except MemoryError:
        raise MemoryError(f"{name}: too little memory to decode it") from None
    except Exception as error:   # for damaged files Pillow raises OSError, SyntaxError, ValueError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: cannot be decoded: {reason}") from error
    image.info = {}   # orientation and transparency have been applied, and must not be applied again
    return image


def source_name(source) -> str:
    """The source's name in messages, printable: the path or the file's name, if there is one."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
    elif isinstance(source, np.ndarray):
        name = "array"
    elif isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "PIL image"
    else:
        name = getattr(source, "name", None) or type(source).__name__
    return shown(str(name))


def _load(source) -> tuple[Image.Image, int]:
    """The decoded image, which may be modified, and its EXIF orientation."""
    if isinstance(source, Image.Image):
        return _load_pil(source)
    if isinstance(source, np.ndarray):
        return _load_array(source), 1
    return _load_file(_read(source))


def _load_pil(source: Image.Image) -> tuple[Image.Image, int]:
    _check_size(*source.size)
    image = source.copy()   # converting the user's image would write a palette's transparency into it
    try:
        orientation = source.getexif().get(ORIENTATION_TAG, 1)
    except Exception:       # damaged EXIF: the image itself is good, and is taken as stored
        orientation = 1
    return image, orientation


def _load_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"expected a uint8 array, values 0 to 255, found {array.dtype}")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(f"expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {array.shape}")
    height, width = array.shape[:2]
    _check_size(width, height)
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    return Image.fromarray(array).copy()   # of a grey array it would share the memory


def _load_file(data: bytes) -> tuple[Image.Image, int]:
    container = read_container(data)
    _check_size(container.width, container.height)
    image = DECODERS[container.format](BytesIO(container.data))
    if image.size != (container.width, container.height):
        raise ImageError(f"damaged: the header says {container.width} x {container.height}, "
                         f"the image {image.width} x {image.height}")
    image.load()
    key = image.info.get("transparency")
    if container.format == "PNG" and container.bit_depth in (2, 4) and image.mode == "L":
        # Pillow scales the samples to 8 bits but not the transparent value.
        image.info["transparency"] = None if key is None else key * 255 // (2**container.bit_depth - 1)
    if container.format == "PNG" and container.bit_depth == 16 and image.mode == "RGB" and key is not None:
        image.info["transparency"] = tuple(value >> 8 for value in key)   # as Pillow narrows the samples
    return image, container.orientation


def _read(source) -> bytes:
    """The whole file, or ImageError if it cannot be read or is over 50 MB."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:   # ValueError: a NUL in the path
            raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    elif hasattr(source, "read"):
        data = _read_file_object(source)
    else:
        raise ImageError("expected a path, bytes, a binary file object, a PIL image or a uint8 array, "
                         f"found {type(source).__name__}")
    if len(data) > MAX_BYTES:
        raise ImageError("expected at most 50 MB, found more")
    return data


def _read_file_object(file) -> bytes:
    start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
    pieces, left = [], MAX_BYTES + 1
    while left > 0 and (piece := file.read(left)):  # a socket or a pipe may return less than is asked for
        pieces.append(piece)
        left -= len(piece)
    if start is not None:
        file.seek(start)
    if not all(isinstance(piece, bytes) for piece in pieces):
        raise ImageError("expected a file opened in binary mode, found one in text mode")
    return b"".join(pieces)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"expected at least one pixel, found {width} x {height}")
    limit = min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)   # Pillow's own limit applies if it is lower
    if width * height > limit:
        raise ImageError(f"expected at most {limit / 1e6:g} megapixels, found {width} x {height}")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode`, without transparency.  It is converted a strip of rows at a time, so that of what lies
    between, up to four copies, there is never a whole image: one of 50 megapixels has 200 MB."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    converted, rows = Image.new(mode, image.size), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        box = 0, top, image.width, min(top + rows, image.height)
        converted.paste(_flatten(image.crop(box)).convert(mode), box)
    return converted


def _flatten(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel and without transparency, blended onto white."""
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("P", "PA", "LA", "RGBa"):
        image = image.convert("RGBA")   # includes the palette's own transparency
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)   # per channel round((alpha * value + (255 - alpha) * 255) / 255)
        return white
    if image.mode == "F":
        raise ImageError("expected 8- or 16-bit samples, found a PIL image of floats (mode F)")
    if image.mode.startswith("I"):
        pixels = _whiten_key(np.asarray(image), image.info, white=65535)
        return Image.fromarray(EIGHT_BIT[np.clip(pixels, 0, 65535)])
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        return Image.fromarray(_whiten_key(np.asarray(image), image.info, white=255))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _whiten_key(pixels: np.ndarray, info: dict, white: int) -> np.ndarray:
    """Makes the pixels white whose grey value or colour the file declares transparent."""
    key = info.get("transparency")
    if np.shape(key) != pixels.shape[2:]:
        return pixels
    transparent = (pixels == np.asarray(key)).reshape(*pixels.shape[:2], -1).all(axis=2)   # (H, W)
    pixels = pixels.copy()
    pixels[transparent] = white
    return pixels
