"""`levit-np evaluate` and `levit-np teach`: their figures against a computation by hand, files, and errors."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import levit_np
from levit_np.cli import main
from levit_np.ops.cpu.library import library
from levit_np.ops.reference import log_softmax
from levit_np.training import teacher
from levit_np.training.data import open_source
from levit_np.training.data.loader import EvaluationLoader
from levit_np.training.recipe import Recipe
from levit_np.training.teacher import WrittenTeacher

from ..random_model import random_model
from .image_folders import digits_folder

PLAIN = Recipe(mixup=0.0, cutmix=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("sklearn")
    return digits_folder(tmp_path_factory.mktemp("digits") / "data", images=5, first=40)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The shipped model with its heads disturbed in different ways, so that about half of its answers are right."""
    model = levit_np.load("levit_digits.h5")
    generator = np.random.default_rng(0)
    for head in (model.head, model.head_dist):
        head.weight = head.weight + 0.5 * generator.standard_normal(head.weight.shape).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "model.h5"
    model.save(path)
    library()  # compiles the kernels now, and not during a test that looks at stderr
    return path


def run(capsys, *arguments):
    status = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def by_hand(weights, data):
    """{head: [top-1, top-5, loss]}, computed image by image."""
    model = levit_np.load(weights, backend="reference", dtype="float64")
    rows = []
    for label in range(10):
        for path in sorted((data / str(label)).glob("*.png")):
            (first,), (second,) = model.forward(model.prepare(path)[None], training="frozen")[0]
            rows.append((label, {"head": first, "head_dist": second, "average": (first + second) / 2}))
    return {name: [100 * np.mean([label in np.argsort(-logits[name])[:top] for label, logits in rows])
                   for top in (1, 5)]
            + [-np.mean([log_softmax(logits[name])[label] for label, logits in rows])] for name in rows[0][1]}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_figures_are_those_of_a_computation_by_hand(capsys, weights, data, batch):
    expected = by_hand(weights, data)
    assert 20 < expected["average"][0] < 90 and len({values[0] for values in expected.values()}) > 1
    status, out, err = run(capsys, "evaluate", weights, data, "--json", "--batch", batch, "--workers", 1)
    found = json.loads(out)
    assert (status, err, found["skipped"]) == (0, "", [])
    for name, (top1, top5, loss) in expected.items():
        assert (found[name]["top1"], found[name]["top5"], found[name]["images"]) == (top1, top5, 50)
        assert found[name]["loss"] == pytest.approx(loss, rel=1e-5)


def test_any_number_of_processes_and_threads(capsys, weights, data):
    found = [run(capsys, "evaluate", weights, data, "--json", "--batch", 7, "--workers", count) for count in (0, 2)]
    assert found[0] == found[1] and found[0][0] == 0
    for verb, more in (("evaluate", []), ("teach", ["never.h5"])):
        with pytest.raises(SystemExit, match="2"):
            run(capsys, verb, weights, data, *more, "--threads", 65)
        assert "argument --threads: expected a whole number from 1 to 64" in capsys.readouterr().err


def test_the_output_format_is_the_authors(capsys, weights, data):
    expected = by_hand(weights, data)
    status, out, err = run(capsys, "evaluate", weights, data)
    lines = {name: "* Acc@1 {:.3f} Acc@5 {:.3f} loss {:.3f}".format(*values) for name, values in expected.items()}
    assert (status, err) == (0, "") and out.splitlines() == [
        f"head      {lines['head']}", f"head_dist {lines['head_dist']}", lines["average"],
        f"Accuracy of the network on the 50 test images: {expected['average'][0]:.1f}%"]


def test_a_packed_file_gives_the_same(capsys, weights, data, tmp_path):
    assert run(capsys, "pack", data, tmp_path / "digits.h5")[0] == 0
    assert run(capsys, "evaluate", weights, tmp_path / "digits.h5") == run(capsys, "evaluate", weights, data)


@pytest.fixture
def damaged(data, tmp_path):
    """The same folder with two files that are not images."""
    for path in data.glob("*/*.png"):
        (tmp_path / "damaged" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "damaged" / path.parent.name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "damaged/3/bad.png").write_bytes(b"no image")
    (tmp_path / "damaged/7/002.png").write_bytes((data / "7/002.png").read_bytes()[:100])
    return tmp_path / "damaged"


def test_bad_images_are_named_and_the_others_count(capsys, weights, data, damaged):
    status, out, err = run(capsys, "evaluate", weights, damaged, "--json")
    found = json.loads(out)
    assert status == 1 and found["skipped"] == ["3/bad.png", "7/002.png"] and found["average"]["images"] == 49
    first, second, last = err.splitlines()
    assert first.startswith("levit-np evaluate: 3/bad.png: ") and second.startswith("levit-np evaluate: 7/002.png: ")
    assert last == "levit-np evaluate: expected 51 good images, found 49; the others, named above, do not count"


def test_a_model_that_knows_none_of_the_names_takes_them_in_order(capsys, data, tmp_path):
    model = random_model()
    model.labels = [f"label {n}" for n in range(10)]
    model.save(tmp_path / "other.h5")
    status, out, err = run(capsys, "evaluate", tmp_path / "other.h5", data)
    assert status == 0 and "Acc@1" in out
    assert err == "levit-np evaluate: classes are taken in their order: 0 as label 0, …\n"
    status, out, err = run(capsys, "teach", tmp_path / "other.h5", data, tmp_path / "t.h5")
    assert status == 0 and err == "levit-np teach: classes are taken in their order: 0 as label 0, …\n"


def test_what_cannot_be_evaluated_is_one_line_and_status_1(capsys, weights, data, damaged, tmp_path):
    random_model(num_classes=4).save(tmp_path / "four.h5")
    (tmp_path / "empty/0").mkdir(parents=True)
    (tmp_path / "empty/1").mkdir()
    for arguments, words in (
            ((tmp_path / "four.h5", data), "expected 10 classes, or the names of all of them among its own, found 4"),
            ((weights, tmp_path / "empty"), "0: expected images"), ((weights, tmp_path / "none"), "expected a folder"),
            ((weights, data, "--confusion", tmp_path / "no/where.png"), "No such file or directory")):
        status, out, err = run(capsys, "evaluate", *arguments)
        assert status == 1 and words in err and len(err.splitlines()) == 1, err
    for path in (tmp_path / "damaged").glob("*/*.png"):
        path.write_bytes(b"no image")
    status, out, err = run(capsys, "evaluate", weights, tmp_path / "damaged")
    last = err.splitlines()[-1]
    assert (status, last) == (1, "levit-np evaluate: evaluation: expected at least one image, found none")


def test_the_confusion_picture_has_a_cell_for_each_pair(capsys, weights, data, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(capsys, "evaluate", weights, data, "--confusion", tmp_path / "confusion.png")[0] == 0
    picture = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).astype(int)
    assert min(picture.shape[:2]) > 500
    blue = (picture[:, :, 2] - picture[:, :, 0] > 60).mean()
    assert blue > 0.02  # cells on and off the diagonal


def test_too_many_classes_for_a_picture_are_refused_before_the_work(capsys, data, tmp_path):
    random_model(num_classes=51).save(tmp_path / "many.h5")
    status, out, err = run(
        capsys, "evaluate", tmp_path / "many.h5", tmp_path / "not even looked for", "--confusion", "a.png")
    assert (status, out) == (1, "") and err.endswith("confusion picture: expected at most 50 classes, found 51\n")


def test_teach_writes_the_models_logits(capsys, weights, data, tmp_path):
    status, out, err = run(capsys, "teach", weights, data, tmp_path / "t.h5", "--batch", 16)
    assert (status, err) == (0, "") and out == f"{tmp_path / 't.h5'}: 10 logits of each of 50 images\n"
    source, model = open_source(data), levit_np.load(weights)
    taught = WrittenTeacher(tmp_path / "t.h5", source, PLAIN)(SimpleNamespace(indices=np.array([49, 0, 7])))
    expected = model(np.stack([model.prepare(source.path(index)) for index in (49, 0, 7)]))
    assert np.abs(taught - expected).max() < 1e-4 * np.abs(expected).max()
    before = (tmp_path / "t.h5").read_bytes()
    status, _, err = run(capsys, "teach", weights, data, tmp_path / "t.h5")
    assert status == 1 and "--force replaces it" in err
    assert run(capsys, "teach", weights, data, tmp_path / "t.h5", "--force")[0] == 0
    assert (tmp_path / "t.h5").read_bytes() == before


def test_teach_writes_only_the_classes_of_the_data(capsys, weights, data, tmp_path):
    for name in "37":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "000.png").write_bytes((data / name / "000.png").read_bytes())
    assert run(capsys, "teach", weights, tmp_path / "data", tmp_path / "t.h5")[:2] == (
        0, f"{tmp_path / 't.h5'}: 2 logits of each of 2 images\n")
    source, model = open_source(tmp_path / "data"), levit_np.load(weights)
    taught = WrittenTeacher(tmp_path / "t.h5", source, PLAIN)(SimpleNamespace(indices=np.array([0, 1])))
    expected = model(np.stack([model.prepare(source.path(index)) for index in (0, 1)]))[:, [3, 7]]
    assert np.abs(taught - expected).max() < 1e-4 * np.abs(expected).max()


def test_teach_says_before_the_work_that_its_file_has_no_room_for_so_much_text(capsys, weights, data, tmp_path,
                                                                               monkeypatch):
    monkeypatch.setattr(teacher, "KNOWN_BY", "x" * (1 << 20))  # class names may be that long
    monkeypatch.setattr(EvaluationLoader, "__iter__", None)
    status, out, err = run(capsys, "teach", weights, data, tmp_path / "t.h5")
    assert (status, out) == (1, "") and "t.h5: expected at most 1048576 bytes of documents, found 1048" in err


def test_teach_leaves_out_bad_images_and_says_so(capsys, weights, data, damaged, tmp_path):
    status, out, err = run(capsys, "teach", weights, damaged, tmp_path / "t.h5")
    assert status == 1 and "of 49 images" in out and "3/bad.png" in err
    with pytest.raises(levit_np.LevitError, match="found none of 7/002.png and 0 more"):
        WrittenTeacher(tmp_path / "t.h5", open_source(data), PLAIN)


@pytest.mark.parametrize("place, message", [("none/new", "No such file or directory"), ("", "Is a directory"),
                                            ("/dev/null", "expected a regular file")])
def test_a_result_that_cannot_be_written_is_an_error_before_the_work(capsys, weights, tmp_path, place, message):
    target = tmp_path / place
    for verb in (["evaluate", weights, "not looked for", "--confusion", target],
                 ["teach", weights, "not looked for", target, "--force"]):
        status, out, err = run(capsys, *verb)
        assert (status, out, err) == (1, "", f"levit-np {verb[0]}: {target}: {message}\n")


def test_the_model_computes_where_and_in_what_it_was_told_to(capsys, monkeypatch):
    def load(weights, **options):
        raise levit_np.LevitError(f"{weights}, {options}")

    monkeypatch.setattr("levit_np.classifier.load", load)
    for verb, options in (
            (["evaluate", "a.h5", "data", "--backend", "reference", "--dtype", "float64"],
             {"backend": "reference", "dtype": "float64"}),
            (["evaluate", "a.h5", "data"], {"backend": "cpu", "dtype": "float32"}),
            (["teach", "a.h5", "data", "never.h5", "--backend", "reference"], {"backend": "reference"})):
        assert run(capsys, *verb) == (1, "", f"levit-np {verb[0]}: a.h5, {options}\n")


@pytest.mark.parametrize("verb", ["evaluate", "teach"])
def test_help_has_an_example(capsys, verb):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0 and f"example: levit-np {verb} " in capsys.readouterr().out
