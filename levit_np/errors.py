"""The exceptions. Most messages have the form `place: expected …, found …`."""

import os
import sys
from contextlib import contextmanager, suppress


def shown(text: str) -> str:
    """Untrusted text made safe to print: control characters, which could command the terminal, are escaped."""
    return text if text.isprintable() else ascii(text)


def say(text: str) -> None:
    """Prints a line on stderr; does nothing, and raises nothing, if stderr is missing or closed."""
    if sys.stderr:  # print(file=None) would write to stdout
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def silence(stream) -> None:
    """Discards what this process writes to a stream after an error of it: at exit, Python would try to write what is
    left again, and end with status 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class LevitError(ValueError):
    """The base class: anything that levit_np refuses. The command line prints it as one line and exits with 1."""


class ConfigError(LevitError):
    """A configuration that describes no network, or a recipe that cannot be trained with."""


class BackendError(LevitError):
    """A backend, or a precision on a backend, that this machine or this version does not have."""


class CheckpointError(LevitError):
    """A weight file that is damaged, hostile, of an unknown format, or of another network: the only exception that
    reading one raises."""


@contextmanager
def checkpoint_errors_alone(place: str, expected: str):
    """Turns any other exception raised inside, by a library say, into a one-line CheckpointError."""
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
    """A training run that cannot start or continue: a loss that is not finite, no intact checkpoint, another writer."""


class DataError(LevitError):
    """A data set that cannot be used for training or evaluation, or the death of a process that prepares it."""
