"""The scripts in bench/ as modules."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def bench(monkeypatch):
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "bench")
    return importlib.import_module
