"""The learning rate at places where its formula is easy to compute by hand; test_losses.py compares whole trainings."""

from dataclasses import replace

import pytest

from levit_np.training.recipe import Recipe
from levit_np.training.schedule import learning_rate

RECIPE = Recipe(epochs=10, batch=64, accumulation=2, rate=4e-3, warmup_rate=1e-6, final_rate=1e-5, warmup_epochs=2)


@pytest.mark.parametrize("ranks, peak", [(1, 1e-3), (2, 2e-3)])
@pytest.mark.parametrize("changes, delay", [("step", 0), ("epoch", 1)])
def test_by_hand(changes, delay, ranks, peak):
    """The peak goes with the images per step, over all ranks; an epoch's rate is that of the epoch before it."""
    recipe = replace(RECIPE, rate_changes=changes)
    middle = (peak + 1e-5) / 2  # the cosine is 0
    for epoch, expected in ((0, 1e-6), (1, (1e-6 + peak) / 2), (5, middle)):
        assert learning_rate(recipe, epoch + delay, ranks=ranks) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(recipe, 0, 0.5, ranks) == pytest.approx(1e-6 + (0 if delay else (peak - 1e-6) / 4), rel=1e-12)
