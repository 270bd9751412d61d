"""`levit-np train --resume`: a run that was stopped ends like one that was not, and keeps what it began with."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

import levit_np
from levit_np.checkpoints.loading import preprocessing_of
from levit_np.cli import main
from levit_np.commands import train
from levit_np.training.checkpoint import Checkpoints

from .small_run import end_of
from .train_command import QUICK, fails, start, when_it_stands_at

pytestmark = pytest.mark.usefixtures("restored_environment")


@pytest.mark.usefixtures("not_under_nohup")
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_stopped_or_killed_it_continues_to_the_same_end(trained, shapes, tmp_path, number, status):
    """With worker processes, where the undisturbed run had none; as at the end of a service or a terminal, they get the
    signal too."""
    path = tmp_path / "run"
    arguments = ["train", shapes, "--output", path, *QUICK[:-1], "2", "--save-every", "0"]
    with start(*arguments) as process:
        when_it_stands_at(path, 2, process)
        os.killpg(process.pid, number)
        out, err = process.communicate()
    assert (process.returncode, err) == (status, "")
    assert (f"{number.name}: saved; levit-np train … --output" in out) is (number != signal.SIGKILL)
    before = Checkpoints(path / "checkpoints").newest()[1]["steps"]
    assert 2 <= before < 10
    assert main(["train", str(shapes), "--output", str(path), "--resume", "--workers", "0"]) == 0
    assert end_of(path) == end_of(trained)


def test_a_run_that_goes_on_must_be_the_same(trained, shapes, tmp_path, capsys):
    here = (shapes, "--output", trained, "--resume", "--workers", 0)
    assert "run: recipe: rate: expected 0.05 as the run began with, found 0.1" in fails(capsys, *here, "--rate", 0.1
                                                                                        ).replace(str(trained), "run")
    assert "epochs: expected 2 as the run began with, found 1000" in fails(capsys, *here, "--recipe", "paper")
    assert "seed: expected 0 as the run began with, found 1" in fails(capsys, *here, "--seed", 1)
    assert "model: expected 'levit_digits' as" in fails(capsys, *here, "--model", "levit_128")
    assert "data: " in fails(capsys, shapes / "val", *here[1:])
    for kind in ("bar", "disc"):
        shutil.copytree(shapes / "train" / kind, tmp_path / "two" / kind)
    assert "labels: expected ['bar', 'disc', 'ring'] as the run began with, found ['bar', 'disc']" in fails(
        capsys, tmp_path / "two", *here[1:])
    assert "validation: images: expected 12 as the run began with, found 42" in fails(
        capsys, *here, "--validation", shapes / "train")
    assert "validation: expected {'images': 12, " in fails(capsys, shapes / "train", *here[1:])
    assert "expected no run yet, found one; --resume goes on with it" in fails(
        capsys, shapes, "--output", trained, *QUICK)
    assert "expected a run to go on with" in fails(capsys, shapes, "--output", tmp_path / "none", "--resume")
    (tmp_path / "config.json").write_text("{}")
    assert "config.json" in fails(capsys, shapes, "--output", tmp_path, "--resume")


def test_a_finished_run_looks_at_its_end_again_and_changes_nothing(trained, shapes):
    before = end_of(trained)
    assert main(["train", str(shapes), "--output", str(trained), "--resume", *QUICK]) == 0
    assert end_of(trained) == before


@pytest.mark.filterwarnings("ignore:.* start anew")
@pytest.mark.parametrize("own, asked, heads", [(2, None, 2), (2, 1, 1), (1, None, 1), (1, 2, 2)])
def test_a_run_that_goes_on_has_the_network_that_it_began_with(tmp_path, own, asked, heads):
    levit_np.create("levit_digits", distillation=own == 2).save(tmp_path / "model.h5")
    settings = train.DEFAULTS | {"model": str(tmp_path / "model.h5"), "heads": asked, "image_size": 48,
                                 "backend": "reference", "dtype": "float64"}
    begun = train._network(settings, None, ["a", "b", "c"])
    begun.preprocessing = replace(preprocessing_of(begun), mean=(0.25,))
    before = json.loads(json.dumps({"network": begun.config.to_dict(), "preprocessing": begun.preprocessing.to_dict()}))
    found = train._network(settings | {"model": "moved.h5", "image_size": None}, before, ["a", "b", "c"])
    for model in (begun, found):
        config = model.config
        assert (config.distillation, config.num_classes, config.image_size) == (heads == 2, 3, (48, 48))
        assert (model.dtype, model.precision, model.labels) == (np.float64, "float64", ["a", "b", "c"])
    assert (found.config, found.preprocessing) == (begun.config, begun.preprocessing)


def test_a_run_remembers_where_its_images_are_and_what_bad_ones_do(shapes, tmp_path, capsys):
    shutil.copytree(shapes / "val", tmp_path / "here")
    (tmp_path / "here/ring/01.png").write_bytes(b"no image")
    path = tmp_path / "run"
    train_, config = ["train", str(shapes / "train"), "--output", str(path)], path / "config.json"
    here = ["--validation", str(tmp_path / "here"), "--bad-files", "skip"]
    assert main([*train_, *QUICK, "--epochs", "1", *here]) == 0
    again = [*train_, "--resume", "--workers", "0"]
    assert main(again) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    assert main([*again, "--validation", str(tmp_path / "there")]) == 0
    assert main(again) == 0
    assert "ring/01.png: " in fails(capsys, *again[1:], "--bad-files", "stop")
    begun = json.loads(config.read_text())
    assert begun["settings"]["bad_files"] == "stop"  # the last setting that was given
    # a run of an earlier version does not remember
    del begun["settings"]["bad_files"], begun["settings"]["validation"]
    config.write_text(json.dumps(begun))
    assert "validation: expected {'images': 12, " in fails(capsys, *again[1:])
    assert main([*again, "--validation", str(tmp_path / "there"), "--bad-files", "skip"]) == 0 == main(again)


def test_a_run_continues_with_a_teacher_that_has_moved(shapes, tmp_path, capsys):
    (tmp_path / "other.py").write_text("def logits(images): return images.mean((1, 2)) [:, :3]\n")
    arguments = [shapes / "train", "--output", tmp_path / "run", *QUICK, "--epochs", "1"]
    assert main(["train", *map(str, arguments), "--teacher", f"{tmp_path}/other.py:logits"]) == 0
    (tmp_path / "other.py").rename(tmp_path / "moved.py")
    assert "other.py" in fails(capsys, *arguments[:3], "--resume", "--workers", "0")
    again = ["train", *map(str, arguments[:3]), "--resume", "--workers", "0"]
    assert main([*again, "--teacher", f"{tmp_path}/moved.py:logits"]) == 0 == main(again)


def test_a_run_continues_from_another_working_directory(shapes, tmp_path, monkeypatch):
    (tmp_path / "other.py").write_text("def logits(images): return images.mean((1, 2)) [:, :3]\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ["train", str(shapes / "train"), "--output", str(tmp_path / "run"), *QUICK, "--epochs", "1"]
    assert main([*arguments, "--teacher", "other.py:logits", "--validation", os.path.relpath(shapes / "val")]) == 0
    monkeypatch.chdir("elsewhere")
    assert main([*arguments[:4], "--resume", "--workers", "0"]) == 0


@pytest.mark.parametrize("part, said", [({"epochs": "two"}, "epochs: expected a whole number from 1"),
                                        ({"newer": 1}, "expected keys among epochs, batch, ")])
def test_a_recipe_in_a_configuration_that_is_none_is_one_line_with_its_place(trained, shapes, tmp_path, capsys, part,
                                                                            said):
    """From a later version, or edited by hand: the command line is not at fault."""
    shutil.copytree(trained, tmp_path / "run")
    here = (shapes, "--output", tmp_path / "run", "--resume")
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, here), "--epochs", "0"])
    assert ended.value.code == 2
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["settings"]["recipe"] |= part
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert f"run/config.json: recipe: {said}" in fails(capsys, *here)


@pytest.mark.parametrize("key", ["network", "preprocessing", "settings"])
def test_a_configuration_without_a_part_is_one_line(trained, shapes, tmp_path, capsys, key):
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    del config[key]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert re.search(f"run: expected the .*{key}", fails(capsys, shapes, "--output", tmp_path / "run", "--resume"))


@pytest.mark.parametrize("key, value, expected", [
    ("seed", -1, "a number from 0"), ("seed", "a", "a number from 0"), ("seed", None, "a number from 0"),
    ("image_size", 32.0, "a number from 0"), ("teacher", 7, "text"), ("validation", 7, "text"),
    ("backend", None, "text")])
def test_a_setting_of_another_kind_is_one_line_with_its_place(trained, shapes, tmp_path, capsys, key, value, expected):
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["settings"][key] = value
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    said = fails(capsys, shapes, "--output", tmp_path / "run", "--resume")
    assert f"run/config.json: {key}: expected {expected}, found {value!a}" in said
