"""Colour jitter: changes brightness, contrast and saturation by random factors, in random order."""

import numpy as np
from PIL import Image, ImageEnhance


def colour_jitter(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    """Multiplies each property by a factor uniform in [1 - strength, 1 + strength], `strength` from 0 to 1.

    A factor of 0 gives black (brightness), the mean grey (contrast) or the image in grey (saturation).  A grey image
    has no saturation to change.
    """
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color][: 2 if image.mode == "L" else 3]
    factors = random.uniform(1 - strength, 1 + strength, len(enhancers))
    for place in random.permutation(len(enhancers)):
        image = enhancers[place](image).enhance(factors[place])
    return image
