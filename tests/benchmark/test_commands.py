"""`levit-np bench`: what it measures, prints and refuses."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import levit_np
from levit_np import set_threads
from levit_np.benchmark import short, steps
from levit_np.benchmark.short import operations
from levit_np.cli import main
from levit_np.config import config_of
from levit_np.errors import BackendError, LevitError
from levit_np.inference import listing, plan
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
    status, out, err = run("bench", "levit_digits.h5", "--steps", "--batch", "1", "17")
    assert (status, out) == (2, "") and "argument --batch: expected up to 16 with --steps, found 17" in err
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
                        lambda opened, among: ({"model": opened("reference", "float64")}, ["no cpu"]))
    monkeypatch.setattr(short, "speeds", speeds)
    monkeypatch.setattr("levit_np.commands.bench.opened", lambda *model, **options: (model, options))
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


def test_bench_times_the_steps_of_the_plan():
    status, out, err = run("bench", "levit_digits.h5", "--steps", "--batch", "2")
    assert status == 0 and "reference" not in out + err and "cuda" not in out + err
    tables = out.split("\n\n")[1:]  # two more where there are products of bfloat16
    assert len(tables) + 2 * err.count("not measured: cpu bfloat16") == 4
    assert [table.splitlines()[0].split("  ")[0] for table in tables[:2]] == [
        "float32, batch 2", "float32, batch 2, by kind of step"]
    rows, kinds = ([re.fullmatch(r"(\S+(?: \S+)*) +([\d,]+) +([\d.]+)(?: +([\d.]+)%)?", line)
                    for line in table.splitlines()[1:]] for table in tables[:2])
    model = create("levit_digits")
    planned = dict.fromkeys(row.name for row in listing.rows(plan.steps_of(model, pooled_early=True), model.config))
    assert [row[1] for row in rows] == ["image", *planned, "whole"]
    *parts, whole = [(int(row[2].replace(",", "")), float(row[3])) for row in rows]
    assert sum(count for count, _ in parts) == whole[0] and all(time > 0 for _, time in parts[1:])
    assert [row[1] for row in rows if not row[4]] == ["image", "pool"]
    assert [row[1] for row in kinds] == ["convolutions", "linear maps of 64 tokens", "attention",
                                         "linear maps of 16 tokens", "linear maps of 4 tokens", "the rest"]
    assert sum(int(row[2].replace(",", "")) for row in kinds) == whole[0]
    rounding = 0.0005 * (len(parts) + len(kinds))
    assert abs(sum(float(row[3]) for row in kinds) - sum(time for _, time in parts)) <= rounding + 1e-9


def test_the_sums_over_all_steps_of_a_kind():
    """The share of a sum is its multiply-adds in its time: 2 · 14 in 4 seconds at a limit of 8 a second."""
    found = [steps.StepTime("image", steps.REST, 0, 1.0, 0.0), steps.StepTime("a", "attention", 4, 1.0, 1.0),
             steps.StepTime("b", "linear", 9, 5.0, 0.45),
             steps.StepTime("c", "attention", 10, 3.0, 5 / 6)]
    assert steps.by_kind(found) == [
        ("attention", "attention", 14, 4.0, 0.875), ("linear", "linear", 9, 5.0, 0.45),
        (steps.REST, steps.REST, 0, 1.0, 0.0)]
    assert [sums.share for sums in steps.by_kind([step._replace(share=None) for step in found])] == [None] * 3


def test_the_time_of_a_step_is_the_median_of_all_its_parts(monkeypatch):
    """Of three rounds; the first is not counted."""
    class Executor:
        def __init__(self, model, half):
            assert not half

        def __call__(self, images):
            assert images.shape == (2, 1, 32, 32) and images.dtype == np.float32

        def stepwise(self, images):
            yield from ("head", "pool", "head")

    ticks = iter([0, 9, 0, 7, 9, 9,  # a whole evaluation's start and end; then the steps' start and ends
                  0, 8, 0, 1, 2, 4, 0, 4, 0, 2, 5, 9, 0, 6, 0, 3, 6, 7])
    monkeypatch.setattr(steps, "CpuExecutor", Executor)
    monkeypatch.setattr(steps, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(steps, "peaks", lambda threads: {"avx512": 1e-6 * threads})
    monkeypatch.setattr(steps, "ROUNDS", 3)
    monkeypatch.delenv("LEVIT_NP_INSTRUCTIONS", raising=False)
    turns = []
    head, pool, whole = steps.step_times(levit_np.create("levit_digits"), 2, 3, lambda: turns.append(1))
    assert head == ("head", steps.REST, 800, 2.0, pytest.approx(2 * 800 / 2 / 3000))
    assert pool == ("pool", steps.REST, 0, 1.5, 0)
    assert whole.name == "whole" and whole.seconds == 3
    assert whole.share == pytest.approx(2 * whole.multiply_adds / 3 / 3000)
    assert len(turns) == 4


def test_steps_of_more_images_than_are_evaluated_at_a_time():
    with pytest.raises(LevitError, match="^steps: expected a batch of up to 16 images, .*, found 17$"):
        steps.step_times(create("levit_digits"), 17, 1)


def test_operations_are_the_papers():
    assert operations(build(config_of("levit_256"))) == 2 * 1_128_024_056
