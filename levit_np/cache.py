"""The cache folder, for files that can be made again: downloaded weights and compiled kernels."""

import os
import sys
from pathlib import Path


def directory() -> str:
    """$LEVIT_NP_CACHE, else levit_np in the platform's cache folder."""
    if chosen := os.environ.get("LEVIT_NP_CACHE"):
        return os.path.expanduser(chosen)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # a user without a home, in a container say: cache nothing, and never in ./~
        home = os.devnull
    if sys.platform == "win32":
        base = _absolute("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = _absolute("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(base, "levit_np")


def _absolute(variable):
    """The folder that an environment variable names; None if it is unset or relative, which XDG says to ignore."""
    folder = os.environ.get(variable, "")
    return folder if os.path.isabs(folder) else None


def make() -> Path:
    """The cache folder, created if missing, accessible to this user alone.  Raises OSError."""
    os.makedirs(directory(), mode=0o700, exist_ok=True)
    return Path(directory())


def is_ours(status: os.stat_result) -> bool:
    """Whether a file with this status can be written by this user and root alone.

    Windows has no such permission bits: there the user's own folder is trusted."""
    return not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
