"""Folders with a folder of images for each class: what counts as an image, in which order, and what is refused."""

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.errors import DataError, ImageError
from levit_np.training.data import open_source
from levit_np.training.data.folder import Folder, are_parts
from levit_np.training.data.names import Names, fingerprint

from ..image_folders import make_folder


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_what_counts_and_in_which_order(tmp_path):
    """Like torchvision's ImageFolder, classes are numbered in the order of their names, capitals first."""
    folder = open_source(touch(
        tmp_path, "dog/b.jpg", "dog/a.PNG", "dog/.hidden.jpg", "dog/notes.txt", "dog/more/c.JPEG", "dog/more/.x/d.jpg",
        "Zoo/1.webp", "Zoo/10.webp", "Zoo/2.webp", ".cache/e.jpg", "README.md"))
    assert isinstance(folder, Folder)
    assert folder.classes == ["Zoo", "dog"]
    names = ["Zoo/1.webp", "Zoo/10.webp", "Zoo/2.webp", "dog/a.PNG", "dog/b.jpg", "dog/more/c.JPEG"]
    assert [folder.name(index) for index in range(len(folder))] == names
    assert [folder.target(index) for index in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [folder.read(index) for index in range(6)] == [name.encode() for name in names]


def test_images_of_other_formats_are_left_out_with_a_word(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/2.HEIC", "a/notes.txt", "b/1.jpg")
    with pytest.warns(UserWarning, match=r"found 1 of other formats too, which are left out: a/2\.HEIC$"):
        assert len(Folder(tmp_path)) == 2
    touch(tmp_path, "b/more/3.gif")
    with pytest.warns(UserWarning, match=r"found 2 of other formats too, which are left out: a/2\.HEIC, …$"):
        assert len(Folder(tmp_path)) == 2


def test_a_copy_in_another_process_is_the_same(tmp_path):
    folder = Folder(touch(tmp_path, "a/1.jpg", "b/2.jpg"))
    copy = pickle.loads(pickle.dumps(folder))
    assert [copy.name(i) for i in range(2)] == ["a/1.jpg", "b/2.jpg"] and copy.read(1) == b"b/2.jpg"
    assert copy.fingerprint == folder.fingerprint


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    touch(tmp_path, "d/a/1.jpg", "d/b/2.jpg")
    monkeypatch.chdir(tmp_path)
    folder, of_bytes = Folder("d"), Folder(b"d")
    with pytest.raises(DataError, match="expected the path of a folder of images, found an empty text"):
        open_source("")  # not the current folder
    monkeypatch.chdir("/")
    assert folder.read(0) == of_bytes.read(0) == b"d/a/1.jpg"


def test_links_are_followed(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "d/b/2.jpg")
    (tmp_path / "d" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d" / "b" / "3.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    folder = Folder(tmp_path / "d")
    assert [folder.name(i) for i in range(len(folder))] == ["a/1.jpg", "b/2.jpg", "b/3.jpg"]


def test_a_class_may_be_called_train_but_train_and_val_together_are_not_classes(tmp_path):
    both = touch(tmp_path / "both", "train/a/1.png", "val/a/1.png")
    capital = touch(tmp_path / "capital", "Train/a/1.png", "Test/a/1.png")
    with pytest.raises(DataError, match="capital: expected a folder for each class, found Test and Train; did you"):
        Folder(capital)
    ending = touch(tmp_path / "ending", "Training/a/1.png", "Testing/a/1.png", "valid/a/1.png")
    with pytest.raises(DataError, match="found Testing and Training and valid; did you mean .*/Training or .*valid"):
        Folder(ending)
    with pytest.raises(DataError, match="both: expected a folder for each class, found train and val; did you mean "
                                        r".*both/train or .*both/val\?$"):
        Folder(both)
    classes = touch(tmp_path / "classes", "train/1.png", "tram/1.png", "val/1.png")
    assert Folder(classes).classes == ["train", "tram", "val"]
    assert are_parts(["train"]) and are_parts(["annotations", "test", "train"]) and not are_parts(["train", "tram"])


@pytest.mark.parametrize("names, parts", [
    (["train"], True), (["train", "val"], True), (["extra", "test", "train"], True), (["train", "tram"], False),
    (["bus"], False), (["test", "val"], False)])
def test_folders_are_parts_where_one_is_called_train_and_no_other_may_be_a_class(tmp_path, names, parts):
    assert are_parts(names) is parts
    if not parts and len(names) > 1:
        touch(tmp_path, *(f"{name}/1.jpg" for name in names))
        assert Folder(tmp_path).classes == names


def test_the_fingerprint_depends_on_names_and_order(tmp_path):
    prints = {Folder(touch(tmp_path / str(i), *names)).fingerprint for i, names in enumerate([
        ("a/1.jpg", "b/2.jpg"), ("a/1.jpg", "b/3.jpg"), ("a/1.jpg", "c/2.jpg"), ("a/1.jpg", "b/1.jpg", "b/2.jpg"),
        ("a/1.jpg", "a/2.jpg", "b/2.jpg")])}
    assert len(prints) == 5


def loop(root):
    touch(root, "a/1.jpg", "b/2.jpg")
    (root / "b" / "again").symlink_to(root / "b")


def loop_to_the_root(root):
    touch(root, "a/1.jpg", "b/2.jpg")
    (root / "b" / "again").symlink_to(root)


def self_link(root):
    touch(root, "a/1.jpg", "b/2.jpg")
    (root / "b" / "x.jpg").symlink_to(root / "b" / "x.jpg")


def dangling(root):
    touch(root, "a/1.jpg", "b/2.jpg")
    (root / "b" / "3.jpg").symlink_to("nowhere.jpg")


def dangling_class(root):
    touch(root, "a/1.jpg", "b/2.jpg")
    (root / "c").symlink_to("nowhere")


def pipe(root):
    touch(root, "a/1.jpg", "b/2.jpg")
    os.mkfifo(root / "b" / "3.jpg")


@pytest.mark.parametrize("make, words", [
    (lambda root: None, "expected a folder for each class, at least two, found none"),
    (lambda root: touch(root, "1.jpg", "2.jpg"), "expected a folder for each class, at least two, found none"),
    (lambda root: touch(root, "a/1.jpg"), "expected a folder for each class, at least two, found one: a"),
    (lambda root: touch(root, "a/1.jpg", "b/2.gif"), r"b: expected images \(.jpg, .jpeg, .png, .webp\), found none"),
    (lambda root: touch(root, "a/1.jpg", "b\n/2.jpg"), r"expected class folders of printable names, found 'b\\n'"),
    (loop, "b/again: expected folders that end, found a link to a folder above it"),
    (loop_to_the_root, "b/again: expected folders that end"),
    (self_link, "b/x.jpg: expected a file or a folder, found: Too many levels of symbolic links"),
    (dangling, "b/3.jpg: expected a file or a folder, found: No such file"),
    (dangling_class, "c: expected a file or a folder, found: No such file"),
    (pipe, "b/3.jpg: expected a file, found a pipe or a device"),
])
def test_folders_that_are_no_data_set_are_refused(tmp_path, make, words):
    root = tmp_path / "d"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=words):
        Folder(root)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder of images, found: No such file"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected a folder of images, found"):
        Folder("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_class_that_may_not_be_read(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match="b: expected a folder of images, found: Permission denied"):
            Folder(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o700)


def test_a_file_that_went_away_or_grew(tmp_path):
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=1))
    folder.path(0).unlink()
    with pytest.raises(ImageError, match="class0/000.jpg: cannot be read: No such file"):
        folder.read(0)
    assert folder.size(0) == 0
    with open(folder.path(1), "wb") as file:
        file.truncate(50_000_000)
        assert len(folder.read(1)) == folder.size(1) == 50_000_000
        file.truncate(50_000_001)
    with pytest.raises(ImageError, match="class1/000.jpg: expected at most 50 MB, found more"):
        folder.read(1)


def test_names_contain_no_terminal_commands(tmp_path):
    touch(tmp_path, "a/\x1b[2J.jpg", "b/1.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b/\xff.jpg")).write_bytes(b"odd")
    folder = Folder(tmp_path)
    assert [folder.name(i) for i in range(3)] == [r"'a/\x1b[2J.jpg'", "b/1.jpg", r"'b/\udcff.jpg'"]
    assert folder.read(2) == b"odd"


def test_the_same_names_of_other_classes_have_another_fingerprint():
    names = Names.of(["1.jpg", "2.jpg"])
    found = {fingerprint(classes, names, targets) for classes in (["a", "b"], ["b", "a"])
             for targets in ([0, 1], [1, 0])}
    assert len(found) == 4


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_names_come_back(names):
    held = Names.of(names)
    assert list(held) == names and len(held) == len(names) and list(Names(held.text)) == names
    with pytest.raises(ValueError, match="a NUL after each name"):
        Names(held.text[:-1] + b"a")
