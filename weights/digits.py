"""Writes scikit-learn's bundled digits as a folder of images to train on: python weights/digits.py FOLDER

1,797 scans of 8×8 pixels, enlarged to 32×32, grey, as FOLDER/train/<digit>/ and FOLDER/val/<digit>/; a fifth, drawn by
SEED, is held out as val. The README beside this script says how the weights were trained on them.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 0


def digits():
    """(images uint8 (1797, 32, 32), labels, indices of training, indices held out)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images * (255 / 16)).round().astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BICUBIC)) for i in small])
    order = np.random.default_rng(SEED).permutation(len(large))
    held = len(large) // 5
    return large, data.target, order[held:], order[:held]


def write(folder: Path) -> None:
    images, labels, train, held = digits()
    for part, indices in (("train", train), ("val", held)):
        for digit in range(10):
            (folder / part / str(digit)).mkdir(parents=True, exist_ok=True)
        for index in indices:
            Image.fromarray(images[index]).save(folder / part / str(labels[index]) / f"{index:04}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
