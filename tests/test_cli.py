"""The command in processes of its own: exit status, what is printed, and where."""

import argparse
import contextlib
import io
import os
import pty
import subprocess
import sys
import tomllib
import warnings

import numpy as np
import pytest

import levit_np
from levit_np.classifier import Classifier
from levit_np.cli import _print_rows, main
from levit_np.commands.common import from_zero, progress, waiting, whole
from levit_np.config import config_of
from levit_np.explain.compare import Row
from levit_np.model import build

from .command import ROOT, SAMPLES, compiled, run  # noqa: F401  (compiled is a fixture)
from .random_model import random_model


def test_classify_prints_the_classes_with_bars():
    status, out, err = run("classify", SAMPLES[3], "--top", 3)
    lines = out.splitlines()
    assert (status, err, lines[0], len(lines)) == (0, "", SAMPLES[3], 4)
    label, share, bar = lines[1].split()
    assert label == "3" and float(share.rstrip("%")) > 50 and set(bar) == {"█"} and len(bar) > 15


def test_classify_from_another_directory_finds_the_weights_that_ship(tmp_path):
    assert run("classify", SAMPLES[0], cwd=tmp_path)[0] == 0


def test_python_runs_the_package_as_the_command(tmp_path):
    """For users whose folder of scripts is not on the path; and a bug report needs the version."""
    done = subprocess.run([sys.executable, "-m", "levit_np", "--version"], cwd=tmp_path, text=True, capture_output=True,
                          timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"levit-np {levit_np.__version__}\n", "")


def test_classify_names_five_classes_unless_told(capsys):
    assert main(["classify", SAMPLES[3]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5


def test_bad_images_are_reported_and_the_others_go_on(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = [tmp_path / "bad.png", *SAMPLES, *SAMPLES, tmp_path / "none.png", SAMPLES[7]]  # more than one batch
    status, out, err = run("classify", "--top", 1, *images)
    names, answers = out.splitlines()[::2], out.splitlines()[1::2]
    assert status == 1 and names == [*SAMPLES, *SAMPLES, SAMPLES[7]]
    assert [line.split()[0] for line in answers] == [*"01234567", *"01234567", "7"]
    assert len(err.splitlines()) == 2 and "bad.png" in err.splitlines()[0] and "none.png" in err.splitlines()[1]
    status, out, err = run("classify", tmp_path / "none.png")
    assert (status, out, len(err.splitlines())) == (1, "", 1)


def test_a_label_cannot_command_the_terminal(tmp_path):
    model = levit_np.create("levit_digits", num_classes=2)
    model.labels = ["\x1b[2Jgone", "ünïcode"]
    model.save(tmp_path / "a.h5")
    status, out, _ = run("classify", SAMPLES[0], "--weights", tmp_path / "a.h5")
    assert status == 0 and "\x1b" not in out and r"\x1b[2Jgone" in out and "ünïcode" in out


def test_an_ascii_terminal_gets_its_bars_too():
    status, out, err = run("classify", SAMPLES[3], PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (status, err) == (0, "") and "####" in out


@pytest.mark.parametrize("arguments", [
    (), ("classify",), ("fly",), ("classify", "a.png", "--top", "0"), ("classify", "a.png", "--top", "x"), ("summary",),
    ("verify",), ("verify", "a.h5"), ("verify", "a.h5", "b.h5", "--record", "c.h5"),
    ("verify", "a.h5", "b.h5", "--image", "c"), ("verify", "a.h5", "b.h5", "--tolerance", "-1")])
def test_wrong_use_is_status_2(arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and err.startswith("usage: levit-np")


@pytest.mark.parametrize("text", ["inf", "nan", "x", "-0.1"])
def test_a_tolerance_is_a_number_from_0(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["verify", "a.h5", "b.h5", f"--tolerance={text}"])
    assert f"argument --tolerance: expected a number from 0, found '{text}'" in capsys.readouterr().err


def test_singular_and_plural():
    assert [whole(text) for text in ("1", "65")] == [1, 65] and [from_zero(text) for text in ("0", "7")] == [0, 7]
    for kind, least in (whole, 1), (from_zero, 0):
        for text in ("-1", "1.5", "²", "", "x", *["0"][:least]):
            with pytest.raises(argparse.ArgumentTypeError, match=f"a whole number from {least}, found '{text}'"):
                kind(text)


@pytest.mark.parametrize("arguments", [
    ("classify", SAMPLES[0], "--weights", "none.h5"), ("summary", "none.h5"), ("summary", SAMPLES[0]),
    ("verify", "none.h5", "none.h5"), ("verify", "levit_digits.h5", "none.h5"),
    ("verify", "levit_digits.h5", "--record", "none/trace.h5")])
def test_a_failed_job_is_status_1_and_one_line(arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "") and err.startswith(f"levit-np {arguments[0]}: ") and len(err.splitlines()) == 1


def test_in_a_current_folder_that_was_removed_the_file_is_named(tmp_path, monkeypatch, capsys):
    """Its path cannot be completed."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for verb, *options in (["convert", "out"], ["export", "out", "--format", "timm"], ["train", "--output", "out"]):
        assert main([verb, str(tmp_path), *options]) == 1
        assert capsys.readouterr().err == f"levit-np {verb}: out: No such file or directory\n"


def test_a_misspelt_name_is_told_the_names():
    for arguments in (("summary", "levit_265"), ("step", SAMPLES[0], "--weights", "levit_265")):
        status, _, err = run(*arguments)
        assert status == 1 and "levit_265: expected" in err and "levit_256, levit_384" in err


def test_for_a_path_no_names_are_suggested(tmp_path, monkeypatch, capsys):
    (tmp_path / "damaged").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    for file in "damaged", "none.h5":
        assert main(["summary", file]) == 1
        err = capsys.readouterr().err
        assert f"{file}: expected" in err and "model names are" not in err


@pytest.mark.parametrize("verb", ["bench", "classify", "evaluate", "explain", "pack", "step", "summary", "teach",
                                  "train", "verify"])
def test_help_has_an_example(verb):
    status, out, _ = run(verb, "--help", COLUMNS="80")
    assert status == 0 and "example" in out and f"levit-np {verb} " in out.partition("example")[2]
    usage, description, *_ = out.partition("\nexample")[0].split("\n\n")
    assert "arguments:" not in description and max(map(len, description.splitlines())) <= 80


def test_help_says_what_a_word_may_be():
    _, out, _ = run("train", "--help", COLUMNS="80")
    assert "--rate-changes epoch|step" in out and "--distillation hard|soft" in out


def test_help_says_what_each_recipe_has():
    """One value where they agree."""
    out = " ".join(run("train", "--help", COLUMNS="80")[1].split())
    assert "passes through the data (paper: 1000, small: 50)" in out and "label smoothing (paper: 0.1)" in out
    assert "share of the image's (paper: 0.08 1, small: 0.35 1)" in out and "0: none (paper: 1.0, small: 0.0)" in out


@pytest.mark.parametrize("verb", ["pack", "train"])
def test_an_ascii_terminal_gets_its_help_too(verb):
    status, out, err = run(verb, "--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (status, err) == (0, "") and "?" in out and "example" in out


def test_a_reader_that_leaves_early_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "levit_np.cli", "summary", "levit_128"], cwd=ROOT, stdout=writer,
                          stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # empty: short output is buffered, and flushed last by Python
def test_a_full_disk_below_the_output_is_status_1_and_one_line(unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "levit_np.cli", "summary", "levit_digits"], cwd=ROOT, stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60,
                              env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (1, "levit-np summary: output: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_cannot_be_reported_does_not_keep_the_other_images_from_their_answers():
    """A full disk below the messages alone."""
    command = f"{sys.executable} -m levit_np.cli classify --top 1 none.png {SAMPLES[3]} 2> /dev/full"
    done = subprocess.run(command, shell=True, cwd=ROOT, text=True, stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and done.stdout.splitlines()[0] == SAMPLES[3]


def test_many_images_into_a_pipe_show_progress_on_a_terminal_and_none_elsewhere():
    images = (SAMPLES * 3)[:20]
    command = [sys.executable, "-m", "levit_np.cli", "classify", "--top", "1", *images]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60,
                          env=os.environ | {"TERM": "xterm", "COLUMNS": "80"})
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0 and "20/20" in shown
    assert done.stdout.splitlines()[::2] == images  # complete, and nothing of the bar
    assert run("classify", "--top", 1, *images)[2] == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("total, silent, piped, bar", [
    (16, False, True, False), (17, False, True, True), (17, False, False, False), (1, True, False, True)])
def test_when_a_progress_bar_is_shown(monkeypatch, total, silent, piped, bar):
    """Nobody gets a bar if something else on the terminal already shows the progress."""
    monkeypatch.setenv("TERM", "xterm")
    with (contextlib.redirect_stderr(Terminal()) as shown,
          contextlib.redirect_stdout(io.StringIO() if piped else Terminal()) as out):
        with progress(total, "things", silent) as advance:
            advance()
            advance(total - 1)
    assert (f"{total}/{total}" in shown.getvalue()) == ("things/s" in shown.getvalue()) == bar and not out.getvalue()


def test_a_waiting_command_says_what_it_waits_for(monkeypatch):
    """The text is printed as it is: a name in it is not markup and cannot contain terminal commands."""
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.redirect_stderr(Terminal()) as shown, waiting("reading [red]a.h5\a"):
        pass
    assert r"'reading [red]a.h5\x07'" in shown.getvalue()
    with contextlib.redirect_stderr(io.StringIO()) as shown, waiting("reading"):
        pass
    assert not shown.getvalue()


def test_a_row_that_differs_is_red_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = [Row("stem[i]", "output", 1.0, 0.5), Row("", "output", 0.0, 0.0)]
    with contextlib.redirect_stdout(Terminal()) as shown:
        _print_rows(rows, 0.1)
    lines = shown.getvalue().replace("\x1b[31m\n\x1b[0m", "\n").splitlines()  # rich before 14.3: its end too
    assert lines == ["  layer        array   difference  relative",
                     "\x1b[31m! stem[i]      output           1       0.5\x1b[0m",
                     "  the network  output           0         0"]


def test_the_small_model_answers_with_little_imported():
    """What would slow down every start is not imported to classify one image."""
    code = ("import sys; from levit_np.cli import main; main(['classify', sys.argv[1]]); "
            "print(sorted({'rich', 'h5py', 'numba', 'torch', 'asyncio'} & set(sys.modules)))")
    out = subprocess.check_output([sys.executable, "-c", code, SAMPLES[3]], cwd=ROOT, text=True)
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["summary", "levit_128s"], ["step", SAMPLES[3], "--only", "stem"]])
def test_output_goes_to_a_replaced_stdout(arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(arguments) == 0
    assert "stem" in out.getvalue()


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_error(closed):
    command = f"{sys.executable} -m levit_np.cli classify --top 1 {SAMPLES[3]} {closed}"
    done = subprocess.run(command, shell=True, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout != "") == (0, "", closed == "2>&-")


def test_without_a_standard_input_the_walk_is_printed():
    command = f"{sys.executable} -m levit_np.cli step {SAMPLES[3]} --only head <&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and "head" in done.stdout


def test_too_little_memory_is_said_in_one_line():
    """Including a GPU's, whose error is a MemoryError too."""
    code = ("from levit_np import classifier, cli\n"
            "def scarce(*arguments): raise MemoryError('room for 7 bytes')\n"
            "classifier.Classifier.rank = scarce\n"
            f"raise SystemExit(cli.main(['classify', {SAMPLES[3]!r}]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("levit-np classify: expected more memory (a smaller batch needs less), found room for 7 "
                           "bytes\n")


def test_a_memory_error_without_a_message(monkeypatch, capsys):
    def scarce(*arguments):
        raise MemoryError

    monkeypatch.setattr("levit_np.classifier.load", scarce)
    assert main(["classify", SAMPLES[3]]) == 1
    assert capsys.readouterr().err == (
        "levit-np classify: expected more memory (a smaller batch needs less), found too little\n")


def test_an_image_for_which_there_is_too_little_memory_is_named_and_the_others_go_on(monkeypatch, capsys):
    crop = Classifier.crop

    def scarce(self, image):
        if image == SAMPLES[3]:
            raise MemoryError
        return crop(self, image)

    monkeypatch.setattr(Classifier, "crop", scarce)
    assert main(["classify", *SAMPLES[2:5], "--top", "1"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[::2] == [SAMPLES[2], SAMPLES[4]]
    assert err == f"levit-np classify: {SAMPLES[3]}: too little memory\n"


def test_ctrl_c_is_status_130(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "rank", interrupted)
    assert main(["classify", SAMPLES[3]]) == 130 and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("module", ["levit_np.cli", "argparse", "levit_np.training.recipe"])
def test_ctrl_c_during_the_imports_is_status_130(module):
    """The finder of modules receives it, as if it came when that one is looked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entry, function = project["scripts"]["levit-np"].split(":")
    code = (f"import sys, importlib\nentry = importlib.import_module({entry!r})\n"
            "class Interrupted:\n    def find_spec(name, *place):\n"
            f"        if name == {module!r}:\n            raise KeyboardInterrupt\n"
            f"sys.meta_path.insert(0, Interrupted)\nsys.argv[1:] = ['--version']\nsys.exit(entry.{function}())")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("action", ["default", "error", "ignore"])
def test_a_warning_is_one_line_and_no_error(monkeypatch, capsys, action):
    """Whatever PYTHONWARNINGS says."""
    rank = Classifier.rank
    monkeypatch.setattr(Classifier, "rank", lambda *arguments: warnings.warn("of\nlittle") or rank(*arguments))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert main(["classify", SAMPLES[3]]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(SAMPLES[3]) and err == "levit-np classify: 'of\\nlittle'\n"


def test_a_message_is_one_line_without_terminal_commands(tmp_path, capsys):
    name = str(tmp_path / "new\nline \x1b[31m.h5")
    assert main(["verify", SAMPLES[0], name]) == 1
    random_model().save(name)
    with pytest.raises(SystemExit):
        main(["verify", name, "--record", ""])  # as a shell passes a variable that is not set
    with pytest.raises(SystemExit):
        main(["classify", SAMPLES[0], ""])
    assert main(["verify", name, "--record", name]) == 1
    *_, usage, last = capsys.readouterr().err.splitlines()
    assert usage == "levit-np: error: expected no empty argument, found one"
    assert last.endswith("new\\nline \\x1b[31m.h5: expected a new file or a recorded pass to replace, found another "
                         "file'")


def test_summary_of_a_name_and_of_a_file(capsys):
    status, out, _ = run("summary", "levit_256")
    assert status == 0 and "18,893,876" in out.splitlines()[-1]
    assert main(["summary", "levit_128s_a1"]) == 0  # an ablation, for which there are no weights
    assert capsys.readouterr().out == build(config_of("levit_128s_a1")).summary() + "\n"
    model = levit_np.create("levit_digits")
    total = sum(int(np.prod(array.shape)) for array in model.gradients().values())
    status, out, _ = run("summary", "weights/levit_digits.h5")
    assert status == 0 and f"{total:,}" in out.splitlines()[-1]
    for name, shown in (("weights/levit_digits.h5", model), ("levit_128s_a3", levit_np.create("levit_128s_a3"))):
        assert main(["summary", name, "--plan"]) == 0
        assert capsys.readouterr().out == shown.summary(plan=True) + "\n"
