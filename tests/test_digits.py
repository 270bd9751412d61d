"""The weights that ship, as a user meets them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from levit_np.checkpoints.loading import load
from levit_np.cli import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("digit", range(8))
def test_held_out_digits_are_recognised(digit, capsys):
    assert main(["classify", str(ROOT / f"weights/samples/digit_{digit}.png"), "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == str(digit)


def test_file_is_small():
    assert (ROOT / "weights/levit_digits.h5").stat().st_size <= 2_000_000


def test_a_bad_image_fails_and_the_others_go_on(tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert main(["classify", str(tmp_path / "bad.png"), str(ROOT / "weights/samples/digit_1.png")]) == 1
    captured = capsys.readouterr()
    assert "bad.png" in captured.err and "digit_1.png" in captured.out


def test_summary_and_unknown_weights(capsys):
    assert main(["summary", "levit_256"]) == 0
    assert "18,893,876" in capsys.readouterr().out
    assert main(["summary", "nothing.h5"]) == 1


def test_import_is_light():
    code = ("import sys, levit_np; levit_np.list_models(); "
            "assert not {'numba', 'cupy', 'h5py', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=os.environ)


def test_98_5_percent_of_the_held_out_fifth():
    pytest.importorskip("sklearn")
    path = list(sys.path)
    specification = importlib.util.spec_from_file_location("train_digits", ROOT / "weights/train_digits.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    sys.path[:] = path
    images, labels, train, held = script.digits()
    assert len(held) == 359 and not set(held) & set(train)
    assert script.accuracy(load(ROOT / "weights/levit_digits.h5"), images[held], labels[held]) >= 0.985
