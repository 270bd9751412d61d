"""`levit-np convert` and `levit-np export`: what they write, and that every failure is one line."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import levit_np
from levit_np.cli import main
from levit_np.errors import CheckpointError
from levit_np.storage import confined, hdf5

from ..random_model import random_model
from ..weight_files import write_plain_hdf5
from . import attacks_torch

FORMATS = ("facebook", "timm", "timm_conv", "transformers")


@pytest.fixture(scope="module")
def model():
    return random_model("levit_128s", num_classes=5)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVIT_NP_CACHE", str(tmp_path / "cache"))


def failure(capsys, *arguments):
    """The one line on stderr of a command that fails with status 1."""
    assert main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"levit-np {arguments[0]}: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("form", FORMATS)
def test_there_and_back(model, form, capsys):
    model.save("ours.h5")
    assert main(["export", "ours.h5", "theirs", "--format", form]) == 0
    assert main(["convert", "theirs", "again.h5"]) == 0
    out, err = capsys.readouterr()
    assert out == (f"theirs: levit_128s for {form}, without class names and preprocessing, which such files do not "
                   "hold\nagain.h5: levit_128s, 5 classes, images 224 × 224\n") and err == ""
    again = levit_np.load("again.h5")
    assert again.config == model.config and all(np.array_equal(a, again.state()[n]) for n, a in model.state().items())
    assert again.preprocessing.name == ("timm" if form.startswith("timm") else "authors")
    assert sorted(os.listdir()) == ["again.h5", "ours.h5", "theirs"]


def test_an_existing_file_is_replaced_only_by_force(model, capsys):
    model.save("ours.h5")
    for name in ("taken", "link"):
        (os.symlink("nowhere", name) if name == "link" else open(name, "w").close())
        for command in (["convert", "ours.h5", name], ["export", "ours.h5", name, "--format", "timm"]):
            assert "expected no such file yet, found one; --force replaces it" in failure(capsys, *command)
    assert os.path.getsize("taken") == 0 and not os.path.exists("nowhere")
    assert main(["export", "ours.h5", "taken", "--format", "timm", "--force"]) == 0
    assert main(["convert", "taken", "taken", "--force"]) == 0  # source and target may be the same file
    assert levit_np.load("taken").config == model.config


def test_failures_are_one_line(model, capsys):
    model.save("ours.h5")
    assert "none.pth: No such file" in failure(capsys, "convert", "none.pth", "a.h5")
    assert "none/a.h5: No such file" in failure(capsys, "convert", "ours.h5", "none/a.h5")
    assert "none/a: No such file" in failure(capsys, "export", "ours.h5", "none/a", "--format", "timm")
    os.mkdir("folder")
    for force in ((), ("--force",)):  # --force does not help here
        assert "folder: Is a directory" in failure(capsys, "convert", "ours.h5", "folder", *force)
        assert "folder: Is a directory" in failure(capsys, "export", "ours.h5", "folder", "--format", "timm", *force)
    assert "expected a regular file, found a folder" in failure(capsys, "convert", "folder", "a.h5")
    with open("text", "w") as file:
        file.write("no weights")
    assert "text: expected HDF5, safetensors or a .pth" in failure(capsys, "convert", "text", "a.h5")
    assert "none.h5: expected a weight file" in failure(capsys, "export", "none.h5", "a", "--format", "timm")
    random_model("levit_128s_a3", num_classes=5).save("a3.h5")
    assert "no names for a network without BN" in failure(capsys, "export", "a3.h5", "a", "--format", "timm")
    assert sorted(os.listdir()) == ["a3.h5", "folder", "ours.h5", "text"]


def test_wrong_use_has_status_2(capsys):
    for arguments in (["convert"], ["export", "a", "b"], ["export", "a", "b", "--format", "onnx"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    for verb in ("convert", "export"):
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0 and f"example: levit-np {verb} " in capsys.readouterr().out


def test_a_strangers_file_is_read_in_the_child_alone(model, monkeypatch, capsys):
    """The file is not read in the parent process, and the child's memory limit applies."""
    levit_np.export(model, "theirs", format="facebook")
    run = confined.run
    monkeypatch.setattr("levit_np.checkpoints.loading.read", lambda path: pytest.fail("read in this process"))
    assert main(["convert", "theirs", "a.h5"]) == 0
    monkeypatch.setattr(confined, "run", lambda *arguments, seconds, memory: run(*arguments, seconds=9, memory=1 << 20))
    capsys.readouterr()
    assert "MemoryError" in failure(capsys, "convert", "theirs", "b.h5")
    assert not os.path.exists("b.h5")


def test_the_limits_grow_with_the_file(monkeypatch, capsys):
    """float16 weights take twice the file's size as float32, and are held twice when written."""
    asked = []

    def run(*arguments, seconds, memory):
        asked.append((seconds, memory))
        raise CheckpointError("asked")

    monkeypatch.setattr(confined, "run", run)
    for size in (1, 64 << 20):
        with open("theirs", "wb") as file:
            file.truncate(size)
        failure(capsys, "convert", "theirs", "a.h5")
    (least, small), (most, large) = asked
    assert 0 < least < most and 0 < small and large - small >= 4 * (63 << 20)


def test_when_the_child_cannot_write_the_message_names_the_target(model, monkeypatch, capsys):
    """For example on a full disk: the message names the target, neither the source nor a temporary file."""
    model.save("ours.h5")
    run = confined.run
    monkeypatch.setattr(confined, "run", lambda function, source, copy, **limits: run(
        function, source, os.path.join(os.path.realpath(source), "none"), **limits))
    assert failure(capsys, "convert", "ours.h5", "a.h5").endswith("/a.h5: Not a directory\n")


def test_attacks_are_refused_and_leave_nothing(capsys):
    for name in list(attacks_torch.ATTACKS)[::80]:
        with open("attack.pth", "wb") as file:
            file.write(attacks_torch.ATTACKS[name].data)
        failure(capsys, "convert", "attack.pth", "a.h5")
        assert os.listdir() == ["attack.pth"]


def test_plain_hdf5_and_half_precision_are_converted(model):
    model.save("ours.h5")
    write_plain_hdf5("plain.h5", *hdf5.read("ours.h5"))
    assert main(["convert", "plain.h5", "again.h5"]) == 0
    assert Path("again.h5").read_bytes() == Path("ours.h5").read_bytes()
    named = levit_np.rename(model.state(), config=model.config, format="timm")
    torch.save({name: torch.from_numpy(array).half() for name, array in named.items()}, "half.pth")
    assert main(["convert", "half.pth", "again.h5", "--force"]) == 0
    again = levit_np.load("again.h5").state()
    assert all(np.array_equal(again[name], array.astype("f2").astype("f4")) for name, array in model.state().items())


def test_only_a_regular_file_is_replaced_and_its_permissions_are_kept(model, capsys):
    model.save("own.h5")
    os.mkfifo("pipe")
    assert "expected a regular file" in failure(capsys, "convert", "own.h5", "pipe", "--force")
    assert not Path("pipe").is_file() and sorted(os.listdir()) == ["own.h5", "pipe"]
    Path("private.h5").touch(0o600)
    assert main(["convert", "own.h5", "private.h5", "--force"]) == 0
    assert Path("private.h5").stat().st_mode & 0o777 == 0o600 and levit_np.load("private.h5").config == model.config
