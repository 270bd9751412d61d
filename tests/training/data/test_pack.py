"""Packing a folder into a file: which images are left out, what stops it, and that an interrupted packing leaves
nothing."""

import errno
import io
import os
import signal

import pytest

from levit_np.cli import main
from levit_np.errors import DataError, ImageError
from levit_np.storage import atomic
from levit_np.training.data.folder import Folder
from levit_np.training.data.pack import pack
from levit_np.training.data.packed import Packed
from levit_np.training.interrupt import SIGNALS

from ..image_folders import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(make_folder(tmp_path_factory.mktemp("images") / "d", classes=3, images=4))


def test_bad_files_stop_the_packing_or_are_left_out(tmp_path):
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=4))
    folder.path(1).write_bytes(folder.read(1)[:100])
    folder.path(6).unlink()
    with pytest.raises(ImageError, match="class0/001.png: truncated"):
        pack(folder, tmp_path / "d.h5")
    assert os.listdir(tmp_path) == ["d"]
    seen = []
    skipped = pack(folder, tmp_path / "d.h5", skip=True, advance=lambda: seen.append(None))
    assert len(seen) == 8
    assert [name for name, _ in skipped] == ["class0/001.png", "class1/002.webp"]
    source = Packed(tmp_path / "d.h5")
    kept = [0, 2, 3, 4, 5, 7]
    assert [source.name(i) for i in range(6)] == [folder.name(i) for i in kept]
    assert [source.read(i) for i in range(6)] == [folder.read(i) for i in kept]
    for index in (4, 5, 7):
        folder.path(index).write_bytes(b"")
    with pytest.raises(DataError, match="class1: expected at least one good image"):
        pack(folder, tmp_path / "d.h5", skip=True)
    for index in range(8):
        folder.path(index).write_bytes(b"")
    with pytest.raises(DataError, match="class0: expected at least one good image"):
        pack(folder, tmp_path / "d.h5", skip=True)
    assert len(Packed(tmp_path / "d.h5")) == 6


def test_a_file_that_grows_meanwhile(tmp_path, monkeypatch):
    """The last file grows, by one byte."""
    folder = Folder(make_folder(tmp_path / "d", classes=2, images=2))
    monkeypatch.setattr(Folder, "size", lambda folder, index: len(folder.read(index)) - (index == 3))
    with pytest.raises(DataError, match="class1/001.png: expected files that stay as they are, found some grown"):
        pack(folder, tmp_path / "d.h5")
    assert os.listdir(tmp_path) == ["d"]


def test_an_interrupted_packing_leaves_nothing(folder, tmp_path):
    calls = []

    def advance():
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "d.h5", advance=advance)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_command_and_leaves_nothing(tmp_path, monkeypatch, number):
    """As a cluster's scheduler sends one when a job's time is up."""
    root, before = make_folder(tmp_path / "d", classes=2, images=2), signal.getsignal(number)
    monkeypatch.setattr(Folder, "read", lambda folder, index: os.kill(os.getpid(), number))
    assert main(["pack", str(root), str(tmp_path / "d.h5")]) == 128 + number
    assert os.listdir(tmp_path) == ["d"] and signal.getsignal(number) == before


class FullDisk(io.FileIO):
    """A disk with room for a given number of writes."""

    room = 0

    def write(self, data):
        if FullDisk.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        FullDisk.room -= 1
        return super().write(data)


def test_a_full_disk_at_every_write(folder, tmp_path, monkeypatch):
    path = tmp_path / "train.h5"
    path.write_bytes(b"the old one")
    monkeypatch.setattr(atomic, "open", FullDisk, raising=False)
    for room in range(1000):
        FullDisk.room = room
        try:
            pack(folder, path)
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC and error.filename == str(path)
            assert path.read_bytes() == b"the old one" and os.listdir(tmp_path) == ["train.h5"]
    assert room > 15 and Packed(path).read(2) == folder.read(2)


def test_the_command(tmp_path, capsys):
    root = make_folder(tmp_path / "d", classes=2, images=2)
    path = str(tmp_path / "d.h5")
    assert main(["pack", str(root), path]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: 4 images of 2 classes, 0.0 MB")
    assert main(["pack", str(root), path]) == 1
    assert "expected no such file yet, found one; --force replaces it" in capsys.readouterr().err
    (root / "class1" / "000.jpg").write_bytes(b"GIF89a")
    assert main(["pack", str(root), path, "--force"]) == 1
    assert capsys.readouterr().err == ("levit-np pack: class1/000.jpg: expected a JPEG, PNG or WebP image, found GIF; "
                                       "--skip would skip it\n")
    assert len(Packed(path)) == 4
    assert main(["pack", str(root), path, "--force", "--skip"]) == 0
    shown = capsys.readouterr()
    assert "left out: class1/000.jpg: expected a JPEG" in shown.err and "3 images of 2 classes" in shown.out
    assert main(["pack", str(tmp_path / "nowhere"), path, "--force"]) == 1
    assert "nowhere: expected a folder of images" in capsys.readouterr().err
    assert main(["pack", str(root), str(tmp_path / "no" / "d.h5")]) == 1
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["pack", str(root)])
