"""`levit-np bench`: what it measures, prints and refuses."""

import os
import re
import subprocess
import sys

import pytest

from levit_np import set_threads
from levit_np.benchmark import short
from levit_np.benchmark.short import operations
from levit_np.cli import main
from levit_np.config import config_of
from levit_np.errors import BackendError
from levit_np.model import build, create
from levit_np.ops.cpu import threads

from ..command import ROOT, run


def test_bench_times_the_weights_that_ship():
    status, out, err = run("bench", "levit_digits.h5", "--batch", "1", "3")
    assert status == 0
    rows = re.findall(r"^(reference|cpu) +float32 +(\d+) +([\d.]+) +([\d.]+) ", out, re.MULTILINE)
    assert [row[:2] for row in rows] == [("reference", "1"), ("cpu", "1"), ("reference", "3"), ("cpu", "3")]
    for *_, rate, milliseconds in rows:
        assert float(rate) * float(milliseconds) == pytest.approx(1000, rel=0.01)
    # With a GPU there are rows for it; without one, a line says why not.
    assert len(re.findall("^cuda +float(?:16|32) ", out, re.MULTILINE)) == 4 or len(re.findall(
        "^not measured: cuda float32, float16, bfloat16: backend cuda: expected .*$", err, re.MULTILINE)) == 1


def test_bench_refuses_what_it_cannot_use():
    assert run("bench", "--threads", "0")[0] == 2
    status, out, err = run("bench", "--threads", "65")
    assert (status, out) == (2, "") and "argument --threads: expected a whole number from 1 to 64, found 65" in err
    status, out, err = run("bench", "none.h5")
    assert (status, out, len(err.splitlines())) == (1, "", 1) and "none.h5" in err


def test_the_command_line_starts_without_numpy():
    """`bench` sets the number of BLAS threads in the environment, which NumPy reads only while it is being imported."""
    code = "import sys, levit_np.cli; print('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_bench_measures_what_it_is_told_to_and_prints_it(monkeypatch, capsys):
    """By default batches of 1 and 16 on one thread; the BLAS that NumPy uses gets the same number of threads."""
    blas, asked = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), []
    for name in blas:
        monkeypatch.setenv(name, "7")

    def speeds(models, batches, count, advance):
        asked.append((models, batches, count, threads.threads(), *map(os.environ.get, blas)))
        return [short.Speed("cpu", "float32", 16, 250.0, 0.25), short.Speed("cuda", "float16", 1, 4000.0, None)]

    monkeypatch.setattr(short, "open_candidates",
                        lambda opened: ({"model": opened("reference", "float64")}, ["no cpu"]))
    monkeypatch.setattr(short, "speeds", speeds)
    monkeypatch.setattr("levit_np.cli.opened", lambda *model, **options: (model, options))
    try:
        assert main(["bench"]) == 0 == main(["bench", "a.h5", "--batch", "3", "4", "--threads", "2"])
    finally:
        set_threads(1)
    options = {"backend": "reference", "dtype": "float64"}
    assert asked == [({"model": (("levit_256",), options)}, [1, 16], 1, 1, "1", "1", "1"),
                     ({"model": (("a.h5",), options)}, [3, 4], 2, 2, "2", "2", "2")]
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["cpu", "float32", "16", "250.0", "4.000", "25.0%"], ["cuda", "float16", "1", "4000.0", "0.250", "unknown"]]
    assert err == 2 * "not measured: no cpu\n"


def test_a_gpu_is_measured_but_has_no_share_of_the_processors_limit(monkeypatch):
    def opened(backend, dtype):
        if dtype != "float32":
            raise BackendError(f"no {backend}")
        return model

    model = create("levit_digits", backend="reference")
    models, missing = short.open_candidates(opened)
    assert missing == ["cpu bfloat16: no cpu", "cuda float16, bfloat16: no cuda"]
    monkeypatch.setattr(short, "peaks", lambda threads: {"avx512": 100.0})
    monkeypatch.setattr(short, "ROUNDS", 1)
    turns = []
    rows = short.speeds(models, [2], 1, lambda: turns.append(1))
    assert len(turns) == 3
    assert [(row.backend, row.batch, row.share is None) for row in rows] == [
        ("reference", 2, False), ("cpu", 2, False), ("cuda", 2, True)]


def test_the_speed_is_that_of_the_median_round_and_the_share_is_of_the_processors_limit(monkeypatch):
    monkeypatch.delenv("LEVIT_NP_INSTRUCTIONS", raising=False)
    monkeypatch.setattr(short, "peaks", lambda threads: {"avx512": 100.0 * threads})
    monkeypatch.setattr(short, "interleaved", lambda calls, rounds, progress: {key: [0.5, 0.25, 0.1] for key in calls})
    model = build(config_of("levit_digits"))
    (row,) = short.speeds({("cpu", "float32"): model}, [2], threads=3)
    assert row[:4] == ("cpu", "float32", 2, 8.0) and row.share == pytest.approx(8 * operations(model) / 300e9)


def test_each_model_is_called_on_images_of_its_own(monkeypatch):
    monkeypatch.setattr(short, "peaks", lambda threads: {})
    monkeypatch.setattr(short, "interleaved", lambda calls, rounds, progress: {
        key: [float(call().shape[1])] for key, call in calls.items()})
    models = {("reference", f"{n} classes"): create("levit_digits", backend="reference", num_classes=n, in_channels=n)
              for n in (3, 1)}
    assert [row.images_per_second for row in short.speeds(models, [6], 1)] == [2, 6]


@pytest.mark.parametrize("batch", [10**18, 10**26])
def test_a_batch_too_large_for_any_memory_is_a_memory_error(monkeypatch, batch):
    monkeypatch.setattr(short, "peaks", lambda threads: {})
    with pytest.raises(MemoryError):
        short.speeds({("cpu", "float32"): build(config_of("levit_digits"))}, [batch], 1)


def test_operations_are_the_papers():
    assert operations(build(config_of("levit_256"))) == 2 * 1_128_024_056
