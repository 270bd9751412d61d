"""The learning rate over a training: linear warm-up, then a cosine, as the authors' script has it."""

import math

from .recipe import Recipe


def learning_rate(recipe: Recipe, epoch: int, progress: float = 0.0, ranks: int = 1) -> float:
    """The rate of a step in `epoch` (from 0), `progress` of which (0 to below 1) is done.

    At the time t, in epochs: warmup_rate + t (peak - warmup_rate) / warmup_epochs while t < warmup_epochs, then
    final_rate + (peak - final_rate) (1 + cos(π t / epochs)) / 2: the warm-up is part of the cosine's epochs.

    rate_changes "step": t = epoch + progress.  "epoch": t = epoch - 1, but 0 in the first epoch, since the authors'
    script sets an epoch's rate when the epoch before it is over, by the number of the latter.
    """
    t = epoch + progress if recipe.rate_changes == "step" else max(epoch - 1, 0)
    peak = recipe.peak_rate(ranks)
    if t < recipe.warmup_epochs:
        return recipe.warmup_rate + t * (peak - recipe.warmup_rate) / recipe.warmup_epochs
    return recipe.final_rate + (peak - recipe.final_rate) * (1 + math.cos(math.pi * t / recipe.epochs)) / 2
