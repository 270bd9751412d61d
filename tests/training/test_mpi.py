"""Training with several ranks over MPI: the same as with one process, and an error or the death of one rank ends
all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from levit_np.commands import train
from levit_np.errors import LevitError
from levit_np.ops.cuda import device
from levit_np.ops.reference import batch_statistics
from levit_np.training import mpi
from levit_np.training.mpi import mpi_ranks, started_by_mpi
from levit_np.training.synchronized import merged

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(not (MPIEXEC and find_spec("mpi4py")), reason="mpiexec or mpi4py is not installed")


def command(ranks, case, *arguments):
    return [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "tests.training.mpi_child", case,
            *map(json.dumps, arguments)]


def run(ranks, case, *arguments):
    return subprocess.run(command(ranks, case, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=150)


@needs_mpi
@pytest.mark.parametrize("ranks, backend, dtype, bars", [
    (2, "reference", "float64", {"logits": 1e-12, "gradients": 1e-9, "statistics": 1e-12}),
    (3, "cpu", "float32", {"logits": 1e-5, "gradients": 1e-3, "statistics": 1e-5})])
def test_a_step_of_several_ranks_is_one_of_a_single_process(ranks, backend, dtype, bars):
    done = run(ranks, "gradients", "levit_digits", backend, dtype, {})
    assert done.returncode == 0, done.stderr
    for found in json.loads(done.stdout):
        together, apart = found["synchronized"], found["apart"]
        assert all(together[what] < bar for what, bar in bars.items()), together
        # buckets were sent before the stem's own gradients existed
        assert together["sent before the stem"] > 10
        # With each rank's own statistics the step differs; its gradients are the sum of the ranks'.
        assert apart["logits"] > 0.1 and apart["gradients"] > 0.1
        assert apart["gradients of the shares"] < bars["logits"]


@needs_mpi
def test_a_recorded_step_of_several_ranks_is_the_same():
    """To the last bit; and the first sums start before the last gradients exist."""
    done = run(2, "recorded")
    assert done.returncode == 0 and done.stdout.count("the same") == 2, done.stderr  # from two ranks, in any order


@needs_mpi
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.parametrize("way", ["host", "nccl"])
def test_gradients_on_several_devices_become_their_sum(way, tmp_path):
    """A stand-in plays NCCL's part; the devices are emulated."""
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    done = run(2, "gpus", way, str(tmp_path))
    assert done.returncode == 0, done.stderr
    sent = json.loads(done.stdout)
    assert sent == [None, None] if way == "host" else sent[0] == sent[1] > 10


@needs_mpi
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_fifty_steps_of_several_ranks_are_those_of_a_single_process(ranks):
    """With the same global batches and BN over all ranks, losses, weights, moments and average agree to rounding.
    (worst_gradient treats moments that are only rounding.)"""
    done = run(ranks, "losses")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["synchronized"]["steps"] == 51
    assert found["synchronized"]["losses"] < 1e-9 and found["synchronized"]["state"] < 1e-6
    assert found["apart"]["losses"] > 1e-2  # the test would notice different steps


@needs_mpi
def test_each_image_counts_the_same_where_a_rank_has_fewer():
    done = run(2, "skipped")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 1e-6


@needs_mpi
@pytest.mark.parametrize("cuts", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_that_was_cut_ends_in_the_same_bits(ranks, cuts):
    places = sorted(np.random.default_rng(cuts).choice(np.arange(1, 20), min(cuts, 19), replace=False).tolist())
    done = run(ranks, "resume", [*places, *[7] * (cuts - len(places))], 20)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["ends"]) == 1 + cuts and len(set(found["ends"])) == 1
    assert found["generators"] == ranks  # each rank drops other branches


@needs_mpi
@pytest.mark.parametrize("where, what, loss", [(0, "image", "nan"), (1, "image", "nan"), (1, "loss", "inf")])
def test_a_number_that_is_not_finite_stops_every_rank_before_the_update(where, what, loss):
    done = run(2, "poison", where, what)
    assert done.returncode == 0, done.stderr
    (first, moved), (second, _) = json.loads(done.stdout)
    assert first == second and moved == 0.0
    assert first.startswith(f"epoch 1, batch 3 of 5: expected a finite loss and gradient, found loss {loss}")
    images = [f"image {n} of epoch 0" for n in range(24, 36)]  # a global batch, half of it on each rank
    assert [name in first for name in images] == [n // 6 == where for n in range(12)]


@needs_mpi
def test_communication_between_ranks():
    done = run(3, "words")
    assert done.returncode == 0, done.stderr


@needs_mpi
@pytest.mark.parametrize("which", [0, 1])
def test_an_error_on_one_rank_ends_all(which):
    begin = time.monotonic()
    done = run(2, "fails", which)
    assert done.returncode != 0 and time.monotonic() - begin < 30
    assert [line for line in done.stderr.splitlines() if "a bad image" in line][0] == f"rank {which} of 2: a bad image"


@needs_mpi
def test_an_error_on_all_ranks_is_reported_once():
    done = run(2, "fails", "all")
    assert done.returncode != 0 and "Abort" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.endswith("Error: a bad image")] == [
        "levit_np.errors.LevitError: a bad image"]


@needs_mpi
def test_a_bug_on_one_rank_has_a_traceback_and_ends_all():
    done = run(2, "bug")
    assert done.returncode != 0 and "mpi_child.py" in done.stderr and "rank 1 of 2: 'of a bug'" in done.stderr


@needs_mpi
@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_is_killed_takes_all_down_within_30_seconds(which):
    process = subprocess.Popen(command(2, "waits"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        pids = json.loads(process.stdout.readline())
        os.kill(pids[which], signal.SIGKILL)
        begin = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - begin < 30 and process.returncode != 0
        for pid in pids:
            while alive(pid):
                assert time.monotonic() - begin < 30
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def alive(pid):
    """Whether it is running, and not only a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_another_mpi_than_that_of_mpiexec_is_refused(monkeypatch):
    """Otherwise each process would be the only one of its MPI, and train alone."""
    pytest.importorskip("mpi4py")
    code = "from levit_np.training.mpi import mpi_ranks\nwith mpi_ranks(): print('trained')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env=os.environ | {"OMPI_COMM_WORLD_SIZE": "2"})
    assert done.returncode == 1 and done.stdout == ""
    assert "mpiexec: expected 2 ranks as it says, found 1 in" in done.stderr.splitlines()[-1]


class WithoutMPI:
    """mpi4py as it is where there is no MPI."""

    rc = SimpleNamespace()

    @property
    def MPI(self):  # noqa: N802  mpi4py's name
        raise RuntimeError("cannot load MPI library")


@pytest.mark.parametrize("module", [None, WithoutMPI()])
def test_mpiexec_without_mpi4py_or_its_mpi_is_refused(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "mpi4py", module)
    monkeypatch.setenv("PMI_SIZE", "2")
    assert started_by_mpi() == 2
    with pytest.raises(LevitError, match="2 processes under mpiexec: expected mpi4py and an MPI, found"):
        with mpi_ranks():
            pass


def test_a_rank_takes_a_gpu_and_its_share_of_the_cores_by_its_machine(monkeypatch):
    """Here rank 2 of four, which are dealt to two machines in turn: by its number among all ranks it would leave a GPU
    of its machine without a rank."""
    world = SimpleNamespace(rank=2, size=4, Dup=lambda: None,
                            Split_type=lambda kind: SimpleNamespace(rank=kind, size=2))
    parts = SimpleNamespace(COMM_WORLD=world, COMM_TYPE_SHARED=1)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=parts, rc=SimpleNamespace()))
    monkeypatch.setattr(device, "_number", None)
    monkeypatch.setenv("PMI_SIZE", "4")
    with mpi_ranks() as ranks:
        assert (ranks.rank, device._number) == (2, 1)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6), raising=False)
        assert train._workers(SimpleNamespace(workers=None), ranks) == 2


@pytest.mark.parametrize("error, said", [
    (LevitError("a bad image"), "a bad image"), (MemoryError("Unable to allocate 1 EiB"), "Unable to allocate 1 EiB"),
    (MemoryError(), "MemoryError"), (KeyboardInterrupt(), "KeyboardInterrupt")])
def test_ctrl_c_does_not_keep_a_rank_that_fails_from_ending_the_others(monkeypatch, capsys, error, said):
    """A failing rank may wait for the others, which wait for it. An expected error is one line, for which mpiexec gets
    time."""
    ended, waited, asking = [], [], SimpleNamespace(Test=lambda: os.kill(os.getpid(), signal.SIGINT))
    world = SimpleNamespace(rank=1, size=2, Dup=lambda: SimpleNamespace(Ibarrier=lambda: asking), Abort=ended.append,
                            Split_type=lambda kind: SimpleNamespace(rank=0, size=2))
    parts = SimpleNamespace(COMM_WORLD=world, COMM_TYPE_SHARED=1)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=parts, rc=SimpleNamespace()))
    monkeypatch.setattr(device, "_number", None)
    monkeypatch.setattr(mpi, "PATIENCE", 0.0)
    monkeypatch.setattr(mpi.time, "sleep", lambda seconds: waited.append((seconds, list(ended))))
    monkeypatch.setenv("PMI_SIZE", "2")
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)), mpi_ranks():
            raise error
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [1] and waited[-1] == (mpi.PASSED_ON, [])
    assert capsys.readouterr().err == f"rank 1 of 2: {said}\n"


@pytest.mark.parametrize("variables, count", [
    ({}, 0), ({"PMI_SIZE": "2"}, 2), ({"OMPI_COMM_WORLD_SIZE": "3"}, 3), ({"SLURM_STEP_NUM_TASKS": "4"}, 4),
    ({"PMI_SIZE": "", "SLURM_STEP_NUM_TASKS": "x"}, 0), ({"PMI_SIZE": "²"}, 0),
    ({"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "2"}, 2)])  # mpiexec within a job of one task
def test_how_many_processes_mpi_started(monkeypatch, variables, count):
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert started_by_mpi() == count


@pytest.mark.parametrize("sizes", [(5, 5), (2, 7, 1)])
def test_statistics_of_parts_are_those_of_the_whole(sizes):
    """Even if the mean is a million standard deviations from zero."""
    x = 1e6 + np.random.default_rng(0).standard_normal((sum(sizes), 3))
    parts = [batch_statistics(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    whole, found = batch_statistics(x), merged(parts, np.float64)
    assert found.count == len(x)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-15)
    np.testing.assert_allclose(found.variance, whole.variance, rtol=1e-9)
