"""The display of a training run: a bar with speed, loss, accuracy and the time left, and one line per epoch."""

import os
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta

from ..errors import shown, silence

LINE_SECONDS = 30.0  # between two lines if there is no bar, as in a file or under mpiexec


class Screen:
    """Prints lines on standard output, and a bar on standard error if that is a terminal that can be redrawn, else a
    line now and then; quiet: prints nothing."""

    def __init__(self, quiet: bool = False):
        self._quiet, self._bar = quiet, None

    def note(self, text: str) -> None:
        """Prints a line.  If nobody reads it any more (`head` has ended), training continues all the same."""
        if self._quiet:
            return
        try:
            print(shown(text), flush=True)
        except OSError as error:
            silence(sys.stdout)
            warnings.warn(f"standard output: {error.strerror}; the training goes on, log.jsonl has its epochs",
                          stacklevel=2)

    @contextmanager
    def training(self, trainer):
        """A context manager around the whole training run."""
        self._trainer, self._images, self._since = trainer, 0, time.monotonic()
        self._begun, self._said, self._until = (self._since, self._done()), self._since, self._since
        redrawn = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"  # which it is in Emacs's shell
        with self._made_bar() if redrawn and not self._quiet else nullcontext() as self._bar:
            if self._bar:
                self._task = self._bar.add_task("starting", total=self._total(), completed=self._done())
            yield
        self._bar = None

    def step(self, step) -> None:
        """Called after each step."""
        self._images, self._until = self._images + step.images, time.monotonic()
        if not self._bar and self._until - self._said < LINE_SECONDS:
            return
        trainer, totals = self._trainer, self._trainer.totals
        text = (f"epoch {trainer.epoch + 1}/{trainer.recipe.epochs}  {trainer.batch}/{trainer.loader.steps}  "
                f"{self._speed():.3g} images/s  loss {totals['loss'] / totals['images']:.3f}  "
                f"accuracy {totals['correct'] / totals['images']:.1%}")
        if self._bar:
            self._bar.update(self._task, completed=self._done(), description=text)
        else:
            (begun, before), self._said = self._begun, self._until
            left = (self._until - begun) / (self._done() - before) * (self._total() - self._done())
            self.note(f"{text}  {timedelta(seconds=round(left))} left")

    def waiting(self, what: str) -> None:
        """Called before work other than steps."""
        if self._bar:
            self._bar.update(self._task, description=f"epoch {self._trainer.epoch + 1}  {what}")

    def epoch(self, line: dict, best: bool) -> None:
        """Called at the end of an epoch, with its line of the log."""
        text = (f"epoch {line['epoch']}/{self._trainer.recipe.epochs}  loss {line['loss']:.4f}  "
                f"top1 {line['top1']:.2f}")
        if figures := line.get("validation"):
            text += f"  validation loss {figures['loss']:.4f}  top1 {figures['top1']:.2f}" + "  best" * best
        self.note(text + f"  {self._speed():.3g} images/s" * bool(self._images))
        self._images, self._since = 0, time.monotonic()

    def _done(self) -> int:
        """The number of batches done, of the whole training run."""
        return self._trainer.epoch * self._trainer.loader.steps + self._trainer.batch

    def _total(self) -> int:
        return self._trainer.recipe.epochs * self._trainer.loader.steps

    def _speed(self) -> float:
        return self._images * self._trainer.ranks.size / max(self._until - self._since, 1e-9)

    def _made_bar(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        class Bar(Progress):
            def stop(self):
                with suppress(OSError):  # the terminal has been closed, but the training may be over or saved
                    super().stop()

        # The bar takes what is left of the width.  If nothing is, the text takes more lines: otherwise the time would
        # be cut, on 80 columns as soon as there are thousands of batches an epoch.
        columns = (TextColumn("{task.description}", table_column=Column()),
                   BarColumn(None, table_column=Column(ratio=1, no_wrap=True)),
                   TimeRemainingColumn(table_column=Column(no_wrap=True)), TextColumn("left"))
        # The speed is that of the last thousand steps, not of 30 s, in which there may be less than two.  Redirecting
        # standard output makes its lines appear above the bar.
        return Bar(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), expand=True,
                   speed_estimate_period=float("inf"))
