"""A run that takes milliseconds, with everything that a state can contain: drop path, accumulation, a moving average, a
teacher."""

import hashlib
import json
import os
import signal
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np

from levit_np.classifier import Classifier
from levit_np.model import build, initial_state
from levit_np.training.checkpoint import Checkpoints
from levit_np.training.folder import RunFolder
from levit_np.training.recipe import Recipe
from levit_np.training.run import Run
from levit_np.training.trainer import Trainer

from .in_memory import SMALL, MemoryLoader

RECIPE = Recipe(epochs=3, batch=6, rate=0.3, warmup_epochs=1, accumulation=2, average=0.9, rate_changes="step")
STEPS = 9  # 5 batches an epoch, two a step, so the last step of an epoch has one


class Silent:
    """A screen that shows nothing, but keeps notes and lines; `each` is called after each step."""

    def __init__(self, each=lambda step: None):
        self.step, self.notes, self.lines = each, [], []

    def note(self, text):
        self.notes.append(text)

    def training(self, trainer):
        return self

    def waiting(self, what):
        pass

    def epoch(self, line, best):
        self.lines.append((line, best))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Reporting(Run):
    def save(self):
        super().save()
        if self.folder.config.exists():  # otherwise there is no run yet
            with open(self.saved, "ab") as file:
                file.write(bytes([self.trainer.update.steps]))


def trainer(recipe=RECIPE, seed=0, loader=None, config=SMALL, **more):
    model = build(config, "reference", Classifier)
    model.set_state(initial_state(model, seed, "float32"))
    model.labels = [f"pattern {n}" for n in range(config.num_classes)]
    teacher = (lambda batch: np.roll(batch.targets, 1, 1)) if config.distillation else None
    return Trainer(model, loader or MemoryLoader(config), recipe, seed=seed, teacher=teacher, **more)


def validate(model):
    """Evaluates a few images, always the same ones."""
    batch = MemoryLoader(model.config, seed=1, mixed=False).batch_at(0, 0)
    logits = model(batch.images)
    return {"top1": 100 * float((logits.argmax(1) == batch.targets.argmax(1)).mean()), "loss": float(-logits.min())}


def run(path, resume=False, each=lambda step: None, save_seconds=1e9, curves=False, saved=None, **more):
    """Begins a run in a folder, or continues it, and trains to the end; returns (the Run, its screen).

    saved: a file that gets a byte after each checkpoint, the number of steps in it."""
    folder, screen = RunFolder(path), Silent(each)
    quick = nullcontext() if curves else patch("levit_np.training.run.draw", lambda lines, path: "")
    with folder.locked(fresh=not resume), quick:
        made = (Reporting if saved else Run)(trainer(**more), folder, screen=screen, validate=validate,
                                             save_seconds=save_seconds)
        made.saved = saved
        if resume:
            made.resume()
        else:
            made.begin({"what": "a small run"})
        made.train()
    return made, screen


def digest(arrays, document) -> str:
    """SHA-256 over weights, BN statistics, moments, average, random state and position."""
    found = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(name.encode() + str(arrays[name].dtype).encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def end_of(path):
    """The bytes of the files with which a run ends."""
    newest = Checkpoints(path / "checkpoints").paths()[0]
    return {file.name: file.read_bytes() for file in (newest, path / "best.h5", path / "last.h5", path / "log.jsonl")}


def interrupted_at(cut, number=signal.SIGINT):
    """A function that sends this process a signal after `cut` steps."""
    left = [cut]

    def each(step):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
    return each
