"""Runs the walk on a terminal: full screen if single keys can be read, else with a prompt; in a pipe, prints all
stops."""

import os
import select
import signal
import stat
import sys
from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from .screen import Page, View, show
from .session import TEXT, Session
from .walk import Walk

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"  # switch to the alternate screen, hide the cursor, clear
_LEAVE = "\x1b[?25h\x1b[?1049l"
_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}


def walk_through(walk: Walk, labels, only: str | None, progress) -> None:
    """On a terminal, an interactive walk that begins at the stop `only`; otherwise prints all stops, or those that
    `only` names.

    progress(count, what): a context manager that yields a function to call after each stop. It is used only if the
    output is a file: behind a pipe, another program may be using the terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print_all(walk, labels, only, progress if _into_file() else None)
        return
    session = Session(walk, labels)
    if only:
        session.do("g", only)
    if os.environ.get("TERM", "dumb") == "dumb" or not _has_termios():
        _by_lines(session)
    else:
        _by_keys(session)


def print_all(walk: Walk, labels, only: str | None, progress) -> None:
    """Prints every stop, or those that `only` names with their parts, 80 columns wide and without colour."""
    console = Console(width=80, no_color=True, highlight=False, markup=False, emoji=False)
    page, stops = Page(80, None, False, _unicode()), list(walk.below(only)) if only else walk.stops
    with progress(len(stops), "steps") if progress else nullcontext(lambda: None) as advance:
        for stop in stops:
            for line in show(walk, stop, View(), page, labels):
                line.rstrip()
                console.print(line, soft_wrap=True)
            console.print()
            advance()


def _into_file() -> bool:
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # stdout was replaced by a buffer
        return False


def _unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()


def _has_termios() -> bool:
    try:
        import termios  # noqa: F401  (Windows has none)
    except ImportError:
        return False
    return True


def _colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _by_lines(session: Session) -> None:
    """Reads one command per line: `n`, `g head`, `v y[0]`."""
    console = Console(highlight=False, markup=False, emoji=False)
    while not session.ended:
        width = max(20, min(console.width, 100))
        for line in session.lines(Page(width, None, _colour(console), _unicode())):
            console.print(line, soft_wrap=True)
        try:
            command, _, text = input("step> ").strip().partition(" ")
        except EOFError:
            return
        if command[:1] in TEXT and len(command) > 1 and not text:  # /word
            command, text = command[0], command[1:]
        session.do(command or "n", text)


def _by_keys(session: Session) -> None:
    with _Keys() as keys:
        console = Console(highlight=False, markup=False, emoji=False)
        while not session.ended:
            _draw(session, console, keys)
            key = keys.read()
            if key in TEXT:
                text = _written(session, console, keys, TEXT[key])
                if text is not None:
                    session.do(key, text)
            elif key:
                session.do(key)


def _draw(session: Session, console: Console, keys: "_Keys", foot: str | None = None) -> None:
    width, height = os.get_terminal_size(sys.stdout.fileno())
    lines = session.lines(Page(max(width, 20), max(height, 5), _colour(console), _unicode()))
    if foot is not None:
        lines[-1] = Text(foot[-(width - 1) :])
    with console.capture() as capture:
        for line in lines[:height]:
            console.print("\x1b[2K", line, sep="", soft_wrap=True, end="\r\n")
    # Wrapping is off, and the last line has no newline, so that nothing scrolls.
    shown = capture.get().removesuffix("\r\n")
    keys.write(f"\x1b[?25l\x1b[?7l\x1b[H{shown}\x1b[J\x1b[?7h" + ("\x1b[?25h" if foot is not None else ""))


def _written(session: Session, console: Console, keys: "_Keys", asked: str) -> str | None:
    """A line of text read from single keys; None if it was cancelled with Escape."""
    text = ""
    while True:
        _draw(session, console, keys, asked + text)
        key = keys.read()
        if key in ("\r", "\n"):
            return text
        if key == "escape":
            return None
        if key in ("\x7f", "\b"):
            text = text[:-1]
        elif key == "\x15":  # Ctrl-U
            text = ""
        elif len(key) == 1 and key.isprintable():
            text += key


class _Keys:
    """A context manager that reads single keys and always restores the terminal."""

    def __enter__(self):
        import termios

        self.termios, self.input, self.output = termios, sys.stdin.fileno(), sys.stdout.fileno()
        self.before = termios.tcgetattr(self.input)
        self.woken, self.wake = os.pipe()  # lets a signal handler interrupt waiting for a key
        os.set_blocking(self.wake, False)
        self.handlers = {number: signal.signal(number, handler) for number, handler in (
            (signal.SIGWINCH, self._resized), (signal.SIGTERM, self._ended), (signal.SIGHUP, self._ended),
            (signal.SIGTSTP, self._stopped), (signal.SIGCONT, self._continued))}
        try:
            self._take()
        except BaseException:  # Ctrl-C
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.handlers[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        for number in self.handlers:  # a second Ctrl-C, say, must not interrupt restoring the terminal
            signal.signal(number, signal.SIG_IGN)
        self._give_back()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        os.close(self.woken)
        os.close(self.wake)

    def _take(self):
        import tty

        tty.setcbreak(self.input)  # keys arrive at once, without echo; Ctrl-C still interrupts
        os.write(self.output, _ENTER.encode())

    def _give_back(self):
        os.write(self.output, _LEAVE.encode())  # not sys.stdout, which the signal may have interrupted while writing
        self.termios.tcsetattr(self.input, self.termios.TCSADRAIN, self.before)

    def write(self, text: str):
        sys.stdout.write(text)
        sys.stdout.flush()

    def _resized(self, *_):
        os.write(self.wake, b"r")

    def _ended(self, number, _):
        raise SystemExit(128 + number)

    def _stopped(self, *_):
        """Ctrl-Z: restores the terminal for the shell, then stops."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continued(self, *_):
        self._take()
        os.write(self.wake, b"r")

    def read(self) -> str:
        """A character, the name of an arrow key, "escape", or "" after a change of the window's size."""
        ready, _, _ = select.select([self.input, self.woken], [], [])
        if self.woken in ready:
            os.read(self.woken, 1024)
            return ""
        data = os.read(self.input, 1)
        if not data:  # the terminal was closed
            raise SystemExit(1)
        while True:  # read the rest of a multi-byte character
            try:
                text = data.decode()
                break
            except UnicodeDecodeError:
                if len(data) > 3:
                    return ""
                data += os.read(self.input, 1)
        return self._sequence() if text == "\x1b" else text

    def _sequence(self) -> str:
        """Reads what follows an escape character: an arrow key sends letters at once, the Escape key nothing."""
        text = ""
        while select.select([self.input], [], [], 0.05)[0]:
            text += os.read(self.input, 1).decode(errors="replace")
            if text[-1].isalpha() or text[-1] == "~":
                return _ARROWS.get(text[-1], "") if text[:1] in ("[", "O") else ""
        return "" if text else "escape"
