"""Fifty steps of the whole recipe, without its randomness, give PyTorch's losses, weights and moving average."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from levit_np.checkpoints.formats import name_table
from levit_np.config import Convolution, LeViTConfig, Stage
from levit_np.model import build
from levit_np.training.recipe import Recipe
from levit_np.training.trainer import Trainer

from ..distance import worst
from ..parity import pair
from .in_memory import MemoryLoader
from .torch_recipe import TorchRecipe

STEPS = 50
# A LeViT with all its parts, small enough for fifty steps in a second or two.
TINY = LeViTConfig("tiny", tuple(map(Convolution, (4, 8, 16, 32))),
                   (Stage(32, 1, 2), Stage(48, 2, 3, 4), Stage(64, 1, 4, 6)), 8, image_size=(64, 64), num_classes=17)
# Twice the paper's rate. With a higher rate each step would amplify the rounding of the previous one more.
BASE = Recipe(epochs=12, batch=6, rate=1e-3, warmup_epochs=3, average=0.95, drop_path=0.0)
FORMS = {
    "the labels on both heads": (BASE, False),
    "hard distillation": (replace(BASE, alpha=0.3, clip=0.003), True),
    "soft distillation": (replace(BASE, distillation="soft", temperature=3.0, rate_changes="step", warmup_rate=2e-6,
                                  final_rate=3e-6), True),
    "accumulation": (replace(BASE, accumulation=2, batch=4), False),
    "neither clipping nor decay": (replace(BASE, clip=0.0, decay=0.0, beta1=0.8, beta2=0.99, adam_eps=1e-6), True),
}


def teacher_of(classes):
    """A teacher: some function of a batch."""
    return lambda batch: (3 * np.roll(batch.targets, 1, axis=1)
                          + batch.images.mean((1, 2, 3))[:, None] * np.arange(classes))


def losses(name, size, recipe, distil, dtype, classes=17, steps=STEPS, backend="reference"):
    """{what: largest relative difference}, and "moved": how far our weights moved."""
    source, theirs = pair(name, classes=classes, size=size)
    ours = build(source.config, backend)
    ours.set_state({n: a.astype(dtype) for n, a in source.state().items()})
    theirs.train()
    loader = MemoryLoader(ours.config, steps=4 * recipe.accumulation, batch=recipe.batch)
    loader.patterns = loader.patterns.astype(np.float64)
    teacher = teacher_of(classes) if distil else None
    arrays = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    names = {own: arrays[there] for own, there in name_table(ours.config, "transformers").items()}

    def both_heads(x):
        out = theirs(x)
        return out.cls_logits, out.distillation_logits

    peer = TorchRecipe(both_heads, names, recipe, 4)
    trainer, mine, other = Trainer(ours, loader, recipe, teacher=teacher), [], []
    while len(mine) < steps:
        epoch = trainer.epoch
        for step in trainer.train_epoch():
            number = trainer.batch // recipe.accumulation - 1
            group = [loader.batch_at(epoch, number * recipe.accumulation + i) for i in range(recipe.accumulation)]
            other.append(peer.step(epoch, number, [
                tuple(torch.from_numpy(np.asarray(a, np.float64)) if a is not None else None
                      for a in (b.images, b.targets, teacher(b) if teacher else None)) for b in group]))
            mine.append((step.loss, step.rate))
            other[-1] = other[-1], peer.rate(epoch, number)
        trainer.next_epoch()
    found = dict(zip(("losses", "rates"), np.abs(np.array(mine[:steps]) / np.array(other[:steps]) - 1).max(0)))
    return found | {
        "weights": max(worst(a, names[n].detach().numpy()) for n, a in ours.state().items()),
        "average": max(worst(a, peer.average[n].numpy()) for n, a in trainer.average.model.state().items()),
        "moved": max(worst(a, source.state()[n]) for n, a in ours.trained().items())}


@pytest.mark.parametrize("form", FORMS)
def test_fifty_steps_in_float64(form):
    """Differences are rounding, amplified over fifty steps; the weights move by 1e-3 of their size."""
    found = losses(TINY, 64, *FORMS[form], "float64")
    assert found["losses"] < 1e-9 and max(found["weights"], found["average"]) < 1e-8, found
    assert found["rates"] < 1e-14 and found["moved"] > 1e-4, found


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_fifty_steps_in_float32(backend):
    found = losses(TINY, 64, *FORMS["hard distillation"], "float32", backend=backend)
    assert max(found["losses"], found["weights"], found["average"]) < 1e-3 < 10 * found["moved"], found


@pytest.mark.slow
@pytest.mark.parametrize("dtype, bar", [("float64", 1e-9), ("float32", 1e-3)])
def test_fifty_steps_of_levit_256(dtype, bar):
    recipe = replace(BASE, batch=8, rate=5e-4, alpha=0.5, average=0.99996)
    found = losses("levit_256", 224, recipe, True, dtype, classes=1000, backend="cpu")
    print(f"\n{dtype}: {found}")
    assert found["losses"] < bar
