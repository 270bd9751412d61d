"""Batches from memory, for tests of the trainer: their content depends only on (seed, epoch, step)."""

import numpy as np

from levit_np.config import Convolution, LeViTConfig, Stage
from levit_np.training.data.batch import Batch

# As small as a LeViT can be: writing a checkpoint takes longer with more arrays.
SMALL = LeViTConfig("small", (Convolution(6),), (Stage(6, 1, 2),), 3, image_size=(8, 8), in_channels=1, num_classes=3,
                    drop_path=0.2)


class MemoryLoader:
    """`steps` batches an epoch. Each image is its class's fixed pattern with noise, so that there is something to
    learn."""

    def __init__(self, config=SMALL, steps=5, batch=6, seed=0, mixed=True):
        self.config, self.steps, self.batch, self.seed, self.mixed = config, steps, batch, seed, mixed
        shape = config.num_classes, config.in_channels, *config.image_size
        self.patterns = np.random.default_rng(99).standard_normal(shape).astype(np.float32)

    def epoch(self, epoch, first_step=0):
        for step in range(first_step, self.steps):
            yield self.batch_at(epoch, step)

    def batch_at(self, epoch, step):
        generator = np.random.default_rng([self.seed, epoch, step])
        labels = generator.integers(0, self.config.num_classes, self.batch)
        images = self.patterns[labels] + generator.standard_normal((self.batch, *self.patterns.shape[1:]), np.float32)
        targets = np.full((self.batch, self.config.num_classes), 0.1 / self.config.num_classes, np.float32)
        targets[np.arange(self.batch), labels] += 0.9
        if self.mixed:  # as mixup makes them
            targets = (0.7 * targets + 0.3 * targets[::-1]).astype(np.float32)
        indices = np.arange(self.batch) + self.batch * step
        return Batch(images, targets, indices, tuple(f"image {n} of epoch {epoch}" for n in indices), ())
