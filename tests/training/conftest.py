"""Fixtures for the tests of training: a small data set, and a finished run of the command."""

import os

import numpy as np
import pytest
from PIL import Image

from levit_np.cli import main

from .train_command import QUICK


@pytest.fixture(scope="module")
def fast_disk():
    """No fsync: what was written survives the process without it. (storage/test_atomic.py tests when fsync is
    called.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def restored_environment():
    """Restores the environment variables that the command sets for its process."""
    kept = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder of grey shapes in three classes: `train` with 14 of each, and `val`."""
    folder, generator = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for part, count in (("train", 14), ("val", 4)):
        for number, kind in enumerate(("bar", "disc", "ring")):
            (folder / part / kind).mkdir(parents=True)
            for n in range(count):
                y, x = np.mgrid[:36, :34] - 17 - generator.integers(-4, 5, (2, 1, 1))
                r = np.hypot(y, x)
                shape = (np.abs(x) < 4, r < 11, (r > 7) & (r < 12))[number]
                image = (40 + 160 * shape + generator.integers(0, 40, shape.shape)).astype(np.uint8)
                Image.fromarray(image).save(folder / part / kind / f"{n:02}.png")
    return folder


@pytest.fixture(scope="session")
def trained(shapes, tmp_path_factory):
    """The folder of a finished run of the command."""
    path = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", str(shapes), "--output", str(path), *QUICK]) == 0
    return path
