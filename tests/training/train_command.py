"""Runs `levit-np train` in this process and in others."""

import subprocess
import sys
import time
from pathlib import Path

from levit_np.cli import main
from levit_np.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--model", "levit_digits", "--recipe", "small", "--epochs", "2", "--batch", "8", "--rate", "0.05",
         "--cutmix", "0.5", "--warmup-epochs", "1", "--backend", "reference", "--workers", "0"]


def start(*arguments):
    """Starts levit-np in a process and a process group of its own."""
    return subprocess.Popen([sys.executable, "-m", "levit_np.cli", *map(str, arguments)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def when_it_stands_at(path, steps, process):
    """Waits until a checkpoint after at least `steps` steps exists."""
    while not (found := Checkpoints(path / "checkpoints").paths()) or int(found[0].stem[5:]) < steps:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def fails(capsys, *arguments):
    """The line that a failing command prints."""
    capsys.readouterr()
    assert main(["train", *map(str, arguments)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("levit-np train: ")
    return said[0]
