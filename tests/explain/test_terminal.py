"""`levit-np step` in a real terminal with keys, in a terminal without cursor movement with typed lines, and in a
pipe."""

import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import levit_np
from levit_np.explain import terminal as terminal_module
from levit_np.explain.session import Session
from levit_np.explain.trace import trace
from levit_np.explain.walk import Walk

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = str(ROOT / "weights/samples/digit_3.png")
COMMAND = [sys.executable, "-m", "levit_np.cli", "step"]
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if key not in ("COLUMNS", "LINES", "NO_COLOR", "TMUX")} | {
    "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def record():
    """The trace that the command walks through."""
    model = levit_np.load(ROOT / "weights/levit_digits.h5", backend="reference")
    x = model.prepare(IMAGE)[None]
    return trace(model, x, int(model(x)[0].argmax()))


class Tmux:
    """A terminal of 80×24 that runs a shell command, on a tmux server of its own."""

    def __init__(self, command, folder, **environment):
        self.name = ["tmux", "-u", "-S", f"{folder}/{time.monotonic_ns()}", "-f", "/dev/null"]
        self.environment = ENVIRONMENT | {"TERM": "xterm-256color"} | environment
        self.run("new-session", "-d", "-x", "80", "-y", "24", command)

    def run(self, *arguments):
        return subprocess.run([*self.name, *arguments], env=self.environment, check=True, capture_output=True,
                              text=True, encoding="utf-8", timeout=60).stdout

    def keys(self, *keys):
        self.run("send-keys", *keys)

    def type(self, text):
        self.run("send-keys", "-l", text)

    def screen(self, *options):
        return self.run("capture-pane", "-p", *options)

    def wait(self, *texts):
        """The screen once it contains all the texts and no longer changes."""
        end, before = time.monotonic() + 120, None
        while time.monotonic() < end:
            screen = self.screen()
            if screen == before and all(text in screen for text in texts):
                return screen
            before = screen
            time.sleep(0.1)
        raise AssertionError(f"expected {texts} in\n{screen}")

    def wait_for_line(self, length):
        """Waits until the first line, which ends with the step's number, has this length: then the terminal's new size
        is in effect."""
        end = time.monotonic() + 120
        while len((screen := self.screen()).splitlines()[0]) != length or "479/565" not in screen:
            assert time.monotonic() < end, screen
            time.sleep(0.05)


@pytest.fixture
def terminal():
    if not shutil.which("tmux"):
        pytest.skip("tmux is not here")
    opened, folder = [], tempfile.mkdtemp(prefix="levit-")  # the path of tmp_path may be too long for a socket

    def start(*arguments, **environment):
        command = " ".join(f"'{part}'" for part in (*COMMAND, IMAGE, *arguments))
        opened.append(Tmux(f"echo before; {command}; echo \"status $?\"; stty -a; exec sleep 1000", folder,
                           **environment))
        return opened[-1]

    yield start
    for tmux in opened:
        subprocess.run([*tmux.name, "kill-server"], env=tmux.environment, capture_output=True, timeout=60)
    shutil.rmtree(folder)


def test_the_walk_by_keys_in_80_by_24(terminal, record):
    tmux, steps = terminal(), {step.name: step for step in record.steps}
    screen = tmux.wait("It answers: 3", "q quit")
    lines = screen.splitlines()
    assert len(lines) == 24 and max(map(len, lines)) == 80 and lines[0].endswith(" 1/565")
    tmux.keys("s")
    tmux.wait("stem  Stem")
    tmux.keys("n", "s", "s", "s")
    screen = tmux.wait("stages.0.blocks.0.attention  Attention")
    assert re.search(r"→ +\d+     h, branch = self\.branch\.forward\(x, training\)", screen)

    tmux.keys("g")
    tmux.type("stages.1.downsample.attention.attention")
    tmux.keys("Enter")
    screen = tmux.wait("y = softmax(scale · q kᵀ + bias) v", "94/565")
    assert "1 [" not in screen and "2 [▾]▪▪" in screen and "scores = (q @ k.swapaxes(-1, -2)) * scale" in screen
    step = steps["stages.1.downsample.attention.attention"]
    for name, array in (step.arrays()).items():
        row = re.search(rf"^[> ] {name} +(\d\S*) +(\S+) +(\S+) +(\S+) +(\S+)", screen, re.M).groups()
        assert row[0] == "×".join(map(str, array.shape))
        assert [float(text) for text in row[1:]] == pytest.approx(
            [array.min(), array.mean(dtype=float), array.max(), array.std(dtype=float)], rel=6e-3)

    tmux.keys("v")
    tmux.type("probabilities[0, 3, :2, :3]")
    tmux.keys("Enter")
    screen = tmux.wait("shape (2, 3), float32")
    found = screen.partition("asked for")[2].partition("(2, 3)")[2].splitlines()
    rows = [line.split() for line in found if re.fullmatch(r"\s*([\d.e-]+\s+){2}[\d.e-]+", line)]
    assert np.array_equal(np.array(rows, np.float32), step.outputs["probabilities"][0, 3, :2, :3])

    tmux.keys("s", "n", "n", "n")
    tmux.wait("line 20 of attention", "It calls softmax: s goes in.")
    tmux.keys("Down")
    tmux.wait("line 47 of softmax", "e = np.exp(x - x.max(-1, keepdims=True))")
    tmux.keys("b")
    tmux.wait("backward  479/565", "attention_backward")
    tmux.keys("v")
    tmux.type("stages.0.blocks.0.mlp.up.dweight[5, 6]")
    tmux.keys("Enter")
    screen = tmux.wait("stages.0.blocks.0.mlp.up.dweight[5, 6] =")
    value = record.gradients["stages.0.blocks.0.mlp.up.weight"][5, 6]
    assert np.float32(screen.partition("dweight[5, 6] =")[2].split()[0]) == value

    tmux.keys("v")
    tmux.type("__import__('os')")
    tmux.keys("Enter")
    tmux.wait("expected a name, then perhaps [0, 3, :5]")
    tmux.run("resize-window", "-x", "100", "-y", "30")
    tmux.wait("479/565\n")
    assert max(map(len, tmux.screen().splitlines())) == 100
    tmux.run("resize-window", "-x", "30", "-y", "8")
    tmux.wait_for_line(29)
    tmux.run("resize-window", "-x", "80", "-y", "24")
    tmux.wait_for_line(79)  # otherwise stty would still find the narrow terminal
    tmux.keys("q")
    screen = tmux.wait("status 0", "-extproc")
    assert screen.startswith("before") and re.search(r"(?<!-)icanon", screen) and re.search(r"(?<!-)\becho\b", screen)


def test_colours_and_none_and_ctrl_c(terminal):
    tmux = terminal("--only", "stem")
    tmux.wait("stem  Stem", "▀▀▀▀")
    assert re.search("\x1b\\[[0-9;]*48", tmux.screen("-e"))
    tmux.keys("C-c")
    screen = tmux.wait("status 130", "-extproc")
    assert screen.startswith("before") and re.search(r"(?<!-)icanon", screen)
    tmux = terminal(NO_COLOR="1")
    screen = tmux.wait("It answers: 3", "▓▓")
    assert "▀" not in screen and not re.search("\x1b\\[[0-9;]*[34]8;", tmux.screen("-e"))


def opened_terminal(command, term="xterm"):
    """(process, master, slave): a process with its own session on a pseudo-terminal of 80×24."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=ROOT,
                               env=ENVIRONMENT | {"TERM": term})
    return process, master, slave


def read_until(master, text):
    shown, end = b"", time.monotonic() + 120
    while text.encode() not in shown:
        assert select.select([master], [], [], max(0, end - time.monotonic()))[0], shown.decode(errors="replace")
        shown += os.read(master, 1 << 16)
    return shown.decode(errors="replace")


def test_a_killed_walk_restores_the_terminal():
    process, master, slave = opened_terminal([*COMMAND, IMAGE])
    before = termios.tcgetattr(slave)
    read_until(master, "It answers")
    read_until(master, "q quit")
    assert termios.tcgetattr(slave) != before
    process.send_signal(signal.SIGTERM)
    read_until(master, "\x1b[?25h\x1b[?1049l")
    assert process.wait(60) == 128 + signal.SIGTERM and termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_an_error_restores_the_terminal():
    code = ("import sys; from levit_np.explain import session\n"
            "session.Session.do = lambda *_: 1 / 0\n"
            f"from levit_np.cli import main; main(['step', {IMAGE!r}])")
    process, master, slave = opened_terminal([sys.executable, "-c", code])
    before = termios.tcgetattr(slave)
    read_until(master, "q quit")
    os.write(master, b"n")
    read_until(master, "ZeroDivisionError")
    assert process.wait(60) == 1 and termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


@pytest.fixture
def slow(monkeypatch):
    """(keys, master, slave, signals): a reader of keys on a pseudo-terminal, not yet entered. The signals put into
    `signals` arrive during the next write of a page or of the terminal's modes, as on a slow terminal."""
    master, slave = pty.openpty()
    signals, tcsetattr = [], termios.tcsetattr

    class Output(io.RawIOBase):
        def writable(self):
            return True

        def fileno(self):
            return slave

        def write(self, data):
            come()
            return os.write(slave, data)

    def come():
        while signals:
            signal.raise_signal(signals.pop(0))

    def set_modes(*arguments):
        come()
        tcsetattr(*arguments)

    streams = SimpleNamespace(stdin=SimpleNamespace(fileno=lambda: slave),
                              stdout=io.TextIOWrapper(io.BufferedWriter(Output()), "utf-8"))
    monkeypatch.setattr(terminal_module, "sys", streams)
    monkeypatch.setattr(termios, "tcsetattr", set_modes)
    monkeypatch.setattr(os, "kill", lambda *_: None)  # Ctrl-Z must not stop the tests
    yield terminal_module._Keys(), master, slave, signals
    os.close(master)
    os.close(slave)


def test_ctrl_z_while_a_page_is_written(slow):
    keys, master, _, signals = slow
    with keys:
        signals += [signal.SIGTSTP, signal.SIGCONT]
        keys.write("a page")
    enter, leave = terminal_module._ENTER, terminal_module._LEAVE
    assert read_until(master, f"page{leave}") == f"{enter}{leave}{enter}a page{leave}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGTSTP])
def test_a_second_signal_while_the_terminal_is_restored(number, slow):
    keys, _, slave, signals = slow
    before, handlers = termios.tcgetattr(slave), {n: signal.getsignal(n) for n in signal.valid_signals()}
    with pytest.raises(KeyboardInterrupt) as caught, keys:
        assert termios.tcgetattr(slave) != before
        signals.append(number)
        raise (first := KeyboardInterrupt())
    assert caught.value is first and termios.tcgetattr(slave) == before
    assert {n: signal.getsignal(n) for n in signal.valid_signals()} == handlers


def test_ctrl_c_before_the_first_page(slow, monkeypatch):
    (keys, _, slave, _), take = slow, tty.setcbreak
    before, handlers = termios.tcgetattr(slave), {n: signal.getsignal(n) for n in signal.valid_signals()}
    monkeypatch.setattr(tty, "setcbreak", lambda file: (take(file), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt), keys:
        pass
    assert termios.tcgetattr(slave) == before
    assert {n: signal.getsignal(n) for n in signal.valid_signals()} == handlers


def test_a_terminal_that_cannot_move_its_cursor_gets_a_prompt(record):
    process, master, slave = opened_terminal([*COMMAND, IMAGE], term="dumb")
    read_until(master, "step> ")
    os.write(master, b"g head\n")
    shown = read_until(master, "step> ")
    assert "head  Head" in shown and "\x1b" not in shown
    os.write(master, b"v output[0, 3]\n")
    shown = read_until(master, "step> ")
    assert str(record.outputs["head"][0, 3]) in shown.split()
    os.write(master, b"/hardswish_backward\n")
    assert "hardswish_backward" in read_until(master, "step> ").replace("/hardswish", "", 1)
    os.write(master, b"q\n")
    assert process.wait(60) == 0
    os.close(master)
    os.close(slave)


def test_a_prompt_on_the_narrowest_terminal(record, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1")
    monkeypatch.setenv("LINES", "9")
    monkeypatch.setattr("builtins.input", lambda prompt: "q")
    terminal_module._by_lines(Session(Walk(record), list("0123456789")))
    assert max(map(len, capsys.readouterr().out.splitlines())) == 20


def run(*arguments, **environment):
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True,
                          text=True, encoding="utf-8", timeout=120, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def test_a_pipe_gets_every_stop(record):
    status, out, err = run(IMAGE)
    stops = Walk(record).stops
    places = re.findall(r"(\d+)/(\d+)$", out, re.M)
    assert (status, err, len(places)) == (0, "", len(stops)) and places[-1] == (str(len(stops)),) * 2
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80
    assert all(stop.name in out for stop in stops)
    assert " levit-np step  digit_3.png  levit_digits " in out and f"loss = {record.loss}, for the target 3\n" in out


def test_a_file_gets_the_stops_and_the_terminal_a_progress_bar(tmp_path, record):
    master, slave = pty.openpty()
    with open(tmp_path / "walk.txt", "wb") as file:
        process = subprocess.Popen([*COMMAND, IMAGE, "--only", "stages.0"], cwd=ROOT,
                                   env=ENVIRONMENT | {"TERM": "xterm"},
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=slave)
    count = len(list(Walk(record).below("stages.0")))
    read_until(master, f"{count}/{count}")
    assert process.wait(60) == 0
    os.close(master)
    os.close(slave)
    text = (tmp_path / "walk.txt").read_text(encoding="utf-8")
    assert "stages.0  Stage" in text and "\x1b" not in text


def test_the_plan_beside_the_layers():
    status, out, _ = run(IMAGE, "--only", "stages.1.downsample.attention")
    planned = [line for line in out.splitlines() if line.startswith("  plan: ")]
    assert planned == [
        "  plan: kept = x at a stride of 2 pixels; context = hardswish(softmax(q kᵀ +",
        *2 * ["  plan: kv = x weightᵀ + bias"], *2 * ["  plan: q = kept weightᵀ + bias"],  # the layer's and its BN's
        *2 * ["  plan: x = context weightᵀ + bias"]]
    assert status == 0 and "\n    bias) v)\n" in out


def test_only_some_stops_a_target_and_a_teacher():
    status, out, err = run(IMAGE, "--only", "loss", "--target", "7", "--teacher", "5")
    assert (status, err) == (0, "")
    assert "for the target 7, the teacher says 5" in out and "hard_distillation_backward" in out
    model = levit_np.load(ROOT / "weights/levit_digits.h5", backend="reference")
    assert str(trace(model, model.prepare(IMAGE)[None], 7, teacher=5).loss) in out
    status, out, _ = run(IMAGE, "--only", "head", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert status == 0 and out.isascii() and out.count("Head") >= 2
    assert "image > stem > 1 ## > 2 v## > 3 v## > mean > [heads] > loss" in out


@pytest.mark.parametrize("arguments, error", [
    (("--target", "10"), "expected a name, or a number from 0 to 9"),
    (("--teacher", "x"), "expected a name, or a number from 0 to 9"),
    (("--only", "nowhere"), "--only: expected the name of a step"), (("--weights", "none.h5"), "none.h5")])
def test_wrong_arguments_are_one_line(arguments, error):
    status, out, err = run(IMAGE, *arguments)
    assert (status, out, len(err.splitlines())) == (1, "", 1) and err.startswith("levit-np step: ") and error in err


def test_help_has_examples():
    status, out, _ = run("--help")
    assert status == 0 and "levit-np step weights/samples/digit_3.png" in out
    assert run()[0] == 2
