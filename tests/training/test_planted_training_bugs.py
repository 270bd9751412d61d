"""Bugs planted one at a time into the recipe's arithmetic, each of which the comparison with PyTorch must detect."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from ..test_planted_bugs import plant
from .test_losses import BASE, TINY, losses

# The labels' loss has a third of its weight on the second head; two forwards a step; a rate that changes at each step.
HARD = replace(BASE, alpha=0.3, accumulation=2, batch=4, rate_changes="step", clip=0.003, warmup_epochs=1, epochs=4)
SOFT = replace(BASE, distillation="soft", temperature=2.0, rate=0.003)


def is_right(recipe, distil):
    """Whether the bars of test_losses are met after ten steps."""
    found = losses(TINY, 64, recipe, distil, "float64", steps=10)
    return max(found["losses"], found["rates"]) < 1e-9 and max(found["weights"], found["average"]) < 1e-8


@pytest.mark.parametrize("recipe, distil", [(HARD, True), (SOFT, True), (BASE, False)])
def test_without_a_bug_all_is_right(recipe, distil):
    assert is_right(recipe, distil)


@pytest.mark.parametrize("recipe, distil, target, old, new", [
    (HARD, True, "trainer.learning_rate", "t * (peak", "(t + 1) * (peak"),
    (HARD, True, "trainer.learning_rate", "epoch + progress if", "epoch if"),
    (HARD, True, "trainer.learning_rate", "t / recipe.epochs", "(t - recipe.warmup_epochs) / recipe.epochs"),
    (BASE, False, "trainer.learning_rate", "max(epoch - 1, 0)", "epoch"),
    (HARD, True, "recipe.Recipe.peak_rate", " * self.accumulation", ""),
    (HARD, True, "trainer.objective", "map(ops.multiply, shares, losses)", "map(ops.multiply, shares[::-1], losses)"),
    (HARD, True, "trainer.objective", "map(ops.multiply, shares, gradients)",
     "map(ops.multiply, shares[::-1], gradients)"),
    (HARD, True, "trainer.objective", "if teacher is None", "if True"),
    (SOFT, True, "trainer.objective", "recipe.temperature", "1.0"),
    (SOFT, True, "trainer.objective", 'recipe.distillation == "hard"', "True"),
    (BASE, False, "trainer.objective", "(targets,)", "(targets[::-1],)"),
    (BASE, False, "update.is_decayed", 'name.endswith(".weight")', "True"),
    (BASE, False, "update.is_decayed", 'name.endswith(".weight")', "False"),
    (BASE, False, "update.is_decayed", 'name.endswith(".weight")', 'not name.endswith(("gamma", "beta", ".bias"))'),
    (BASE, False, "update.Update.__call__", "recipe.clip, scale", "0.0, scale"),
    (BASE, False, "average.Average.update", "in own], self.decay", "in own], 1 - self.decay"),
    (HARD, True, "trainer.Trainer.passed", "self.scaled(doutputs, share)", "doutputs"),
    (HARD, True, "trainer.Trainer._pass", "share=share * self", "share=self"),
    (HARD, True, "trainer.Trainer.step", "loss += share * float(value)", "loss = float(value)"),
    (HARD, True, "trainer.Trainer.step", "self.batch / self.loader.steps", "0"),
])
def test_a_planted_bug_is_seen(recipe, distil, target, old, new, monkeypatch):
    plant(monkeypatch, f"training.{target}", old, new)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        assert not is_right(recipe, distil)
