"""How images are prepared for a network: resize the short side, crop the centre, scale to [0, 1], normalise.

Bit-equal to torchvision's Resize, CenterCrop, ToTensor and Normalize on PIL images, which the authors and
timm use. transformers' LeViT processor (its PIL one) differs in two ways: it multiplies by 1/255 in float64
where this divides by 255 in float32 (under 1e-6 in the result), and it rounds half a margin of the crop down
where this rounds to even (so where a side exceeds the crop by 3 modulo 4, its crop begins one pixel earlier).
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
    """How an image becomes the model's input. Checked when made: it may come from a stranger's weight file.

    resize: the image's short side, in pixels, before the crop; at least the crop's longer side, so that the
    crop fits whichever way the image lies. crop: (height, width). mean, std: one a channel, of values in
    [0, 1]. mode: "RGB" or "L" (grey). Raises ImageError.
    """

    name: str
    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "RGB"
    interpolation: str = "bicubic"

    def __post_init__(self):  # in messages "recipe", as a weight file calls it
        if not (isinstance(self.name, str) and 1 <= len(self.name) <= 64 and self.name.isprintable()):
            raise ImageError(f"recipe: name: expected 1 to 64 printable characters, found {_show(self.name)}")
        if self.mode not in ("RGB", "L"):
            raise ImageError(f"recipe: mode: expected 'RGB' or 'L', found {_show(self.mode)}")
        if self.interpolation != "bicubic":
            raise ImageError(f"recipe: interpolation: expected 'bicubic', found {_show(self.interpolation)}")
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
            object.__setattr__(self, field, value)   # frozen: plain int and float, in tuples, from here on

    def to_dict(self) -> dict:
        """Plain strings, numbers and lists, fit for JSON."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Preprocessing":
        """The inverse of to_dict; ImageError if a field is missing, unknown or out of range."""
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != expected:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise ImageError(f"recipe: expected the fields {sorted(expected)}, found {_show(found)}")
        return cls(**values)


def _numbers(values, field: str, count: int, kind: type, low: float, high: float) -> tuple:
    """`values` as a tuple of `count` plain ints (kind Integral) or floats (kind Real) from low to high."""
    plain = int if kind is Integral else float
    if isinstance(values, Sequence) and len(values) == count:
        # NaN is in no range.
        if all(isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high for v in values):
            return tuple(plain(v) for v in values)
    what = ("whole number" if kind is Integral else "number") + ("s" if count > 1 else "")
    expected = f"{count} {what} from {low:g} to {high:g}"
    raise ImageError(f"recipe: {field}: expected {expected}, found {_show(values)}")


def _show(value) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def preprocessing_named(name: str, image_size: tuple[int, int] | None = None,
                        channels: int | None = None) -> Preprocessing:
    """The preprocessing of that name, for crops of image_size (height, width), in colour (3 channels) or grey (1).

    "authors" (also transformers'): resize int(256/224 * size), crop 224 and colour unless said otherwise.
    "timm": resize floor(size / 0.9), the rest the same.
    "digits": resize = size, 32 and grey unless said otherwise, values to [-1, 1].

    `size` is the longer side of image_size, so that the crop fits (timm itself resizes differently where the
    sides differ). For grey, the ImageNet mean and std are averaged over the channels, as timm does. Raises
    ImageError for another name, size or channel count.
    """
    side, default_channels = (32, 1) if name == "digits" else (224, 3)
    image_size = (side, side) if image_size is None else image_size
    crop = _numbers(image_size, "image_size", 2, Integral, 1, MAX_SIDE)
    channels = default_channels if channels is None else channels
    if channels not in (1, 3):
        raise ImageError(f"recipe: expected 1 or 3 channels, found {_show(channels)}")
    size = max(crop)
    if name == "authors":
        resize = int(256 / 224 * size)
    elif name == "timm":
        resize = math.floor(size / 0.9)
    elif name == "digits":
        resize = size
    else:
        raise ImageError(f"recipe: expected 'authors', 'timm' or 'digits', found {_show(name)}")
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name == "digits" else (IMAGENET_MEAN, IMAGENET_STD)
    if channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Preprocessing(name, resize, crop, mean, std, mode="RGB" if channels == 3 else "L")


def preprocess(source, preprocessing: Preprocessing) -> np.ndarray:
    """One image (whatever open_image takes) -> float32 (C, H, W). Raises ImageError."""
    return normalise(cropped(source, preprocessing), preprocessing)


def cropped(source, preprocessing: Preprocessing) -> np.ndarray:
    """One image (whatever open_image takes), resized, its middle -> uint8 (H, W, C). Raises ImageError."""
    from .decoding import open_image, source_name  # Pillow: a model that is fed arrays needs none

    image = open_image(source, preprocessing.mode)
    try:
        image = _resize_short_side(image, preprocessing.resize)
    except ImageError as error:
        raise ImageError(f"{source_name(source)}: {error}") from None
    pixels = _crop_centre(np.asarray(image), preprocessing.crop)              # (H, W) or (H, W, C)
    return pixels.reshape(*preprocessing.crop, -1)


def normalise(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(v / 255 - mean) / std, a channel at a time: uint8 (H, W) or (H, W, C) -> float32 (C, H, W)."""
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)         # (C, H, W), uint8
    x = np.divide(pixels, np.float32(255), dtype=np.float32, order="C")
    x -= np.array(preprocessing.mean, np.float32)[:, None, None]
    x /= np.array(preprocessing.std, np.float32)[:, None, None]
    return x


def _resize_short_side(image, size: int):
    """The short side becomes `size`, the long one int(size * long / short), bicubic with antialiasing."""
    from PIL.Image import Resampling

    short, long = sorted(image.size)
    new_long = int(size * long / short)
    if size * new_long > MAX_RESIZED_PIXELS:
        raise ImageError(f"expected at most {MAX_RESIZED_PIXELS / 1e6:g} megapixels once resized, found "
                         f"{image.width} x {image.height} resized to {size} x {new_long}")
    width, height = (size, new_long) if image.width <= image.height else (new_long, size)
    return image.resize((width, height), Resampling.BICUBIC)


def _crop_centre(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of `pixels`; half a pixel is rounded to even, as in torchvision."""
    height, width = crop
    top = round((pixels.shape[0] - height) / 2)
    left = round((pixels.shape[1] - width) / 2)
    return pixels[top: top + height, left: left + width]
