"""Writes scikit-learn's bundled digits as a folder of images to train on: python weights/digits.py digits

1,797 scans of 8×8 pixels, enlarged to 32×32, grey, as FOLDER/train/<digit>/ and FOLDER/val/<digit>/.  The scans are
shuffled with the seed SEED and split into five folds (parts); one, by default fold 0, is held out as val.  The README
beside this script says how the weights were trained on them, and what the other folds are for.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 0
PARTS = 5


def digits(part=0):
    """(images uint8 (1797, 32, 32), labels, training indices, held-out indices), with fold `part` held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images * (255 / 16)).round().astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BICUBIC)) for i in small])
    order = np.random.default_rng(SEED).permutation(len(large))
    size = len(large) // PARTS
    held = slice(part * size, (part + 1) * size if part + 1 < PARTS else None)
    return large, data.target, np.delete(order, held), order[held]


def write(folder: Path, part: int) -> None:
    images, labels, train, held = digits(part)
    for name, indices in (("train", train), ("val", held)):
        for digit in range(10):
            (folder / name / str(digit)).mkdir(parents=True, exist_ok=True)
        for index in indices:
            Image.fromarray(images[index]).save(folder / name / str(labels[index]) / f"{index:04}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--hold-out", metavar="PART", type=int, choices=range(PARTS), default=0,
                        help=f"the fold to hold out, 0 to {PARTS - 1} (default: %(default)s)")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.hold_out)
