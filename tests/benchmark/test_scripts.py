"""The scripts in bench/: the other libraries' network equals ours, and a small run of a script leaves a complete
result."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from levit_np.errors import BackendError
from tests.random_model import random_images, random_model

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name, changes", [("levit_128s", {}), ("levit_256", {"distillation": False})])
@pytest.mark.parametrize("fused", [False, True])
def test_the_folded_network_of_the_peers_is_ours(bench, name, changes, fused):
    ours = random_model(name, dtype="float64", num_classes=10, image_size=64, **changes)
    theirs = bench("peers").FoldedLeViT(ours.config, ours.state(), fused).eval()
    images = random_images(ours)
    with torch.inference_mode():
        logits = theirs(torch.from_numpy(images.astype(np.float32))).numpy()
    expected = ours(images)
    assert abs(logits - expected).max() < 1e-5 * abs(expected).max()  # rounding; a forgotten fold makes about 1


def test_a_group_measured_again_replaces_its_own_and_no_other(bench, tmp_path):
    report, path = bench("report"), tmp_path / "cpu.json"
    groups = [{"model": model, "batch": batch, "threads": 1, "rows": [n]} for n, (model, batch) in
              enumerate([("levit_128", 1), ("levit_128s", 16), ("levit_128s", 1)])]
    for group in (*groups, groups[1] | {"threads": 2, "rows": ["two threads"]}):
        report.Results(path, {}).add(group)
    report.Results(path, {}).add(groups[1] | {"rows": ["new"]})
    assert [g["rows"] for g in json.loads(path.read_text())["groups"]] == [[2], ["new"], [0], ["two threads"]]
    for text in ("{", "[]", '{"rows": []}'):
        path.write_text(text)
        with pytest.raises(SystemExit, match="move it away"):
            report.Results(path, {})


@pytest.mark.parametrize("machine, name", [
    ({"processor": "Intel(R) Xeon(R) 8", "features": ["avx2", "avx512f", "fma"]}, "cpu-intel-xeon-8-avx512f.json"),
    ({"processor": "Intel(R) Xeon(R) 8", "features": ["avx512f", "avx512bf16"]}, "cpu-intel-xeon-8-avx512.json"),
    ({"processor": "ARM Neoverse-N1", "features": None}, "cpu-arm-neoverse-n1.json"),
    ({"device": "NVIDIA H200", "processor": "", "features": ["avx2"]}, "cpu-nvidia-h200.json")])
def test_each_machine_has_a_file_of_its_own(bench, tmp_path, machine, name):
    assert bench("report").result_path(tmp_path, "cpu", machine) == tmp_path / name


@pytest.fixture
def measured():
    """Results: 128S at two batch sizes (one beside a peer), 384 at two (a peer alone, ours alone), 384 on two
    threads."""
    def group(model, batch, threads=1, ratio=None, **speeds):
        rows = [{"key": key, "images_per_second": speed, "ratio": ratio if key == "ours" else None, "error": 1e-6,
                 "share_of_limit": 0.25 if key == "ours" else None,
                 "seconds_per_image": {"median": 1 / speed, "fastest": 0.5 / speed, "slowest": 2 / speed}}
                for key, speed in speeds.items()]
        return {"model": model, "batch": batch, "threads": threads, "rows": rows, "machine": {"processor": "some"}}

    return [group("levit_128s", 1, ratio=2.0, ours=200.0, eager=100.0), group("levit_128s", 16, ours=400.0),
            group("levit_384", 1, eager=50.0), group("levit_384", 16, ours=80.0), group("levit_384", 16, 2, ours=150.0)]


def test_the_tables_say_what_was_measured(bench, measured, capsys):
    from rich.console import Console

    report, implementations = bench("report"), bench("runners").IMPLEMENTATIONS
    for table in (report.summary_table(measured[:4], implementations), report.group_table(measured[0], implementations),
                  report.group_table(measured[4], implementations)):
        Console(width=200).print(table)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line and "─" not in line] == [
        "images/s at batch 1 | 16, 1 thread", "levit_128s levit_384",
        "levit_np float32 200.0 | 400.0 - | 80.0", "PyTorch eager float32 100.0 | - 50.0 | -",
        "× fastest float32 peer 2.00 | - - | -",
        "levit_128s, batch 1, 1 thread", "images/s ms/image fastest to slowest of the limit error",
        "levit_np float32 200.0 5.00 2.50 10.00 25.0% 1.0e-06",
        "PyTorch eager float32 100.0 10.00 5.00 20.00 ? 1.0e-06",
        "levit_384, batch 16, 2 threads", "images/s ms/image fastest to slowest of the limit error",
        "levit_np float32 150.0 6.67 3.33 13.33 25.0% 1.0e-06"]


def test_the_plot_is_of_the_fewest_threads(bench, measured, monkeypatch, tmp_path):
    """One bar per result; beside them, speed at the largest batch against the published accuracy."""
    drawn = []
    monkeypatch.setattr(pytest.importorskip("matplotlib.figure").Figure, "savefig",
                        lambda figure, file, **options: drawn.append(figure))
    results = bench("report").Results(tmp_path / "cpu.json", bench("runners").IMPLEMENTATIONS)
    results.content["groups"] = measured
    assert results.plot() and (tmp_path / "cpu.png").exists()
    left, right = drawn[0].axes
    bars = {(round(bar.get_x() + bar.get_width() / 2, 6), bar.get_height()) for bar in left.patches if bar.get_height()}
    assert bars == {(-0.2, 200), (0.2, 100), (0.8, 400), (2.2, 50), (2.8, 80)}
    assert [line.get_xydata().tolist() for line in right.lines] == [[[400, 76.6], [80, 82.6]]]
    assert drawn[0].get_suptitle() == "some, 1 thread"


def test_the_weights_that_are_timed_are_random(bench):
    """No array has the value that it has in a fresh network, which is nearly the identity."""
    _, state = bench("runners").random_state("levit_128s")
    assert all(array.dtype == np.float32 and array.std() > 0.01 for array in state.values())
    assert all(array.min() > 0 for name, array in state.items() if name.endswith("variance"))


def test_ours_has_the_jobs_weights_and_threads(bench, monkeypatch, tmp_path):
    runners, asked, model = bench("runners"), [], random_model("levit_digits", backend="reference")
    monkeypatch.setattr(runners.levit_np, "set_threads", asked.append)
    job = runners.Job(model.config, model.state(), random_images(model, 2), 3, "cpu", tmp_path)
    np.testing.assert_allclose(runners.ours(job, "float32")(), model(job.images), rtol=1e-4, atol=1e-4)
    assert asked == [3]


def test_a_peer_of_a_precision_that_ours_lacks_is_left_out(bench, monkeypatch):
    """Without such instructions OpenVINO's bfloat16 is float32 or a slow emulation, and there is no ratio to
    compute."""
    cpu, said = bench("cpu"), []
    console = SimpleNamespace(print=lambda line, **options: said.append(line))
    monkeypatch.setattr(bench("report"), "find_spec", lambda name: name)
    assert [cpu._there(peer, "reference", console) for peer in ("openvino", "openvino-bf16")] == [True, False]
    assert len(said) == 1 and "openvino-bf16 is left out" in said[0] and "bfloat16" in said[0]


def script(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, timeout=600,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", ["cpu.py", "blocks.py", "ablation.py", "classify.py", "gpu_profile.py"])
def test_help_has_an_example(name):
    done = script("bench/" + name, "--help")
    assert done.returncode == 0 and "example" in done.stdout and "python bench/" + name in done.stdout


def test_a_process_that_is_timed_says_who_starts_it():
    done = script("bench/startup.py", "--help")
    assert done.returncode == 1 and "python bench/cpu.py --startup" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("error, status, words", [
    (KeyboardInterrupt(), 130, "stopped"), (BackendError("no GPU"), f"{sys.argv[0]}: no GPU", ""),
    (ImportError("no torch"), f"{sys.argv[0]}: no torch; bench/README.md says what each script needs", "")])
def test_what_ends_a_script_early_is_a_line(bench, capsys, error, status, words):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        bench("report").run(main)
    assert ended.value.code == status and words in capsys.readouterr().err


def test_every_script_reports_errors_that_way():
    sources = [path.read_text() for path in (ROOT / "bench").glob("*.py")]
    scripts = [source for source in sources if "\ndef main(" in source]
    assert len(scripts) == 10 and all(source.endswith("    run(main)\n") for source in scripts)


@pytest.mark.parametrize("arguments", [("cpu.py", "--threads", 100), ("data.py", "--images", 3)])
def test_what_a_script_cannot_measure_is_refused_in_a_line(arguments):
    done = script("bench/" + arguments[0], *arguments[1:])
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and ": expected" in done.stderr


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


def test_the_folder_for_results_is_checked_before_anything_is_measured(bench, tmp_path, capsys):
    """A long run must not lose its result because the folder is a file, is not writable or does not exist."""
    parser, (new, file) = argparse.ArgumentParser(), (tmp_path / "a/new", tmp_path / "file")
    bench("report").add_results(parser)
    assert parser.parse_args(["--results", str(new)]).results == new and list(new.iterdir()) == []
    assert parser.parse_args([]).results == ROOT / "bench/results"
    file.touch()
    with pytest.raises(SystemExit):
        parser.parse_args(["--results", str(file)])
    assert f"expected a folder to write into, found {file}" in capsys.readouterr().err


def test_without_pytorch_a_block_and_a_step_are_timed_alone(bench, monkeypatch, tmp_path):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # training.py sets these
    training = bench("training")
    monkeypatch.setattr(training, "lacking", lambda packages: "none of them")
    monkeypatch.setattr(training, "prepared", lambda name: (None, None, None))
    monkeypatch.setattr(training, "ours", lambda *given, **options: lambda: 1.0)
    monkeypatch.setattr(training, "by_operation", lambda name: {})
    where = ["--rounds", "1", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["training.py", "--models", "levit_128s", *where])
    training.main()
    (path,) = tmp_path.glob("training-*.json")
    found = json.loads(path.read_text())["models"]["levit_128s"]
    assert set(found["seconds"]) == {"levit_np"} and found["times as fast"] is found["fastest peer"] is None

    blocks = bench("blocks")
    monkeypatch.setattr(bench("report"), "find_spec", lambda name: None)
    monkeypatch.setattr(blocks, "ours", lambda name: {"MLP": lambda: None})
    monkeypatch.setattr(sys, "argv", ["blocks.py", *where])
    blocks.main()
    (path,) = tmp_path.glob("blocks-*.json")
    assert set(json.loads(path.read_text())["microseconds"]["levit_256"]) == {"ours", "paper"}


def test_all_parts_of_a_block_are_timed(tmp_path):
    done = script("bench/blocks.py", "--rounds", 1, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("blocks-*.json")
    found = json.loads(path.read_text())["microseconds"]
    ours = {"Q, K and V", "QKᵀ to AV", "projection", "MLP", "whole block"}
    assert set(found["levit_256"]["ours"]) == ours and set(found["deit_tiny"]["ours"]) == ours | {"LayerNorm, both"}
    for block in found.values():
        assert set(block["ours"]) < set(block["PyTorch"]) and set(block["paper"]) < set(block["PyTorch"])


def test_every_operation_of_preparing_images_and_every_speed_are_printed(tmp_path):
    done = script("bench/data.py", "--images", 8, "--batch", 4, "--rounds", 1, "--workers", 0, 1, "--results", tmp_path)
    assert done.returncode == 0 and len(list(tmp_path.glob("data-*.json"))) == 1, done.stderr
    lines = done.stdout.splitlines()
    assert "8 images" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == [
        "read", "decode", "crop", "RandAugment", "normalise", "erase", "mix", "all", "evaluation",
        "folder", "folder", "packed", "packed"]
    assert all(float(line.split()[-2]) > 0 for line in lines[-4:])


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
