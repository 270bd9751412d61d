"""bench/: the peers compute what we do, and a small run of the whole script leaves a whole result."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.random_model import random_images, random_model

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module


@pytest.mark.parametrize("name, changes", [("levit_128s", {}), ("levit_256", {"distillation": False})])
@pytest.mark.parametrize("fused", [False, True])
def test_the_folded_network_of_the_peers_is_ours(bench, name, changes, fused):
    ours = random_model(name, dtype="float64", num_classes=10, image_size=64, **changes)
    theirs = bench("peers").FoldedLeViT(ours.config, ours.state(), fused).eval()
    images = random_images(ours)
    with torch.inference_mode():
        logits = theirs(torch.from_numpy(images.astype(np.float32))).numpy()
    expected = ours(images)
    assert abs(logits - expected).max() < 1e-5 * abs(expected).max()  # float32; a forgotten fold is of order 1


def test_a_group_measured_again_replaces_its_own_and_no_other(bench, tmp_path):
    report, path = bench("report"), tmp_path / "cpu.json"
    groups = [{"model": model, "batch": batch, "threads": 1, "rows": [n]} for n, (model, batch) in
              enumerate([("levit_384", 1), ("levit_128s", 16), ("levit_128s", 1)])]
    for group in groups:
        report.Results(path, {}).add(group)
    report.Results(path, {}).add(groups[1] | {"rows": ["new"]})
    assert [g["rows"] for g in json.loads(path.read_text())["groups"]] == [[2], ["new"], [0]]
    path.write_text("{")
    with pytest.raises(SystemExit, match="move it away"):
        report.Results(path, {})


def script(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, timeout=600,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", ["cpu.py", "blocks.py", "ablation.py", "classify.py", "gpu_profile.py"])
def test_help_has_an_example(name):
    done = script("bench/" + name, "--help")
    assert done.returncode == 0 and "example" in done.stdout and "python bench/" + name in done.stdout


def test_a_small_run_leaves_a_whole_result(tmp_path):
    done = script("bench/cpu.py", "--models", "levit_128s", "--batches", 1, "--rounds", 1, "--seconds", 0, "--backend",
                  "reference", "--peers", "eager", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("cpu-*.json")
    (group,) = json.loads(path.read_text())["groups"]
    assert (group["model"], group["batch"], group["threads"]) == ("levit_128s", 1, 1) and group["machine"]["processor"]
    mine, peer = group["rows"]
    assert (mine["key"], mine["fastest_peer"], peer["key"]) == ("ours", "eager", "eager")
    assert mine["ratio"] == pytest.approx(mine["images_per_second"] / peer["images_per_second"])  # one round
    assert max(mine["error"], peer["error"]) < 1e-5


def test_the_blocks_parts_are_all_there(tmp_path):
    done = script("bench/blocks.py", "--rounds", 1, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("blocks-*.json")
    found = json.loads(path.read_text())["microseconds"]
    ours = {"Q, K and V", "QKᵀ to AV", "projection", "MLP", "whole block"}
    assert set(found["levit_256"]["ours"]) == ours and set(found["deit_tiny"]["ours"]) == ours | {"LayerNorm, both"}
    for block in found.values():
        assert set(block["ours"]) < set(block["PyTorch"]) and set(block["paper"]) < set(block["PyTorch"])


def test_a_quick_ablation_leaves_every_row_and_is_not_repeated(tmp_path):
    pytest.importorskip("sklearn")
    done = script("bench/ablation.py", "--quick", "--only", "A4", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "ablation.json").read_text())["top1"]
    assert set(found) == {"teacher", "base", "A4"}
    assert all(0 < top1 < 60 for row in found.values() for top1 in row.values())
    rows = [line.split(" | ") for line in (tmp_path / "ablation.md").read_text().splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["| base", "| A4"] and all(len(row) == 9 for row in rows)
    again = script("bench/ablation.py", "--quick", "--only", "A4", "--results", tmp_path)
    assert again.returncode == 0 and "seed" not in again.stdout.partition("#")[0]


def test_two_ranks_are_timed_against_one(tmp_path):
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpiexec = shutil.which("mpiexec", path=places)
    if not (mpiexec and find_spec("mpi4py")):
        pytest.skip("mpiexec or mpi4py is not installed")
    done = subprocess.run([mpiexec, "-n", "2", sys.executable, "bench/ranks.py", "--model", "levit_digits", "--batch",
                           "4", "--rounds", "1", "--steps", "1", "--results", tmp_path], cwd=ROOT, capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("ranks-*.json")
    found = json.loads(path.read_text())
    speed = found["images a second"]
    assert found["ranks"] == 2 and found["ratio"] == pytest.approx(speed["together"] / speed["alone"])
    assert script("bench/ranks.py").returncode == 2  # outside mpiexec
