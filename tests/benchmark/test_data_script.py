"""bench/data.py: a small run prints every operation and every speed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_run(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "bench/data.py"), "--images", "8", "--batch", "4", "--rounds",
                           "1", "--workers", "0", "1", "--results", tmp_path], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0 and len(list(tmp_path.glob("data-*.json"))) == 1, done.stderr
    lines = done.stdout.splitlines()
    assert "8 images" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == [
        "read", "decode", "crop", "RandAugment", "normalise", "erase", "mix", "all", "evaluation",
        "folder", "folder", "packed", "packed"]
    assert all(float(line.split()[-2]) > 0 for line in lines[-4:])
