"""What can go wrong, as exceptions. Every message names the place, what was expected and what was found."""

import os
import sys
from contextlib import contextmanager, suppress


def shown(text: str) -> str:
    """A text from outside as a message may hold it: it must not be able to command the terminal."""
    return text if text.isprintable() else ascii(text)


def say(text: str) -> None:
    """A line on stderr; nothing, and no exception, where stderr is missing or closed."""
    if sys.stderr:  # else print would take stdout
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def silence_output() -> None:
    """After an error of stdout: what is still to be written goes nowhere.  At its end Python would try again, and say
    so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LevitError(ValueError):
    """Anything that levit_np refuses; the command line turns it into one line and exit status 1."""


class ConfigError(LevitError):
    """A configuration that describes no network, or a recipe that nothing can be trained by."""


class BackendError(LevitError):
    """A backend, or a precision on it, that this machine or this version does not have."""


class CheckpointError(LevitError):
    """A weight file that is damaged, hostile, unknown, or of another network:
    the only exception that reading one raises."""


@contextmanager
def checkpoint_errors_alone(place: str, expected: str):
    """Whatever else is raised inside, by a library say, becomes a CheckpointError, in one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{place}: expected {expected}, found {reason:.300}") from error


class ImageError(LevitError):
    """An image that cannot be decoded, is too large, or does not fit the model."""


class TrainingError(LevitError):
    """A training that cannot begin or cannot go on: no finite loss, no whole checkpoint, another writer."""


class DataError(LevitError):
    """A set of images that cannot be trained on or evaluated, or a process that prepares them and died."""
