"""`levit-np verify`: two files of weights compared, or one with a recorded pass, and what it prints."""

import shutil
import sys

import numpy as np
import pytest

import levit_np
from levit_np.cli import main
from levit_np.images.preprocessing import preprocessing_named

from .command import SAMPLES, compiled, run  # noqa: F401  (compiled is a fixture)
from .random_model import random_images, random_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model; the same as .pth; one with a changed weight; one of another size; and the first one's recorded pass."""
    folder = tmp_path_factory.mktemp("verify")
    model = random_model()
    model.save(folder / "a.h5")
    levit_np.export(model, folder / "a.pth", format="facebook")
    other = model.to("reference")
    weight = other.stages[1].downsample.attention.kv.weight.copy()
    weight[np.unravel_index(np.abs(weight).argmax(), weight.shape)] *= 1.01
    other.stages[1].downsample.attention.kv.weight = weight
    other.save(folder / "planted.h5")
    other.labels = [f"digit {n}" for n in range(10)]
    other.save(folder / "named.h5")
    other = model.to("reference")
    other.preprocessing = preprocessing_named("timm", (32, 32), 1)
    other.save(folder / "timm.h5")
    random_model(num_classes=3).save(folder / "three.h5")
    status, out, err = run("verify", "a.h5", "--record", "a.trace.h5", cwd=folder)
    assert (status, out, err) == (0, "a.trace.h5: 144 steps forward and 144 back, of random numbers, seed 0\n", "")
    return folder


def test_verify_of_weight_files(files):
    status, out, err = run("verify", "a.h5", "a.pth", cwd=files)
    rows = [line.split() for line in out.splitlines()]
    assert (status, err, rows[0]) == (0, "", ["layer", "array", "difference", "relative"])
    assert [row[0] for row in rows[1:4]] == ["stem.convolutions.0", "stem.convolutions.0.bn", "stem.convolutions.1"]
    assert [row[0] for row in rows[-3:-1]] == ["head_dist.bn", "head_dist"]
    assert rows[-1] == f"all {len(rows) - 2} agree: no relative difference above 0".split()
    status, out, err = run("verify", "a.h5", "timm.h5", cwd=files)
    assert (status, err) == (0, "")
    assert out.splitlines()[-2].startswith("note: the preprocessing differs: name digits against timm; ")
    status, out, err = run("verify", "a.h5", "planted.h5", cwd=files)
    lines = out.splitlines()
    assert (status, err) == (1, "") and [line.split()[:2] for line in lines if line.startswith("!")] == [
        ["!", "stages.1.downsample.attention.kv"]]
    assert lines[-1] == ("first difference: stages.1.downsample.attention.kv: weight: "
                         "expected a relative difference of at most 0, found 0.0099")
    status, out, _ = run("verify", "planted.h5", "named.h5", "--tolerance", "0.01", cwd=files)
    assert status == 0 and out.splitlines()[-2] == "note: the label names differ, first class 0 against digit 0"
    assert run("verify", "a.h5", "planted.h5", "--tolerance", "0.01", cwd=files)[0] == 0


def test_verify_against_a_recorded_pass(files):
    status, out, err = run("verify", "a.pth", "a.trace.h5", cwd=files)
    assert (status, err) == (0, "") and out.splitlines()[-1] == "all 289 agree: no relative difference above 0.0001"
    assert out.splitlines()[1].split()[0] == "stem.convolutions.0.bn" and "\n  the network  " in out
    assert run("verify", "a.h5", "a.trace.h5", "--backend", "cpu", cwd=files)[0] == 0
    status, _, err = run("verify", "a.h5", "a.trace.h5", "--backend", "zz", cwd=files)
    assert status == 2 and "argument --backend: invalid choice: 'zz'" in err
    status, out, err = run("verify", "planted.h5", "a.trace.h5", cwd=files)
    assert (status, err) == (1, "")
    assert out.splitlines()[-1].startswith("first difference: stages.1.downsample.attention.kv: output: expected")


def test_verify_computes_in_the_recorded_passs_type(files, capsys):
    model = levit_np.load(files / "a.h5", backend="reference", dtype="float64")
    levit_np.trace(model, random_images(model), 3).save(files / "double.h5")
    assert main(["verify", str(files / "a.h5"), str(files / "double.h5"), "--tolerance", "1e-12"]) == 0
    assert capsys.readouterr().out.endswith("no relative difference above 1e-12\n")


def test_verify_refuses_different_networks(files):
    for other in ("three.h5", "a.trace.h5"):
        first = "a.h5" if other == "three.h5" else "three.h5"
        status, out, err = run("verify", first, other, cwd=files)
        assert (status, out, len(err.splitlines())) == (1, "", 1)
        assert "expected the same network twice, found num_classes" in err


def test_recording_an_image_and_refusing_to_replace_weights(files):
    status, out, err = run("verify", "a.h5", "--record", "three.trace.h5", "--image", SAMPLES[3], cwd=files)
    assert (status, err) == (0, "") and out.endswith("of digit_3.png\n")
    assert np.array_equal(levit_np.Trace.read(files / "three.trace.h5").x,
                          levit_np.load(files / "a.h5").prepare(SAMPLES[3])[None])
    assert run("verify", "a.h5", "--record", "three.trace.h5", cwd=files)[0] == 0  # a recorded pass may
    before = (files / "planted.h5").read_bytes()
    status, out, err = run("verify", "a.h5", "--record", "planted.h5", cwd=files)
    assert (status, out, err) == (1, "", "levit-np verify: planted.h5: expected a new file or a recorded pass to "
                                         "replace, found another file\n")
    assert (files / "planted.h5").read_bytes() == before
    for arguments in (("--record", "nowhere/t.h5"), ("--record", "t.h5", "--image", "none.png")):
        status, out, err = run("verify", "a.h5", *arguments, cwd=files)
        assert (status, out, len(err.splitlines())) == (1, "", 1) and arguments[-1].split("/")[0] in err


def test_a_folder_that_is_not_there_is_an_error_before_the_pass_is_computed(files, monkeypatch, capsys):
    monkeypatch.setattr("levit_np.classifier.load", None)
    assert main(["verify", str(files / "a.h5"), "--record", "nowhere/trace.h5"]) == 1
    assert capsys.readouterr().err == "levit-np verify: nowhere/trace.h5: No such file or directory\n"


def test_a_recorded_pass_of_an_image_whose_name_is_no_text(tmp_path, capsys):
    """The gradient starts at the least likely class, as that of a certain answer is little more than rounding."""
    odd, path = "\x1b[31m3\udcff.png" if sys.platform.startswith("linux") else "\x1b[31m.png", str(tmp_path / "t.h5")
    random_model(image_size=16).save(tmp_path / "a.h5")
    image = shutil.copy(SAMPLES[3], tmp_path / odd)
    assert main(["verify", str(tmp_path / "a.h5"), "--record", path, "--image", str(image)]) == 0
    assert capsys.readouterr().out.endswith(f" back, of {ascii(odd)}\n")
    record = levit_np.Trace.read(path)
    assert record.about == ascii(odd) and record.target == (record.logits.argmin(),)
