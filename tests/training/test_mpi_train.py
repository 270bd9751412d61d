"""mpiexec -n 2 levit-np train: the same training as in one process, and a common end for any reason."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import levit_np
from levit_np.cli import main
from levit_np.training.checkpoint import Checkpoints

from .image_folders import make_folder
from .small_run import end_of
from .test_mpi import MPIEXEC, ROOT, alive, needs_mpi

pytestmark = needs_mpi

OPTIONS = ["--model", "levit_digits", "--recipe", "small", "--epochs", "2", "--rate", "0.05", "--cutmix", "0.5",
           "--warmup-epochs", "1", "--backend", "reference", "--dtype", "float64", "--image-size", "16", "--save-every",
           "0"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes with 16 images each for training and 3 for validation."""
    folder = tmp_path_factory.mktemp("pictures")
    make_folder(folder / "train", images=16, mode="L", suffixes=("png",))
    make_folder(folder / "val", images=3, mode="L", suffixes=("png",))
    return folder


def start(ranks, pictures, output, *options):
    """Starts the ranks with mpiexec, in a session of its own as a shell would."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "levit_np.cli", "train", pictures, "--output", output,
               *options]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def run(ranks, pictures, output, *options):
    with start(ranks, pictures, output, *options) as process:
        out, err = process.communicate(timeout=150)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """A run of two ranks, 4 images each, that is not disturbed."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    status, out, err = run(2, pictures, path, *OPTIONS, "--batch", 4, "--synchronize-norms", "--workers", 0)
    assert (status, err) == (0, "")
    assert (out.count("validation loss"), out.count("no teacher")) == (2, 1)  # only one rank prints
    return path


def test_two_ranks_train_as_one_process_does(pictures, undisturbed, tmp_path):
    """With the same global batches, and BN over them, the log, the evaluations and the weights agree to rounding."""
    path = tmp_path / "run"
    assert run(1, pictures, path, *OPTIONS, "--batch", 8, "--workers", 0)[0] == 0
    ours, theirs = ([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
                    for folder in (undisturbed, path))
    assert len(ours) == 2
    for one, other in zip(ours, theirs):
        assert (one["top1"], one["validation"]["top1"], one["steps"]) == (
            other["top1"], other["validation"]["top1"], other["steps"])
        assert one["validation"]["images"] == 9
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)
        # weights are stored as float32
        assert one["validation"]["loss"] == pytest.approx(other["validation"]["loss"], rel=1e-5)
    a, b = (levit_np.load(folder / "last.h5").state() for folder in (undisturbed, path))
    assert max(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max().clip(1e-3) for name in a) < 1e-5


def test_the_validation_is_that_of_the_weights_written_whichever_rank_has_an_image(pictures, tmp_path, capsys):
    """Each rank's BN has statistics of its own batches; rank 1 has the later half of the images."""
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data/val/class2/002.png").write_bytes(b"no image")
    status, _, err = run(2, tmp_path / "data", tmp_path / "run", *OPTIONS, "--epochs", 1, "--batch", 4, "--average", 0,
                         "--bad-files", "skip", "--workers", 0)
    assert (status, err) == (0, "")
    assert (tmp_path / "run/skipped.txt").read_text().startswith("validation: class2/002.png: ")
    assert main(["evaluate", str(tmp_path / "run/last.h5"), str(tmp_path / "data/val"), "--backend", "reference",
                 "--dtype", "float64", "--json"]) == 1
    figures = json.loads((tmp_path / "run/log.jsonl").read_text())["validation"]
    assert figures == pytest.approx(json.loads(capsys.readouterr().out)["average"], rel=1e-5)


def pids_of(path):
    """The ranks' process numbers, found by their open files, as their parents are MPI's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"levit_np.cli" in words and os.fsencode(path) in words and os.fsencode(MPIEXEC) not in words:
                found.append(int(entry.name))
    return sorted(pid for pid in found if alive(pid))


def when_it_stands_at(path, steps, process):
    """Waits until a checkpoint after at least `steps` steps exists."""
    while not (found := Checkpoints(path / "checkpoints").paths()) or int(found[0].stem[5:]) < steps:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def disturbed(pictures, path, how):
    """A run that is stopped in its middle: (exit status of mpiexec, its stderr, seconds until all processes were gone),
    or None if it was over before, for example because this process had to wait."""
    with start(2, pictures, path, *OPTIONS, "--batch", 4, "--synchronize-norms", "--workers", 1) as process:
        when_it_stands_at(path, 4, process)
        ranks = pids_of(path)
        if len(ranks) < 2:
            return None
        begin = time.monotonic()
        if how == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            os.kill(ranks[int(how[-1])], signal.SIGKILL if how.startswith("killed") else signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    while pids_of(path):
        assert time.monotonic() - begin < 30
        time.sleep(0.02)
    return (process.returncode, out, time.monotonic() - begin) if process.returncode else None


@pytest.mark.parametrize("how", ["killed 1", "terminated 1", *(pytest.param(how, marks=pytest.mark.slow) for how in (
    "killed 0", "Ctrl-C"))])
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the ranks in /proc")
def test_whatever_ends_one_rank_ends_both_and_they_go_on_to_the_same_end(pictures, undisturbed, tmp_path, how):
    for attempt in range(5):
        path = tmp_path / f"run {attempt}"
        if found := disturbed(pictures, path, how):
            break
    _, out, seconds = found
    assert seconds < 30 and out.count(": saved; levit-np train … --output") == (not how.startswith("killed"))
    assert 4 <= Checkpoints(path / "checkpoints").newest()[1]["steps"] <= 12
    status, out, err = run(2, pictures, path, "--resume", "--workers", 0)
    assert (status, err) == (0, "") and end_of(path) == end_of(undisturbed)


def test_workers_do_not_load_mpi(pictures, tmp_path):
    """A second MPI_Init in a child would hang the job; the MPI library is not even loaded there."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("looks into /proc")
    path = tmp_path / "run"
    with start(2, pictures, path, *OPTIONS, "--batch", 4, "--workers", 2, "--epochs", 100) as process:
        try:
            when_it_stands_at(path, 2, process)
            ranks = pids_of(path)
            children = {}
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    try:
                        parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                        children.setdefault(parent, []).append((entry / "maps").read_text())
                    except OSError:
                        continue
            workers = [maps for rank in ranks for maps in children.get(rank, ()) if "libpython" in maps
                       or "python" in maps]
            assert len(ranks) == 2 and len(workers) >= 4
            assert not any("libmpi" in maps or "mpi4py" in maps for maps in workers)
            assert all("libmpi" in Path(f"/proc/{rank}/maps").read_text() for rank in ranks)
        finally:
            process.terminate()
            process.communicate(timeout=60)


def reported_once(outcome, words):
    status, out, err = outcome
    lines = [line for line in err.splitlines() if words in line]
    assert status == 1 and len(lines) == 1 and lines[0].startswith("levit-np train: ") and "Abort" not in err, err


def test_an_error_of_all_ranks_is_reported_once(pictures, undisturbed, tmp_path):
    reported_once(run(2, pictures, undisturbed, *OPTIONS), "expected no run yet, found one; --resume goes on with it")
    reported_once(run(2, pictures, tmp_path / "none", "--resume"), "expected a run to go on with")
    reported_once(run(1, pictures, undisturbed, "--resume", "--workers", 0),
              "ranks: expected 2 as the run began with, found 1")
    other = run(2, pictures, tmp_path / "other", "--model", "levit_digits.h5", "--recipe", "small", "--workers", 0)
    reported_once(other, "expected 3 classes, found 10: head.weight, head.bias, head_dist.weight, head_dist.bias start "
                     "anew")


def test_a_full_disk_ends_all_ranks_with_the_old_checkpoint_whole(pictures, tmp_path):
    """A limit on the size of files stands for the full disk: the write on rank 0 fails, and every rank gets to know."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "run"
    status, out, err = run(2, pictures, path, *OPTIONS, "--batch", 4, "--workers", 0, "--epochs", 1)
    assert status == 0
    size = max(file.stat().st_size for file in (path / "checkpoints").iterdir())
    other = tmp_path / "other"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    command = start
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        process = command(2, pictures, other, *OPTIONS, "--batch", 4, "--workers", 0, "--epochs", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    out, err = process.communicate(timeout=100)
    reported_once((process.returncode, out, err), "File too large")
    assert not other.exists()
