"""The training loop with its folder: steps, and between them everything that must survive a power cut."""

import time
from collections.abc import Callable
from contextlib import nullcontext

from ..config import plain
from ..errors import TrainingError
from .curves import draw
from .fingerprint import fingerprint
from .folder import RunFolder
from .interrupt import Interrupt, Stopped
from .schedule import learning_rate
from .trainer import Trainer

SAVE_SECONDS = 600.0
# Warn if the final average still contains more than this share of what it begins with. A fresh network's BN variances
# begin at 1, far above those of its small activations: with 7 % of them left, the digits' average had 35 % top-1 where
# the weights had 90; with 0.5 %, 97 and 99.
KEPT = 0.01


class Run:
    """Runs a trainer to its last epoch, inside `folder.locked(...)`.

    validate: a function network -> {"top1": percent, "loss": …, …}, called after each epoch with the averaged network
    if there is one.  screen: see progress.py.  save_seconds: the time between checkpoints within an epoch, and so the
    most that can be lost."""

    def __init__(self, trainer: Trainer, folder: RunFolder, *, screen, validate: Callable | None = None,
                 save_seconds: float = SAVE_SECONDS):
        self.trainer, self.folder, self.screen, self.validate = trainer, folder, screen, validate
        self.save_seconds, self.best = save_seconds, None
        self.writes = trainer.ranks.rank == 0
        self._skipped: set[str] = set()

    def begin(self, config: dict) -> None:
        """Starts a new run: writes its first checkpoint, then config.json, which makes it one that can be resumed.
        Raises Stopped after a signal, once that is done."""
        ranks = self.trainer.ranks
        ranks.require_equal("data and settings", config)
        ranks.require_equal("weights to begin with", fingerprint(self.trainer.model.state()))
        with Interrupt() as interrupt:
            self.save()  # first: should the disk be full, nothing is left in the folder, which is then removed
            ranks.first(lambda: self.folder.log.cut(0))
            ranks.first(lambda: self.folder.write_config(config))
        self._stop_if_asked(interrupt)
        self._say_what_the_average_keeps()
        self._say_how_far_the_rate_rises()

    def _say_what_the_average_keeps(self) -> None:
        """Warns if there are so few steps that the average, which is what weight files hold, hardly leaves the initial
        weights."""
        recipe = self.trainer.recipe
        steps = recipe.epochs * -(-self.trainer.loader.steps // recipe.accumulation)
        if recipe.average and (kept := recipe.average ** steps) > KEPT:
            self.screen.note(f"average: after all {steps} steps it still holds {100 * kept:.0f} % of the weights it "
                             "begins with; a smaller --average forgets faster, 0 switches it off")

    def _say_how_far_the_rate_rises(self) -> None:
        """Warns if there are so few epochs that training ends before the warm-up does, or so few images per step that
        the peak, which goes with them, is below the final rate, which does not."""
        recipe, ranks = self.trainer.recipe, self.trainer.ranks.size
        peak = recipe.peak_rate(ranks)
        if peak < recipe.final_rate:
            self.screen.note(f"rate: its peak for so few images per step, {peak:.2g}, is below the final rate, "
                             f"{recipe.final_rate:.2g}; choose a larger --rate or a smaller --final-rate")
        end = recipe.epochs if recipe.rate_changes == "step" else max(recipe.epochs - 2, 0)  # in schedule.py's time
        if end < recipe.warmup_epochs:
            last = learning_rate(recipe, recipe.epochs - 1, ranks=ranks)
            self.screen.note(f"rate: the warm-up outlasts the training, whose last epoch begins at {last:.2g} of "
                             f"{peak:.2g}; fewer --warmup-epochs rise sooner")

    def resume(self) -> None:
        """Restores the newest intact checkpoint.  Raises TrainingError if there is none, or if it belongs to another
        training run."""
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
        self.screen.note(f"goes on {self._how_far()}")

    def _how_far(self) -> str:
        trainer = self.trainer
        if trainer.batch < trainer.loader.steps:
            return f"in epoch {trainer.epoch + 1}, after batch {trainer.batch} of {trainer.loader.steps}"
        return f"after the last batch of epoch {trainer.epoch + 1} of {trainer.recipe.epochs}"

    def train(self) -> None:
        """Trains to the end.  Raises Stopped after a signal, when everything is saved; TrainingError for a loss that is
        not finite or a folder that was removed; OSError if nothing can be saved any more: the last checkpoint is then
        intact."""
        trainer = self.trainer
        with Interrupt() as interrupt:
            with self.screen.training(trainer):
                while trainer.epoch < trainer.recipe.epochs:
                    self._train_epoch(interrupt)
                    self.save()
                    # Several ranks cannot stop in the middle of a validation, in which they communicate.
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
        """Writes a checkpoint, between two steps.  Raises OSError, CheckpointError; TrainingError if the folder is no
        longer this run's."""
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
        """Raises Stopped, on every rank, if a signal arrived at one of them; everything is saved by now."""
        (asked,) = self.trainer.ranks.largest([interrupt.asked or 0])
        if asked:
            raise Stopped(asked)

    def record_skipped(self, skipped) -> None:
        """Prints and writes down each (name, reason) of an image that could not be used, once."""
        for _, reason in skipped:
            if reason not in self._skipped:
                self._skipped.add(reason)
                self.screen.note(f"skipped: {reason}")
                self.folder.record_skipped(reason)

    def _line(self) -> dict:
        """The log's line for the epoch that has just ended."""
        trainer = self.trainer
        loss, correct, images = trainer.ranks.mean([float(trainer.totals[key])
                                                    for key in ("loss", "correct", "images")])
        line = {"epoch": trainer.epoch + 1, "steps": trainer.update.steps,
                "rate": learning_rate(trainer.recipe, trainer.epoch, ranks=trainer.ranks.size),  # at the epoch's start
                "loss": loss / images, "top1": 100 * correct / images}
        if self.validate:
            share_statistics(trainer.evaluated, trainer.ranks)
            self.screen.waiting("validation")
            line["validation"] = {key: plain(value) for key, value in self.validate(trainer.evaluated).items()}
        return line

    def _record(self, line: dict) -> None:
        """Writes weights and log at an epoch's end.  If it is killed in here, the resumed run writes the same again."""
        top1 = line.get("validation", {}).get("top1")
        better = top1 is not None and (self.best is None or top1 > self.best)
        self.folder.require_locked()  # the validation may have taken long
        if better:
            self.best = top1
            self.trainer.evaluated.save(self.folder.best)
        self.trainer.evaluated.save(self.folder.last)
        self.folder.log.append(line)
        self.screen.epoch(line, better)


def share_statistics(model, ranks) -> None:
    """Gives every rank the BN running statistics of rank 0, which are the ones saved; each rank's are of its own
    batches."""
    if ranks.size == 1:
        return
    names = [name for name, spec in model.specs_by_name().items() if not spec.trainable]
    state = model.state()
    model.set_state(state | ranks.broadcast({name: model.ops.to_host(state[name]) for name in names}))
