"""`levit-np explain`: which page it asks for, where it writes, and wrong use. The page itself is replaced, and tested
elsewhere."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from levit_np.classifier import Classifier
from levit_np.cli import main

from ..random_model import random_model
from . import DIGIT

IMAGE = str(DIGIT)


@pytest.fixture
def asked(monkeypatch):
    """The arguments of each page that was asked for; no page is computed."""
    asked = []

    def explain(model, image, target=None, teacher=None, rival=None, about=None, whole=False):
        asked.append((model.config.name, image, target, teacher, rival, about, whole))
        return SimpleNamespace(save=lambda path: Path(path).write_bytes(b"page"),
                               served=lambda live: f"served with {live}")

    monkeypatch.setattr(Classifier, "explain", explain)
    return asked


def test_a_page_of_these_classes_is_written(asked, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert main(["explain", IMAGE, "-o", str(path)]) == 0
    assert asked == [("levit_digits", IMAGE, None, None, None, None, False)] and path.read_bytes() == b"page"
    assert capsys.readouterr().out == f"{path}: 0.0 MB, {DIGIT.name} through levit_digits\n"
    path.write_bytes(b"before")
    again = ["explain", IMAGE, "-o", str(path), "--target", "3", "--teacher", "5", "--rival", "7", "--whole",
             "--weights", "levit_128s_a1"]
    assert main(again) == 1 and "--force replaces it" in capsys.readouterr().err
    assert len(asked) == 1 and path.read_bytes() == b"before"
    assert main([*again, "--force"]) == 0 and path.read_bytes() == b"page"
    assert asked[1:] == [("levit_128s_a1", IMAGE, "3", "5", "7", None, True)]
    (tmp_path / "link").symlink_to("nowhere")
    assert main(["explain", IMAGE, "-o", str(tmp_path / "link")]) == 1 and len(asked) == 2


def test_pictures_beside_the_page(asked, monkeypatch, tmp_path, capsys):
    """They show the reference backend's numbers, and go into a folder that has files only with --force."""
    written = []
    monkeypatch.setattr("levit_np.plot.write_all", lambda model, x, folder: written.append(
        (model.ops.NAME, x.shape, folder)) or iter("ab"))
    for arguments in (["--png", "new"], ["--png", ".", "--force"], ["-o", "page.html", "--png", "new"]):
        monkeypatch.chdir(tmp_path)
        assert main(["explain", IMAGE, *arguments]) == 0
    assert written == [("reference", (1, 32, 32), folder) for folder in ("new", ".", "new")]
    assert len(asked) == 1 and (tmp_path / "page.html").exists()
    assert f": 2 pictures of {DIGIT.name} in levit_digits\n" in capsys.readouterr().out
    assert main(["explain", IMAGE, "--png", "."]) == 1 and len(written) == 3


@pytest.mark.parametrize("arguments, message", [
    (("--serve", "-o", "page.html"), "expected either --serve, or -o PAGE and --png DIR"),
    (("--serve", "--png", "pictures"), "expected either --serve, or -o PAGE and --png DIR"),
    (("--serve", "--whole"), "expected --whole with -o PAGE"),
    ((IMAGE,), "expected an image and -o PAGE"), (("-o", "page.html"), "expected an image and -o PAGE"),
    ((IMAGE, "-o", "page.html", "--weights", "a.h5", "--weights", "b.h5"), "with one --weights; or --serve"),
    (("--serve", "--port", "65536"), "expected a port from 0 to 65535, found '65536'"),
    (("--serve", "--port", "-1"), "expected a port from 0 to 65535, found '-1'"),
    (("--serve", "--weights", "a.h5", "--weights", ""), "expected no empty argument")])
def test_wrong_use(asked, monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["explain", *arguments])
    assert message in capsys.readouterr().err and not asked and not list(tmp_path.iterdir())


def test_what_is_served_first(asked, monkeypatch, tmp_path, capsys):
    """A black image to draw on, or the given one, at the given port."""
    ports = []

    def listen(server, port):
        ports.append(port)
        server.port = 1234
        return SimpleNamespace(run=lambda: ports.append(server("/")))

    monkeypatch.setattr("levit_np.explain.page.server.listen", listen)
    monkeypatch.setattr("levit_np.explain.page.server.Server.__call__", lambda server, path: server._first)
    assert main(["explain", "--serve"]) == 0
    name, image, *others = asked.pop()
    assert (name, others) == ("levit_digits", [None, None, None, "black", False])
    assert image.dtype == np.uint8 and image.shape == (32, 32, 3) and not image.any()
    assert ports == [0, "served with {'weights': ['levit_digits.h5'], 'chosen': 0}"]
    assert capsys.readouterr().out == "http://127.0.0.1:1234/#/live   (Ctrl-C ends it)\n"
    assert main(["explain", "--serve", IMAGE, "--port", "65535", "--target", "3", "--teacher", "5", "--rival", "7",
                 "--weights", "levit_128s", "--weights", "some/\udcff.h5"]) == 0
    assert asked == [("levit_128s", IMAGE, "3", "5", "7", DIGIT.name, False)]
    assert ports[2:] == [65535, "served with {'weights': ['levit_128s', \"'\\\\udcff.h5'\"], 'chosen': 0}"]
    assert capsys.readouterr().out == "http://127.0.0.1:1234/   (Ctrl-C ends it)\n"
    odd = shutil.copy(DIGIT, tmp_path / "\x1b.png")
    assert main(["explain", "--serve", str(odd)]) == 0 and asked[-1][5] == r"'\x1b.png'"


def test_an_image_whose_name_is_not_valid_utf_8(tmp_path):
    """On Linux a file name may be any bytes, which UTF-8 may be unable to decode."""
    odd = "3\udcff\n.png" if sys.platform.startswith("linux") else "3\n.png"
    page = random_model(image_size=16, backend="reference").explain(shutil.copy(DIGIT, tmp_path / odd))
    page.save(os.fsencode(tmp_path / "page.html"))  # a path as model.save takes it
    assert ascii(odd) == page.document["about"] and repr(page).startswith(f"<Explanation of {ascii(odd)}:")
