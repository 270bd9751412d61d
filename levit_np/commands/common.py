"""Shared by the verbs: numbers from the command line, progress display, checks of output files, opening models."""

import argparse
import os
import sys
from contextlib import contextmanager

from ..errors import BackendError, CheckpointError, LevitError, shown
from ..ops import PRECISIONS

BACKENDS = (*PRECISIONS, "auto")
DIGITS = "levit_digits.h5"  # the small weights that ship with levit_np


def whole(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def from_zero(text: str) -> int:
    """A whole number from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def use_threads(arguments):
    """Sets the number of threads to --threads; too large a number is wrong use."""
    import levit_np

    try:
        levit_np.set_threads(arguments.threads)
    except BackendError as error:
        arguments.wrong_use(f"argument --{error}")


@contextmanager
def progress(total: int, what: str, silent: bool = False):
    """A context manager that yields advance(count=1): a bar with the speed on stderr, if that is a terminal.

    Without `silent`, results are printed as they come: then there is a bar only for more than 16 of them whose output
    does not go to the terminal, where it would show the progress itself."""
    if not sys.stderr.isatty() or not silent and (total <= 16 or sys.stdout.isatty()):
        yield lambda count=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class Speed(ProgressColumn):
        def render(self, task):
            return f"{task.finished_speed or task.speed or 0:.3g} {task.description}/s"

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count=1: bar.advance(task, count)


@contextmanager
def waiting(what: str):
    """A context manager that shows `what` is being done, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(shown(what))):
        yield


def require_free(path: str, force: bool):
    """Raises LevitError if the file exists, unless `force`; OSError if it cannot be written."""
    replaceable = os.path.isfile(path) or not os.path.exists(path)  # others (folders, devices) are refused below
    if os.path.lexists(path) and replaceable and not force:
        raise LevitError(f"{shown(path)}: expected no such file yet, found one; --force replaces it")
    require_writable(path)


def require_writable(path: str):
    """Raises OSError, before hours of work, if their result could not be written."""
    import tempfile

    from ..storage.atomic import mode_of_regular_file, resolved

    target = resolved(path)
    try:
        mode_of_regular_file(target)  # raises for a directory or a device
        with tempfile.TemporaryFile(dir=os.path.dirname(target)):  # try it: the disk may be read-only
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def opened(source: str, **options):
    """The model in a weight file or, for a model name, a fresh one with random weights."""
    import levit_np

    from ..config import ABLATIONS, FAMILY

    names = FAMILY | ABLATIONS
    if source in names:
        return levit_np.create(source, **options)
    try:
        return levit_np.load(source, **options)
    except CheckpointError as error:
        if os.path.exists(source) or os.path.splitext(source)[1]:
            raise
        raise CheckpointError(f"{error}; model names are {', '.join(names)}") from None
