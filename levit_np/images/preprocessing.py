"""Preprocessing of images: resize the short side, crop the centre, scale to [0, 1], normalise.

Bit-identical to torchvision's Resize, CenterCrop, ToTensor and Normalize on PIL images, which the authors and timm use.
transformers' LeViT processor (its PIL one) gives the same bits, but rounds the crop's margin, if that is half a pixel,
down, where this rounds to even (so if a side exceeds the crop by 3 modulo 4, its crop begins one pixel earlier).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

import numpy as np

from ..errors import ImageError

MAX_SIDE = 4096
MAX_RESIZED_PIXELS = 50_000_000
CHANNELS = {"RGB": 3, "L": 1}
NAMES = "authors", "timm", "digits"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input. All fields are checked, as they may come from an untrusted weight file.

    resize: the image's short side, in pixels, before the crop; at least the crop's longer side, so that the crop fits
    both portrait and landscape images. crop: (height, width). mean, std: one per channel, for values in [0, 1]. mode:
    "RGB" or "L" (grey). Raises ImageError for a field out of range.
    """

    name: str
    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "RGB"
    interpolation: str = "bicubic"

    def __post_init__(self):
        if not (isinstance(self.name, str) and 1 <= len(self.name) <= 64 and self.name.isprintable()):
            raise ImageError(f"preprocessing: name: expected 1 to 64 printable characters, found {_show(self.name)}")
        if self.mode not in ("RGB", "L"):
            raise ImageError(f"preprocessing: mode: expected 'RGB' or 'L', found {_show(self.mode)}")
        if self.interpolation != "bicubic":
            raise ImageError(f"preprocessing: interpolation: expected 'bicubic', found {_show(self.interpolation)}")
        crop = _numbers(self.crop, "crop", 2, Integral, 1, MAX_SIDE)
        (resize,) = _numbers((self.resize,), "resize", 1, Integral, max(crop), MAX_SIDE)
        channels = CHANNELS[self.mode]
        checked = {
            "resize": resize,
            "crop": crop,
            "mean": _numbers(self.mean, "mean", channels, Real, -255, 255),
            "std": _numbers(self.std, "std", channels, Real, 1e-4, 1e4),
        }
        for field, value in checked.items():
            object.__setattr__(self, field, value)   # the dataclass is frozen; plain ints and floats, in tuples

    def to_dict(self) -> dict:
        """The fields as strings, numbers and lists, for JSON."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Preprocessing":
        """The inverse of to_dict.  Raises ImageError if a field is missing, unknown or out of range."""
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != expected:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise ImageError(f"preprocessing: expected the fields {sorted(expected)}, found {_show(found)}")
        return cls(**values)


def _numbers(values, field: str, count: int, kind: type, low: float, high: float) -> tuple:
    """`values` as a tuple of `count` plain ints (kind Integral) or floats (kind Real) from low to high."""
    plain = int if kind is Integral else float
    if isinstance(values, Sequence) and len(values) == count:
        # NaN fails the comparison.
        if all(isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high for v in values):
            return tuple(plain(v) for v in values)
    what = ("whole number" if kind is Integral else "number") + ("s" if count > 1 else "")
    expected = f"{count} {what} from {low:g} to {high:g}"
    raise ImageError(f"preprocessing: {field}: expected {expected}, found {_show(values)}")


def _show(value) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def preprocessing_named(name: str, image_size: tuple[int, int] | None = None,
                        channels: int | None = None) -> Preprocessing:
    """A known preprocessing, for crops of image_size (height, width), in colour (3 channels) or grey (1).

    "authors" (also transformers'): resize = int(256/224 * size); by default size 224, colour.
    "timm": resize = floor(size / 0.9); otherwise the same.
    "digits": resize = size; by default size 32, grey; values are mapped to [-1, 1].

    `size` is the longer side of image_size, so that the crop fits (timm itself resizes differently if the sides
    differ). For grey, the ImageNet mean and std are averaged over the channels, as in timm. Raises ImageError for
    another name, size or number of channels.
    """
    side, default_channels = (32, 1) if name == "digits" else (224, 3)
    image_size = (side, side) if image_size is None else image_size
    crop = _numbers(image_size, "image_size", 2, Integral, 1, MAX_SIDE)
    channels = default_channels if channels is None else channels
    if channels not in (1, 3):
        raise ImageError(f"preprocessing: expected 1 or 3 channels, found {_show(channels)}")
    size = max(crop)
    if name == "authors":
        resize = int(256 / 224 * size)
    elif name == "timm":
        resize = math.floor(size / 0.9)
    elif name == "digits":
        resize = size
    else:
        raise ImageError(f"preprocessing: expected 'authors', 'timm' or 'digits', found {_show(name)}")
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name == "digits" else (IMAGENET_MEAN, IMAGENET_STD)
    if channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Preprocessing(name, resize, crop, mean, std, mode="RGB" if channels == 3 else "L")


def preprocess(source, preprocessing: Preprocessing) -> np.ndarray:
    """One image (anything open_image accepts) -> float32 (C, H, W). Raises ImageError."""
    return normalise(cropped(source, preprocessing), preprocessing)


def cropped(source, preprocessing: Preprocessing) -> np.ndarray:
    """One image (anything open_image accepts), resized and cropped -> uint8 (H, W, C). Raises ImageError."""
    from .decoding import open_image, source_name  # imports Pillow, which models that are only fed arrays do not need

    image = open_image(source, preprocessing.mode)
    try:
        image = _resize_short_side(image, preprocessing.resize)
    except ImageError as error:
        raise ImageError(f"{source_name(source)}: {error}") from None
    pixels = _crop_centre(np.asarray(image), preprocessing.crop)              # (H, W) or (H, W, C)
    return pixels.reshape(*preprocessing.crop, -1)


def normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(v / 255 - mean) / std per channel: uint8 (H, W) or (H, W, C) -> float32 (C, H, W)."""
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)         # (C, H, W), uint8
    x = np.divide(pixels, np.float32(255), dtype=np.float32, order="C")
    x -= np.array(preprocessing.mean, np.float32)[:, None, None]
    x /= np.array(preprocessing.std, np.float32)[:, None, None]
    return x


def _resize_short_side(image, size: int):
    """Resizes the short side to `size` and the long one to int(size * long / short), bicubic with antialiasing."""
    from PIL.Image import Resampling

    short, long = sorted(image.size)
    new_long = int(size * long / short)
    if size * new_long > MAX_RESIZED_PIXELS:
        raise ImageError(f"expected at most {MAX_RESIZED_PIXELS / 1e6:g} megapixels once resized, found "
                         f"{image.width} x {image.height} resized to {size} x {new_long}")
    width, height = (size, new_long) if image.width <= image.height else (new_long, size)
    return image.resize((width, height), Resampling.BICUBIC)


def _crop_centre(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The central (height, width) of `pixels`; a margin of half a pixel is rounded to even, as in torchvision."""
    height, width = crop
    top = round((pixels.shape[0] - height) / 2)
    left = round((pixels.shape[1] - width) / 2)
    return pixels[top: top + height, left: left + width]
