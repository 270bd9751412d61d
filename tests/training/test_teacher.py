"""Teachers of each kind: their logits in the student's order of classes, and every mismatch refused by name."""

import hashlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np.errors import CheckpointError, LevitError
from levit_np.images.preprocessing import Preprocessing, preprocessing_named
from levit_np.storage import hdf5
from levit_np.training import teacher
from levit_np.training.data.folder import Folder
from levit_np.training.data.pack import pack
from levit_np.training.data.packed import Packed
from levit_np.training.recipe import Recipe

from ..random_model import random_images, random_model
from .image_folders import make_folder

PLAIN = Recipe(mixup=0.0, cutmix=0.0)
DIGITS = preprocessing_named("digits")
NAMES = [str(n) for n in range(10)]


class Source:
    """Images that consist of names and sizes."""

    def __init__(self, names, classes=("a", "b", "c"), size=100):
        self.names, self.classes, self.bytes = names, list(classes), size

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]

    def size(self, index):
        return self.bytes + len(self.names[index])


def batch(images=None, indices=()):
    return SimpleNamespace(images=images, indices=np.array(indices, int))


def test_a_networks_logits_are_in_the_students_order_of_classes():
    model = random_model()
    x = random_images(model, 3)
    taught = teacher.NetworkTeacher(model, NAMES, DIGITS, ["7", "0", "3"], DIGITS)(batch(x))
    assert np.array_equal(taught, model(x)[:, [7, 0, 3]])
    twice = ["7", "7", *NAMES[2:]]
    assert np.array_equal(teacher.NetworkTeacher(model, twice, DIGITS, ["3", "2"], DIGITS)(batch(x)),
                          model(x)[:, [3, 2]])  # classes that are not needed may have any names
    with pytest.raises(LevitError, match="teacher: expected each class by a name of its own, found two called '7'"):
        teacher.NetworkTeacher(model, twice, DIGITS, ["3", "7"], DIGITS)
    with pytest.raises(LevitError, match="teacher: expected each class by its name, found none called 'ten'"):
        teacher.NetworkTeacher(model, NAMES, DIGITS, ["7", "ten"], DIGITS)


def test_names_that_a_teacher_does_not_know_are_taken_in_order_and_it_says_so(written):
    path, logits = written
    strange = ["x", "y", "z"]
    taught = teacher.WrittenTeacher(path, Source(["a/1.png"], strange), PLAIN)
    assert np.array_equal(taught(batch(indices=[0])), logits[[1]])
    assert taught.note == "classes are taken in their order: x as c, …"
    assert teacher.WrittenTeacher(path, Source(["a/1.png"]), PLAIN).note == ""
    model = random_model()
    named = [f"digit {n}" for n in range(10)]
    assert teacher.NetworkTeacher(model, NAMES, DIGITS, named, DIGITS).note.endswith("order: digit 0 as 0, …")
    assert not teacher.NetworkTeacher(model, NAMES, DIGITS, NAMES, DIGITS).note
    assert not teacher.NetworkTeacher(model, None, DIGITS, named, DIGITS).note


@pytest.mark.parametrize("mean, std", [(0.2, 0.7), (0.5, 0.7), (0.2, 0.25), (0.5, 0.25)])
def test_a_network_sees_its_own_normalization(mean, std):
    """The same pixels, normalized once for the student and once for the teacher, with different means, deviations, or
    both."""
    model = random_model()
    pixels = np.random.default_rng(0).random((4, 1, 32, 32)).astype(np.float32)
    own, student = (Preprocessing("x", 32, (32, 32), (m,), (s,), "L") for m, s in ((mean, std), (0.5, 0.25)))
    taught = teacher.NetworkTeacher(model, None, own, NAMES, student)(batch((pixels - 0.5) / np.float32(0.25)))
    expected = model(((pixels - np.float32(mean)) / np.float32(std)).astype(np.float32))
    assert np.abs(taught - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_network_of_another_size_sees_resized_images():
    """Only the height differs, so that a transposed image would be noticed."""
    model = random_model(image_size=(48, 32))
    # a picture so smooth that it is the same at both sizes
    y, taller = ((np.arange(n) + 0.5) / n * 3 for n in (32, 48))
    smooth = [np.add.outer(np.cos(rows), np.sin(y)).astype(np.float32)[None, None] for rows in (y, taller)]
    assert np.abs(teacher.resized(smooth[0], (48, 32)) - smooth[1])[:, :, 2:-2, 2:-2].max() < 2e-3
    own = preprocessing_named("digits", (48, 32))
    taught = teacher.NetworkTeacher(model, NAMES, own, NAMES, DIGITS)(batch(smooth[0]))
    expected = model(smooth[1])
    assert np.abs(taught - expected).max() < 0.02 * np.abs(expected).max()
    assert teacher.resized(np.zeros((2, 3, 8, 5)), (6, 7)).shape == (2, 3, 6, 7)


def test_a_network_of_other_channels_is_refused():
    colour = preprocessing_named("authors")
    with pytest.raises(LevitError, match="teacher: expected images of mode RGB as the student's, found L"):
        teacher.NetworkTeacher(random_model(), NAMES, DIGITS, NAMES, colour)


def test_a_function_is_asked_and_its_answer_checked():
    x = np.ones((2, 1, 4, 4), np.float32)
    taught = teacher.FunctionTeacher(lambda images: images.sum((2, 3)) * np.arange(3.0), 3)(batch(x))
    assert np.array_equal(taught, [[0, 16, 32]] * 2)
    for answer, found in ((np.zeros((2, 4)), r"\(2, 4\)"), (np.zeros((2, 3), int), "int64")):
        with pytest.raises(LevitError, match=f"teacher: expected .*{found}"):
            teacher.FunctionTeacher(lambda images: answer, 3)(batch(x))


def test_a_function_that_works_in_place_leaves_the_students_images():
    def in_place(images):
        images *= 0
        return images.sum((2, 3)) * np.arange(3.0)

    x = np.ones((2, 1, 4, 4), np.float32)
    assert not teacher.FunctionTeacher(in_place, 3)(batch(x)).any() and (x == 1).all()


def test_a_file_with_a_function_is_a_module_as_any(tmp_path, monkeypatch):
    """It may import and open files beside it; a dataclass looks up its own module."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_the_teacher.py").write_text("CLASSES = 3\n")
    (tmp_path / "first.txt").write_text("1.0")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "import numpy as np\nfrom beside_the_teacher import CLASSES\n@dataclass\nclass Teacher:\n"
        "    first: float = float(Path(__file__).with_name('first.txt').read_text())\n"
        "    def __call__(self, images):\n        return self.first + np.zeros((len(images), CLASSES))\n"
        "teach = Teacher()\n")
    taught = teacher.FunctionTeacher.of(f"{tmp_path}/mine.py:teach", 3)
    assert np.array_equal(taught(batch(np.ones((2, 1, 4, 4), np.float32))), np.ones((2, 3)))


def test_a_function_in_a_file(tmp_path):
    path = tmp_path / "a:b.py"
    path.write_text("import numpy as np\n\ndef brightness(images):\n    return images.mean((2, 3)) * np.arange(3.0)\n")
    taught = teacher.FunctionTeacher.of(f"{path}:brightness", 3)
    assert np.array_equal(taught(batch(np.ones((2, 1, 4, 4), np.float32))), [[0, 1, 2]] * 2)
    assert taught.fingerprint == teacher.FunctionTeacher.of(f"{path}:brightness", 3).fingerprint
    for name in ("darkness", "np"):
        with pytest.raises(LevitError, match=f"a:b.py: expected a function '{name}', found none"):
            teacher.FunctionTeacher.of(f"{path}:{name}", 3)
    path.write_text(path.read_text() + "\ndef dullness(images):\n    return -brightness(images)\n")
    one, other = (teacher.FunctionTeacher.of(f"{path}:{name}", 3).fingerprint for name in ("brightness", "dullness"))
    assert one != other
    path.write_text(path.read_text().replace("mean", "max"))
    assert one != teacher.FunctionTeacher.of(f"{path}:brightness", 3).fingerprint


def test_another_teacher_has_another_fingerprint(written, tmp_path):
    path, logits = written
    source = Source(["a/1.png", "a/2.png", "b/3.png", "c/4.png"], ["c", "a", "b"])
    teacher.write_logits(tmp_path / "other.h5", logits + 1, [3, 0, 2], source, source.classes, "another teacher")
    one, same, other = (teacher.WrittenTeacher(file, Source(["a/1.png"]), PLAIN).fingerprint
                        for file in (path, path, tmp_path / "other.h5"))
    assert one == same != other
    # the same logits for another image of the student's
    assert teacher.WrittenTeacher(path, Source(["b/3.png"]), PLAIN).fingerprint != one
    one, same, other = (teacher.NetworkTeacher(random_model(seed=seed), NAMES, DIGITS, NAMES, DIGITS).fingerprint
                        for seed in (1, 1, 2))
    assert one == same != other


@pytest.fixture
def written(tmp_path):
    """Logits for three images of a source of four, with another order of classes than the student's."""
    logits = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)
    source = Source(["a/1.png", "a/2.png", "b/3.png", "c/4.png"], ["c", "a", "b"])
    teacher.write_logits(tmp_path / "teacher.h5", logits, [3, 0, 2], source, source.classes, "some teacher")
    return tmp_path / "teacher.h5", logits


def test_written_logits_are_found_by_name(written):
    path, logits = written
    student = Source(["c/4.png", "b/3.png", "a/1.png"])
    taught = teacher.WrittenTeacher(path, student, PLAIN)(batch(indices=[2, 0, 0, 1]))
    assert np.array_equal(taught, logits[[1, 0, 0, 2]][:, [1, 2, 0]])
    assert teacher.is_logits(path)


def test_images_and_classes_without_written_logits_are_named(written):
    path, _ = written
    with pytest.raises(LevitError,
                       match="teacher.h5: expected logits of all 2 images, found none of a/2.png and 0 more: they are "
                             "of other data, or teach skipped them, as --bad-files skip does$"):
        teacher.WrittenTeacher(path, Source(["a/1.png", "a/2.png"]), PLAIN)
    with pytest.raises(LevitError, match="teacher.h5: .*found none called 'd' among its 3"):
        teacher.WrittenTeacher(path, Source(["a/1.png"], ["a", "d"]), PLAIN)
    with pytest.raises(LevitError, match="expected a recipe without mixup and cutmix.*found mixup 0.8, cutmix 1 with"):
        teacher.WrittenTeacher(path, Source(["a/1.png"]), Recipe())
    for one in ({"mixup": 0.0}, {"cutmix": 0.0}):
        with pytest.raises(LevitError, match="expected a recipe without mixup and cutmix"):
            teacher.WrittenTeacher(path, Source(["a/1.png"]), Recipe(**one))
    teacher.WrittenTeacher(path, Source(["a/1.png"]), Recipe(mix_probability=0.0))


def test_other_images_of_the_same_names_are_refused(written, tmp_path):
    path, logits = written
    with pytest.raises(LevitError, match="expected logits of all 1 images, found none of a/1.png and 0 more: they are "
                                         "of other data$"):
        teacher.WrittenTeacher(path, Source(["a/1.png"], size=101), PLAIN)
    # A file of today must be readable later; a file of an earlier version has only names.
    arrays, documents = hdf5.read(path)
    known, names = (np.frombuffer(b"".join(hashlib.sha256(f"{name}{size}".encode()).digest()[:8] for name in (
        "c/4.png", "a/1.png", "b/3.png")), np.int64) for size in ("\0" "107", ""))
    assert np.array_equal(arrays["names"], known)
    del documents[teacher.DOCUMENT]["images by"]
    hdf5.write(tmp_path / "old.h5", arrays | {"names": names}, documents)
    old = teacher.WrittenTeacher(tmp_path / "old.h5", Source(["a/1.png"], size=101), PLAIN)
    assert np.array_equal(old(batch(indices=[0])), logits[[1]][:, [1, 2, 0]])


def test_a_folder_and_its_packed_file_are_the_same_images(tmp_path):
    source = Folder(make_folder(tmp_path / "images", images=2))
    pack(source, tmp_path / "packed.h5")
    logits = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    teacher.write_logits(tmp_path / "teacher.h5", logits, range(6), source, source.classes, "")
    taught = teacher.WrittenTeacher(tmp_path / "teacher.h5", Packed(tmp_path / "packed.h5"), PLAIN)
    assert np.array_equal(taught(batch(indices=[5, 0])), logits[[5, 0]])


def test_skipped_images_need_no_logits(written):
    path, logits = written
    student = Source(["a/1.png", "a/2.png"])
    taught = teacher.WrittenTeacher(path, student, PLAIN, skip=True)
    assert np.array_equal(taught(batch(indices=[0])), logits[[1]][:, [1, 2, 0]])
    with pytest.raises(LevitError, match="teacher.h5: expected logits of all 2 images, found none of a/2.png"):
        taught(batch(indices=[0, 1]))
    teacher.WrittenTeacher(path, Source(["c/4.png", "a/2.png"]), PLAIN, skip=True)  # the file has the first
    with pytest.raises(LevitError, match="found none of a/2.png and 1 more"):
        teacher.WrittenTeacher(path, Source(["a/2.png", "d/1.png"]), PLAIN, skip=True)


@pytest.mark.parametrize("names", [np.int64(1), np.ones((3, 1), np.int64), np.ones((3, 3), np.int64),
                                   np.ones(3, np.float32)])
def test_damaged_image_numbers_are_refused(written, names):
    path, _ = written
    arrays, documents = hdf5.read(path)
    hdf5.write(path, arrays | {"names": np.asarray(names)}, documents)
    with pytest.raises(CheckpointError, match="expected logits that levit-np teach wrote, found another"):
        teacher.WrittenTeacher(path, Source(["a/1.png"]), PLAIN)


@pytest.mark.parametrize("names, logits, changes", [
    (2, (3, 3), {}), (3, (3, 2), {}), (3, (3, 3), {"classes": ["c", "a"]}), (0, (0, 3), {}),
    (3, (3, 3), {"images by": "content"}), (3, (3, 3), {"classes": ["c", "a", 3]}), (3, (3, 3), {"classes": []})])
def test_logits_that_do_not_fit_their_images_and_classes_are_refused(monkeypatch, names, logits, changes):
    arrays = {"names": np.zeros(names, np.int64), "logits": np.zeros(logits, np.float32)}
    about = {"classes": ["c", "a", "b"], "images by": teacher.KNOWN_BY} | changes
    monkeypatch.setattr(hdf5, "read", lambda path: (arrays, {teacher.DOCUMENT: about}))
    with pytest.raises(CheckpointError, match="a.h5: expected logits that levit-np teach wrote, found another"):
        teacher.WrittenTeacher("a.h5", Source(["a/1.png"]), PLAIN)


def test_another_or_a_damaged_file_is_refused(written, tmp_path):
    path, _ = written
    levit_np.create("levit_digits").save(tmp_path / "weights.h5")
    assert not teacher.is_logits(tmp_path / "weights.h5") and not teacher.is_logits(tmp_path / "none.h5")
    with pytest.raises(CheckpointError, match="weights.h5: expected logits that levit-np teach wrote, found another"):
        teacher.WrittenTeacher(tmp_path / "weights.h5", Source(["a"]), PLAIN)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        teacher.WrittenTeacher(path, Source(["a/1.png"]), PLAIN)
    with pytest.raises(CheckpointError, match="finite"):
        teacher.write_logits(path, np.full((1, 3), np.nan), [0], Source(["a/1.png"]), "abc", "")
