"""The folder for what can be had again: downloaded weights, compiled kernels."""

import os
import sys
from pathlib import Path


def directory() -> str:
    """$LEVIT_NP_CACHE, else levit_np in the platform's place for caches."""
    if chosen := os.environ.get("LEVIT_NP_CACHE"):
        return os.path.expanduser(chosen)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # a user without one, in a container say: nothing is kept, least of all in a folder ~
        home = os.devnull
    if sys.platform == "win32":
        base = _absolute("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = _absolute("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(base, "levit_np")


def _absolute(variable):
    """The folder a variable names; None where it names none, or one that depends on where one works: XDG's rule."""
    folder = os.environ.get(variable, "")
    return folder if os.path.isabs(folder) else None


def make() -> Path:
    """The folder, made if it was not there: for this user alone.  Raises OSError."""
    os.makedirs(directory(), mode=0o700, exist_ok=True)
    return Path(directory())


def is_ours(status: os.stat_result) -> bool:
    """Whether what has this status can be written by nobody but this user and root.

    Windows has no such bits: there the user's own folder is trusted."""
    return not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
