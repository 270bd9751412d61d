"""Trains the small model that ships with the project on scikit-learn's bundled digits; run: python weights/train_digits.py

1,797 scans of 8×8 pixels, enlarged to 32×32; a fifth, drawn by SEED and never trained on, is held out. Writes
levit_digits.h5 and eight held-out digits under samples/ beside this script. About three minutes on one core.
"""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from levit_np import create  # noqa: E402
from levit_np.ops import reference as ops  # noqa: E402

SEED, EPOCHS, BATCH, RATE, DECAY = 0, 26, 64, 2e-3, 0.05


def digits():
    """(images uint8 (1797, 32, 32), labels, indices of training, indices held out)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images * (255 / 16)).round().astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BICUBIC)) for i in small])
    order = np.random.default_rng(SEED).permutation(len(large))
    held = len(large) // 5
    return large, data.target, order[held:], order[:held]


def normalized(images):
    """The digits recipe: (x / 255 - 0.5) / 0.5 as (B, 1, 32, 32)."""
    return ((images.astype(np.float32) / 255 - 0.5) / 0.5)[:, None]


def augmented(images, generator):
    """Each image turned by up to 12°, scaled by up to 12 % and moved by up to 3 pixels."""
    out = np.empty_like(images)
    for n, image in enumerate(images):
        angle, scale = generator.uniform(-0.21, 0.21), 1 / generator.uniform(0.88, 1.12)
        c, s = np.cos(angle) * scale, np.sin(angle) * scale
        dx, dy = generator.uniform(-3, 3, 2)
        # Output pixel -> input pixel, about the centre.
        affine = (c, -s, 16 - 16 * c + 16 * s + dx, s, c, 16 - 16 * s - 16 * c + dy)
        out[n] = Image.fromarray(image).transform((32, 32), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return out


def accuracy(model, images, labels):
    return float((model(normalized(images)).argmax(-1) == labels).mean())


def main():
    images, labels, train, held = digits()
    model, generator, moments, step = create("levit_digits", seed=SEED), np.random.default_rng(SEED), {}, 0
    steps, start = EPOCHS * (len(train) // BATCH), time.time()
    for epoch in range(EPOCHS):
        order = generator.permutation(train)
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch, step = order[first : first + BATCH], step + 1
            x = normalized(augmented(images[batch], generator))
            targets = ops.targets_of(labels[batch], 10, 0.1, np.float32)
            outputs, saved = model.forward(x, training=True)
            model.zero_gradients()
            model.backward([ops.cross_entropy_backward(o, targets) for o in outputs], saved)
            rate = RATE * min(step / 100, (1 + np.cos(np.pi * step / steps)) / 2)
            state = model.state()
            for name, gradient in model.gradients().items():
                a, b = moments.get(name, (np.zeros_like(gradient),) * 2)
                decay = DECAY if name.endswith("weight") else 0.0
                state[name], *moments[name] = (
                    v.astype(np.float32) for v in ops.adamw(state[name], gradient, a, b, step, rate, decay=decay))
            model.set_state(state)
        loss = sum(ops.cross_entropy(o, targets) for o in outputs) / 2
        print(f"epoch {epoch + 1}/{EPOCHS}  loss {loss:.3f}  {time.time() - start:.0f} s", flush=True)
    model.labels = [str(n) for n in range(10)]
    model.save(HERE / "levit_digits.h5")
    print(f"held out: {accuracy(model, images[held], labels[held]):.2%} of {len(held)}")
    for digit in range(8):
        chosen = next(i for i in held if labels[i] == digit)
        Image.fromarray(images[chosen]).save(HERE / "samples" / f"digit_{digit}.png")


if __name__ == "__main__":
    main()
