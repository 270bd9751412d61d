"""`levit-np train`: what it prints, the files that it leaves, and how it ends."""

import contextlib
import errno
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import levit_np
from levit_np.checkpoints.reading import is_fused
from levit_np.cli import main
from levit_np.commands import train
from levit_np.images.preprocessing import preprocessing_named
from levit_np.storage import hdf5, names
from levit_np.training.checkpoint import Checkpoints
from levit_np.training.data.folder import Folder
from levit_np.training.data.loader import EvaluationLoader
from levit_np.training.ranks import SingleRank
from levit_np.training.recipe import Recipe
from levit_np.training.teacher import write_logits

from ..random_model import random_model
from .small_run import end_of
from .train_command import QUICK, ROOT, fails

pytestmark = pytest.mark.usefixtures("restored_environment")


def test_a_run_leaves_weights_a_log_and_curves(trained, shapes, capsys):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and lines[1]["validation"]["images"] == 12
    config = json.loads((trained / "config.json").read_text())
    assert config["labels"] == ["bar", "disc", "ring"] and config["settings"]["recipe"]["epochs"] == 2
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["classify", str(shapes / "val/ring/00.png"), "--weights", str(trained / "best.h5")]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == {"bar", "disc", "ring"}


def test_what_it_prints(shapes, tmp_path, capfd, monkeypatch):
    from levit_np.training import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", 1e9)
    assert main(["train", str(shapes), "--output", str(tmp_path / "run"), *QUICK, "--epochs", "1"]) == 0
    out, err = capfd.readouterr()
    first, average, second, third, fourth = out.splitlines()
    assert (first, err) == ("no teacher: both heads learn from the labels", "")
    assert average == ("average: after all 5 steps it still holds 95 % of the weights it begins with; a smaller "
                       "--average forgets faster, 0 switches it off")
    assert second.startswith("epoch 1/1  loss ") and "validation loss" in second and second.endswith("images/s")
    assert re.fullmatch(r"weights: \S+/run/best.h5 \(validation top1 \d+\.\d\d\), \S+/run/last.h5", third)
    assert fourth == f"curves: {tmp_path}/run/curves.png"


def test_without_a_terminal_it_says_now_and_then_how_far_it_is(shapes, tmp_path, capsys, monkeypatch):
    from levit_np.training import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    assert main(["train", str(shapes / "train"), "--output", str(tmp_path / "run"), *QUICK, "--epochs", "1"]) == 0
    first, _, _, *lines, _, _, _ = capsys.readouterr().out.splitlines()
    assert first == "no validation images (DATA/val or --validation): there will be no best.h5" and len(lines) == 5
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"epoch 1/1  {number}/5  [\d.e+]+ images/s  loss \d\.\d{{3}}  accuracy \d+\.\d%  "
                            r"0:0\d:\d\d left", line)
    assert lines[-1].endswith("  0:00:00 left")


def test_the_bar_on_a_terminal_of_eighty_columns(shapes, tmp_path):
    ours, theirs = pty.openpty()
    shown, command = [], [sys.executable, "-m", "levit_np.cli", "train", shapes, "--output", tmp_path / "run", *QUICK]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True,
                          env=os.environ | {"TERM": "xterm", "COLUMNS": "80"}) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # how Linux reports that there is no writer any more
            while data := os.read(ours, 1 << 16):
                shown.append(data.decode(errors="replace"))
        out = process.stdout.read()
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(shown))
    assert process.returncode == 0 and "starting" in text
    assert re.search(r"epoch 2/2  \d/5  [\d.e+]+ images/s  loss \d\.\d{3}  accuracy \d+\.\d% .*\d:\d\d:\d\d left", text)
    assert out.startswith("no teacher") and "images/s  loss" not in out


@pytest.mark.parametrize("arguments, message", [
    (["--recipe", "large"], "recipe: expected paper, small or a file that ends in .json"),
    (["--backend", "gpu"], "--backend"), (["--epochs", "many"], "--epochs"),
    (["--mixup", "-1"], "recipe: mixup: expected a number"), (["--heads", "3"], "--heads"),
    (["--seed", "-1"], "--seed: expected a whole number from 0, found '-1'"), (["--workers", "-1"], "number from 0"),
    (["--save-every", "nan"], "--save-every: expected a number from 0, found 'nan'"),
    (["--save-every", "often"], "--save-every: expected a number from 0, found 'often'"),
    (["--crop-scale", "0.9", "0.1"], "recipe: crop_scale: expected two numbers"),
    (["--teacher", "t\udcff.h5"], "teacher: expected a path in UTF-8, as config.json holds it, found 't\\udcff.h5'")])
def test_wrong_use(shapes, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["train", str(shapes), "--output", str(tmp_path / "run"), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_in_a_file(shapes, tmp_path, capsys):
    (tmp_path / "own.json").write_text('{"epochs": 1, "batch": 12, "mixup": 0, "cutmix": 0, "freeze": ["stem"]}')
    arguments = [shapes, "--output", tmp_path / "run", "--model", "levit_digits", "--recipe", tmp_path / "own.json",
                 "--device", "reference", "--workers", 0]  # an alias of --backend
    assert main(["train", *map(str, arguments)]) == 0
    settings = json.loads((tmp_path / "run/config.json").read_text())["settings"]
    assert settings["backend"] == "reference"
    assert settings["recipe"]["freeze"] == ["stem"] and settings["recipe"]["rate"] == 5e-4
    (tmp_path / "own.json").write_text('{"epoch": 1}')
    with pytest.raises(SystemExit):
        main(["train", *map(str, arguments)])
    assert "own.json: recipe: expected keys among" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_names_its_images(shapes, tmp_path, capsys, monkeypatch):
    from levit_np.training.data.loader import Loader
    epoch = Loader.epoch

    def spoiled(self, number, first_step=0):
        for step, batch in enumerate(epoch(self, number, first_step), first_step):
            if (number, step) == (1, 2):
                batch.images[3] = np.nan
            yield batch

    monkeypatch.setattr(Loader, "epoch", spoiled)
    said = fails(capsys, shapes, "--output", tmp_path / "run", *QUICK, "--save-every", 0)
    assert "epoch 2, batch 3 of 5: expected a finite loss and gradient, found loss nan" in said
    assert said.count(".png") == 8 and "its images: " in said
    _, document, skipped = Checkpoints(tmp_path / "run/checkpoints").newest()
    assert (document["epoch"], document["batch"], skipped) == (1, 2, [])


def test_fine_tuning(shapes, trained, tmp_path, capsys):
    """Other classes, another size, one head, frozen parts; otherwise training starts from the given weights."""
    weights, path = str(ROOT / "weights/levit_digits.h5"), tmp_path / "run"
    assert main(["train", str(shapes), "--output", str(path), *QUICK, "--model", weights, "--heads", "1",
                 "--image-size", "48", "--freeze", "stem,stage1", "--epochs", "1"]) == 0
    assert "expected 3 classes, found 10: head.weight, head.bias start anew" in capsys.readouterr().err
    before, after = levit_np.load(weights), levit_np.load(path / "last.h5")
    assert (after.config.num_classes, after.config.distillation, after.config.image_size) == (3, False, (48, 48))
    same = {name: np.array_equal(array, before.state()[name]) for name, array in after.state().items()
            if name in before.state() and array.shape == before.state()[name].shape}
    assert all(same[name] for name in same if name.startswith(("stem", "stages.0")))
    assert not any(same[name] for name in same if name.startswith("stages.1") and name.endswith(("weight", "mean")))


@pytest.mark.filterwarnings("ignore:.* start anew")
def test_new_heads_depend_on_the_seed():
    weights = str(ROOT / "weights/levit_digits.h5")
    model = train._network(train.DEFAULTS | {"model": weights, "seed": 1}, None, ["a", "b", "c"])
    assert np.array_equal(model.state()["head.weight"],
                          levit_np.load(weights, num_classes=3, seed=1).state()["head.weight"])


def test_validation_compares_each_image_with_its_class(shapes):
    source, skipped, seen = Folder(shapes / "val"), [], []
    run = SimpleNamespace(record_skipped=skipped.extend, trainer=SimpleNamespace(ranks=SingleRank()))

    def heads(x):
        """Right for all but the last three images."""
        at = np.arange(len(x)) + sum(map(len, seen))
        seen.append(x)
        return (9 * np.eye(3)[[source.target(n) if n < 9 else 0 for n in at]],)

    with EvaluationLoader(source, preprocessing_named("digits"), batch=5) as images:
        figures = train._validation(images, run, 3)(SimpleNamespace(dtype=np.float64, heads=heads))
    assert (figures["images"], figures["top1"], skipped) == (12, 75, [])
    assert figures["loss"] == pytest.approx(9 / 4, rel=0.01)
    assert [(len(x), x.dtype) for x in seen] == [(5, np.float64), (5, np.float64), (2, np.float64)]


def test_written_logits_can_be_the_teacher(shapes, tmp_path):
    source, recipe = Folder(shapes / "val"), Recipe(mixup=0.0, cutmix=0.0)
    settings = train.DEFAULTS | {"teacher": str(tmp_path / "logits.h5")}
    logits = np.arange(33, dtype=np.float32).reshape(11, 3)
    write_logits(tmp_path / "logits.h5", logits, range(11), source, source.classes, "a teacher")
    with pytest.raises(levit_np.LevitError, match="logits.h5: expected logits of all 12 images, found none of ring/03"):
        train._teacher(settings, source, recipe, None)
    taught = train._teacher(settings | {"bad_files": "skip"}, source, recipe, None)
    assert np.array_equal(taught(SimpleNamespace(indices=np.array([10, 0]))), logits[[10, 0]])


def test_other_libraries_get_the_same_number_of_threads_by_default(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    fails(capsys, tmp_path / "none", "--output", tmp_path / "run")
    assert (os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]) == ("1", "5")


def test_distillation(shapes, trained, tmp_path, capsys):
    path = tmp_path / "run"
    teacher = ["--teacher", str(trained / "best.h5")]
    assert main(["train", str(shapes), "--output", str(path), *QUICK, *teacher, "--distillation", "soft", "--epochs",
                 "1"]) == 0
    assert "no teacher" not in capsys.readouterr().out
    model = random_model(num_classes=3)
    model.labels = ["x", "y", "z"]
    model.save(tmp_path / "strange.h5")
    assert main(["train", str(shapes), "--output", str(tmp_path / "strange"), *QUICK, "--epochs", "1", "--teacher",
                 str(tmp_path / "strange.h5")]) == 0
    assert "teacher: classes are taken in their order: bar as x, …" in capsys.readouterr().out
    (tmp_path / "other.py").write_text("def logits(images): return images.mean((1, 2)) [:, :3]\n")
    function = [*QUICK, "--teacher", f"{tmp_path}/other.py:logits", "--epochs", "1"]
    assert fails(capsys, shapes, "--output", tmp_path / "no", "--teacher", tmp_path / "other.py", *QUICK).endswith(
        f"{tmp_path}/other.py: expected FILE.py:NAME, a Python function, found no name after the file's")
    assert main(["train", str(shapes), "--output", str(tmp_path / "function"), *function]) == 0
    (tmp_path / "other.py").write_text("def logits(images): return images.max((1, 2)) [:, :3]\n")
    assert fails(capsys, shapes, "--output", tmp_path / "function", "--resume").endswith(
        f"teacher: expected the one that the run began with, found another in '{tmp_path}/other.py:logits'")
    assert fails(capsys, shapes, "--output", trained, "--resume", *function[-4:-2]).endswith(
        f"teacher: expected none as the run began with, found '{tmp_path}/other.py:logits'")
    assert "expected a network with two heads" in fails(capsys, shapes, "--output", tmp_path / "one", *QUICK, *teacher,
                                                        "--heads", 1)


def test_a_bad_image_stops_it_or_is_written_down(shapes, tmp_path, capsys):
    shutil.copytree(shapes, tmp_path / "data")
    bad = tmp_path / "data/train/disc/03.png"
    bad.write_bytes(bad.read_bytes()[:60])
    arguments = [tmp_path / "data", *QUICK, "--epochs", 1, "--repeats", 1]
    said = fails(capsys, *arguments, "--output", tmp_path / "stop")
    assert "disc/03.png: " in said and said.endswith("; --bad-files skip would skip it")
    assert main(["train", *map(str, arguments), "--output", str(tmp_path / "skip"), "--bad-files", "skip"]) == 0
    assert "skipped: disc/03.png" in capsys.readouterr().out
    assert (tmp_path / "skip/skipped.txt").read_text().startswith("disc/03.png: ")
    assert main(["train", str(tmp_path / "data"), "--output", str(tmp_path / "stop"), "--resume", "--workers", "0",
                 "--bad-files", "skip"]) == 0
    assert end_of(tmp_path / "stop") == end_of(tmp_path / "skip")


def test_a_bad_image_to_look_at_stops_it_or_is_written_down(shapes, tmp_path, capsys):
    shutil.copytree(shapes, tmp_path / "data")
    (tmp_path / "data/val/ring/01.png").write_bytes(b"no image")
    arguments = [tmp_path / "data", *QUICK, "--epochs", 1, "--output", tmp_path / "run"]
    said = fails(capsys, *arguments)
    assert said.startswith("levit-np train: validation: ring/01.png: ")
    assert said.endswith("; --bad-files skip would skip it")
    assert main(["train", *map(str, arguments), "--resume", "--bad-files", "skip"]) == 0
    assert (tmp_path / "run/skipped.txt").read_text().startswith("validation: ring/01.png: ")
    assert json.loads((tmp_path / "run/log.jsonl").read_text())["validation"]["images"] == 11


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(shapes, tmp_path, capsys, monkeypatch):
    write = hdf5.write

    def full(path, *arguments):
        if "000000002" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, *arguments)

    monkeypatch.setattr(hdf5, "write", full)
    said = fails(capsys, shapes, "--output", tmp_path / "run", *QUICK, "--save-every", 0)
    assert said.endswith("step-000000002.h5: No space left on device")
    assert Checkpoints(tmp_path / "run/checkpoints").newest()[1]["steps"] == 1


def test_too_few_images_and_no_images(shapes, tmp_path, capsys):
    assert fails(capsys, shapes, "--output", tmp_path / "run", "--model", "levit_digits", "--workers", 0) == (
        "levit-np train: data: expected at least the 256 images of one step, found 42; choose a smaller batch")
    assert "none" in fails(capsys, tmp_path / "none", "--output", tmp_path / "other", *QUICK)
    for name in ("bar", "ring", "two"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / f"val/{name}/a.png")
    assert fails(capsys, shapes, "--validation", tmp_path / "val", "--output", tmp_path / "third", *QUICK).endswith(
        f"/val: expected the classes of {shapes}/train, found no 'disc', also 'two'")


def test_more_bytes_of_class_names_than_a_weight_file_holds_are_said_before_the_work(shapes, tmp_path, capsys,
                                                                                    monkeypatch):
    for letter, kind in zip("abc", ("bar", "disc", "ring")):
        shutil.copytree(shapes / "train" / kind, tmp_path / "data" / (250 * letter))
    monkeypatch.setattr(names, "LARGEST_DOCUMENTS", 1000)
    assert "data: classes: expected at most 1000 bytes of documents, found 1" in fails(
        capsys, tmp_path / "data", "--output", tmp_path / "run", *QUICK)
    assert not Checkpoints(tmp_path / "run/checkpoints").paths()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_precision_for_evaluation_only_is_refused(shapes, tmp_path, capsys, dtype):
    """float16 and bfloat16 are never for training, so it must not say that another processor would help."""
    assert fails(capsys, shapes, *QUICK, "--output", tmp_path / "run", "--backend", "cpu", "--dtype", dtype) == (
        f"levit-np train: dtype {dtype}: expected float32 or float64 to train in on the backend cpu")


def test_an_output_among_the_classes_is_refused_before_it_is_made(shapes, tmp_path, capsys, monkeypatch):
    """Later it would be taken for a class."""
    shutil.copytree(shapes / "train", tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    for data in (".", tmp_path / "data", "bar/.."):
        assert fails(capsys, data, *QUICK) == (
            f"levit-np train: run: expected an --output outside {data}, whose folders are the classes, found it inside")
        assert fails(capsys, data, *QUICK, "--output", ".") == (
            f"levit-np train: .: expected an --output outside {data}, whose folders are the classes, found that folder "
            "itself")
    assert fails(capsys, shapes, *QUICK, "--validation", ".", "--output", "run") == (
        "levit-np train: run: expected an --output outside ., whose folders are the classes, found it inside")
    assert sorted(os.listdir()) == ["bar", "disc", "ring"]
    assert train._image_folders(SimpleNamespace(data=".", output=".run", validation=None)) == (Path(), None)


def test_an_output_beside_train_is_no_class(shapes, tmp_path, capsys, monkeypatch):
    shutil.copytree(shapes / "train", tmp_path / "train")
    monkeypatch.chdir(tmp_path)
    for output in (".", "train"):  # there the run's files would be among the classes, or beside them
        assert "expected an --output outside" in fails(capsys, ".", *QUICK, "--output", output)
    once = ["train", ".", *QUICK, "--epochs", "1"]
    assert main(once) == 0 == main(["train", ".", "--resume", "--workers", "0"])
    assert main([*once, "--output", "run2"]) == 0  # nor is the first
    assert json.loads(Path("run2/config.json").read_text())["labels"] == ["bar", "disc", "ring"]


def test_more_ranks_than_cores_have_no_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6), raising=False)
    found = [train._workers(SimpleNamespace(workers=None), SimpleNamespace(local_size=size)) for size in (1, 2, 4, 100)]
    assert found == [5, 2, 0, 0]


def test_a_class_called_train_is_a_class_among_others(shapes, tmp_path):
    """Otherwise only the two classes in it would be trained."""
    for kind, name in (("bar", "train"), ("disc", "tram"), ("ring", "truck")):
        shutil.copytree(shapes / "train" / kind, tmp_path / "data" / name)
    shutil.copytree(shapes / "train", tmp_path / "data/train/more")
    assert main(["train", str(tmp_path / "data"), "--output", str(tmp_path / "run"), *QUICK, "--epochs", "1"]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["labels"], config["validation"]) == (["train", "tram", "truck"], None)


@pytest.mark.parametrize("labels, rows", [
    (["b", "c", "a"], [2, 0, 1]), (["b", "c", "d"], [2, 0, 1]), (["x", "c", "z"], [0, 2, 1]),
    (["x", "y", "z"], [0, 1, 2]), (["c", "c", "x"], [0, 2, 1]), (None, [0, 1, 2])])
def test_classes_that_the_weights_know_keep_their_rows_of_the_heads(tmp_path, labels, rows):
    """The others, if as many classes as before are trained, take the rows that are left over, in their order."""
    model = random_model(num_classes=3)
    model.labels = labels
    model.save(tmp_path / "model.h5")
    settings = train.DEFAULTS | {"model": str(tmp_path / "model.h5"), "backend": "reference"}
    started = train._network(settings, None, ["a", "b", "c"])
    assert started.labels == ["a", "b", "c"]
    for ours, theirs in ((model.head, started.head), (model.head_dist, started.head_dist)):
        assert np.array_equal(ours.weight[rows], theirs.weight) and ours.bias.any()
        assert np.array_equal(ours.bias[rows], theirs.bias)


def test_a_fused_file_is_not_trained_further(shapes, tmp_path, capsys):
    model = random_model(num_classes=3)
    identity = {"mean": 0.0, "variance": 1 - 1e-5}
    model.set_state({name: np.full_like(array, identity.get(name.rpartition(".")[2], array))
                     for name, array in model.state().items()})
    model.save(tmp_path / "fused.h5")
    said = fails(capsys, shapes, "--output", tmp_path / "run", *QUICK, "--model", tmp_path / "fused.h5")
    assert "fused.h5: expected weights with BN's statistics to train further, found a fused file" in said
    model.head.bn.mean = model.head.bn.mean + 1  # statistics, after all
    assert not is_fused(model.state())
    for name in ("levit_digits", "levit_128s_a3"):  # fresh BN, no BN
        assert not is_fused(levit_np.create(name).state())


def test_a_mistyped_model_name_is_answered_with_the_names(shapes, tmp_path, capsys):
    said = fails(capsys, shapes, "--output", tmp_path / "run", *QUICK, "--model", "levit_258")
    assert "levit_258: expected" in said and "; model names are levit_128s, levit_128, " in said


def test_an_impossible_image_size_is_not_reported_as_a_bad_file(shapes, tmp_path, capsys):
    said = fails(capsys, shapes, "--output", tmp_path / "run", *QUICK, "--image-size", 5000)
    assert "expected" in said and "bad-files" not in said
