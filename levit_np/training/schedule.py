"""The learning-rate schedule: linear warm-up, then a cosine, as in the authors' script."""

import math

from .recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int, progress: float = 0.0, ranks: int = 1) -> float:
    """The learning rate of a step in `epoch` (counted from 0), of which the share `progress` (0 to below 1) is done.

    At time t, in epochs: warmup_rate + t (peak - warmup_rate) / warmup_epochs while t < warmup_epochs, then
    final_rate + (peak - final_rate) (1 + cos(π t / epochs)) / 2. The cosine starts at t = 0, under the warm-up.

    With rate_changes "step", t = epoch + progress.  With "epoch", t = epoch - 1, and 0 in the first epoch: the authors'
    script sets an epoch's rate at the end of the epoch before, from that epoch's number.
    """
    t = epoch + progress if recipe.rate_changes == "step" else max(epoch - 1, 0)
    peak = recipe.peak_rate(ranks)
    if t < recipe.warmup_epochs:
        return recipe.warmup_rate + t * (peak - recipe.warmup_rate) / recipe.warmup_epochs
    return recipe.final_rate + (peak - recipe.final_rate) * (1 + math.cos(math.pi * t / recipe.epochs)) / 2
