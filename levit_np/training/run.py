"""A training with its folder: steps, and between them whatever must outlive a power cut."""

import time
from collections.abc import Callable
from contextlib import nullcontext

from ..errors import TrainingError
from .curves import draw
from .fingerprint import fingerprint
from .folder import RunFolder
from .interrupt import Interrupt, Stopped
from .schedule import learning_rate
from .trainer import Trainer

SAVE_SECONDS = 600.0
KEPT = 0.1  # the share of the first weights in the average's last above which a user is told


class Run:
    """Drives a trainer to its last epoch, inside `folder.locked(...)`.

    validate: a network -> {"top1": percent, "loss": …, …}; it is called after each epoch, with the average where there
    is one.  screen: see progress.py.  save_seconds: how much is lost at most, besides what an epoch's end saves."""

    def __init__(self, trainer: Trainer, folder: RunFolder, *, screen, validate: Callable | None = None,
                 save_seconds: float = SAVE_SECONDS):
        self.trainer, self.folder, self.screen, self.validate = trainer, folder, screen, validate
        self.save_seconds, self.best = save_seconds, None
        self.writes = trainer.ranks.rank == 0
        self._skipped: set[str] = set()

    def begin(self, config: dict) -> None:
        """A new run: its first checkpoint, then config.json, which makes it one to go on with.  Raises Stopped after a
        signal, when that is done."""
        ranks = self.trainer.ranks
        ranks.require_equal("data and settings", config)
        ranks.require_equal("weights to begin with", fingerprint(self.trainer.model.state()))
        with Interrupt() as interrupt:
            ranks.first(lambda: self.folder.log.cut(0))
            self.save()
            ranks.first(lambda: self.folder.write_config(config))
        self._stop_if_asked(interrupt)
        self._say_what_the_average_keeps()
        self._say_how_far_the_rate_rises()

    def _say_what_the_average_keeps(self) -> None:
        """Where steps are few, the average, which every weight file is of, hardly leaves the weights it begins with."""
        recipe = self.trainer.recipe
        steps = recipe.epochs * -(-self.trainer.loader.steps // recipe.accumulation)
        if recipe.average and (kept := recipe.average ** steps) > KEPT:
            self.screen.note(f"average: after all {steps} steps it still holds {100 * kept:.0f} % of the weights it "
                             "begins with; a smaller --average forgets sooner, 0 keeps none")

    def _say_how_far_the_rate_rises(self) -> None:
        """Where epochs are few, the warm-up is not over when they are."""
        recipe, ranks = self.trainer.recipe, self.trainer.ranks.size
        end = recipe.epochs if recipe.rate_changes == "step" else max(recipe.epochs - 2, 0)  # in schedule.py's time
        if end < recipe.warmup_epochs:
            last = learning_rate(recipe, recipe.epochs - 1, ranks=ranks)
            self.screen.note(f"rate: the warm-up outlasts the training, whose last epoch begins at {last:.2g} of "
                             f"{recipe.peak_rate(ranks):.2g}; fewer --warmup-epochs rise sooner")

    def resume(self) -> None:
        """The state of the newest checkpoint that is whole.  Raises TrainingError where there is none, or it is of
        another training."""
        ranks = self.trainer.ranks
        arrays, document, skipped = ranks.first(self.folder.checkpoints.newest)
        for reason in skipped:
            self.screen.note(f"left out: {reason}")
        try:
            self.trainer.set_state(arrays, document)
        except TrainingError as error:
            raise TrainingError(f"{self.folder.checkpoints.folder}: {error}") from None
        self.best = document.get("best")
        ranks.first(lambda: self.folder.log.cut(self.trainer.epoch))
        self._saved = time.monotonic()
        self.screen.note(f"goes on in epoch {self.trainer.epoch + 1}, after batch {self.trainer.batch} of "
                         f"{self.trainer.loader.steps}")

    def train(self) -> None:
        """To the end.  Raises Stopped after a signal, when all is saved; TrainingError for a loss that is not finite,
        and for a folder that was taken away; OSError where nothing can be saved any more: the last checkpoint is then
        whole."""
        trainer = self.trainer
        with Interrupt() as interrupt:
            with self.screen.training(trainer):
                while trainer.epoch < trainer.recipe.epochs:
                    self._train_epoch(interrupt)
                    self.save()
                    # Several ranks end together, between two of the things that they do together.
                    with interrupt.at_once() if trainer.ranks.size == 1 else nullcontext():
                        line = self._line()
                    self._stop_if_asked(interrupt)
                    trainer.ranks.first(lambda: self._record(line))
                    trainer.next_epoch()
            if self.writes:
                best = "" if self.best is None else f"{self.folder.best} (validation top1 {self.best:.2f}), "
                self.screen.note(f"weights: {best}{self.folder.last}")
                self.screen.note(draw(self.folder.log.lines(), self.folder.path / "curves.png"))

    def save(self) -> None:
        """The state as it is between two steps.  Raises OSError, CheckpointError; TrainingError where the folder is not
        this run's any more."""
        state = self.trainer.state()

        def write():
            arrays, document = state
            self.folder.require_locked()
            self.folder.checkpoints.save(arrays, document | {"best": self.best})

        self.trainer.ranks.first(write)
        self._saved = time.monotonic()

    def _train_epoch(self, interrupt: Interrupt) -> None:
        ranks = self.trainer.ranks
        for step in self.trainer.train_epoch():
            self.screen.step(step)
            self.record_skipped(step.skipped)
            due = self.writes and time.monotonic() - self._saved >= self.save_seconds
            if ranks.any(interrupt.asked or due):
                self.save()
                self._stop_if_asked(interrupt)

    def _stop_if_asked(self, interrupt: Interrupt) -> None:
        """Raises Stopped, on every rank, where a signal came to one of them; all is saved."""
        (asked,) = self.trainer.ranks.largest([interrupt.asked or 0])
        if asked:
            raise Stopped(asked)

    def record_skipped(self, skipped) -> None:
        """Says, and writes down, each (name, reason) of an image that could not be used, once."""
        for _, reason in skipped:
            if reason not in self._skipped:
                self._skipped.add(reason)
                self.screen.note(f"skipped: {reason}")
                self.folder.record_skipped(reason)

    def _line(self) -> dict:
        """What the log says of the epoch that is over."""
        trainer = self.trainer
        loss, correct, images = trainer.ranks.mean([float(trainer.totals[key])
                                                    for key in ("loss", "correct", "images")])
        line = {"epoch": trainer.epoch + 1, "steps": trainer.update.steps,
                "rate": learning_rate(trainer.recipe, trainer.epoch, ranks=trainer.ranks.size),  # at the epoch's start
                "loss": loss / images, "top1": 100 * correct / images}
        if self.validate:
            share_statistics(trainer.evaluated, trainer.ranks)
            with self.screen.waiting("validation"):
                line["validation"] = self.validate(trainer.evaluated)
        return line

    def _record(self, line: dict) -> None:
        """The epoch's end on the disk.  Killed in here, a training comes by again and writes the same."""
        top1 = line.get("validation", {}).get("top1")
        better = top1 is not None and (self.best is None or top1 > self.best)
        self.folder.require_locked()  # a validation takes its time
        if better:
            self.best = top1
            self.trainer.evaluated.save(self.folder.best)
        self.trainer.evaluated.save(self.folder.last)
        self.folder.log.append(line)
        self.screen.epoch(line, better)


def share_statistics(model, ranks) -> None:
    """BN's running statistics, which each rank has of its own batches, become those of rank 0 that are saved."""
    if ranks.size == 1:
        return
    names = [name for name, spec in model.specs_by_name().items() if not spec.trainable]
    state = model.state()
    model.set_state(state | ranks.broadcast({name: model.ops.to_host(state[name]) for name in names}))
