"""Makes small folders of images, always the same ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root: Path, classes: int = 3, images: int = 4, size: tuple[int, int] = (40, 30), mode: str = "RGB",
                suffixes: tuple[str, ...] = ("jpg", "png", "webp", "JPEG")) -> Path:
    """root/class0/000.jpg, …: smooth random pictures of about `size` (width, height), each of a different size."""
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(images):
            random = np.random.default_rng([label, number])
            coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8)).convert(mode)
            width, height = size[0] + int(random.integers(8)), size[1] + int(random.integers(8))
            picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number:03}.{suffixes[number % len(suffixes)]}")
    return root


def digits_folder(root: Path, images: int = 20, side: int = 32, first: int = 0) -> Path:
    """root/0/000.png to root/9/…: scikit-learn's handwritten digits, grey; `images` of each class, from number `first`
    on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        folder = root / str(label)
        folder.mkdir(parents=True)
        chosen = digits.images[digits.target == label][first : first + images]
        assert len(chosen) == images, f"expected {images} digits {label}, found {len(chosen)}"
        for number, pixels in enumerate(chosen):
            picture = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
            picture.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
    return root
