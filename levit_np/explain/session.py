"""An interactive walk through a trace: the current position, and what each command does."""

from rich.text import Text

from ..errors import LevitError
from .ask import arrays_at, look_up
from .screen import Page, View, fitted, show
from .walk import Walk

HELP = """\
n →  the next step of this level            p ←  the previous one
s ↓  into a step: a layer's operations,     o ↑  out again
     an operation's lines
b    the backward of the current step       f    its forward
g    go to a step: g head, g stages.1.blocks.0.mlp, g up.linear
/    search names, operations and formulas; / and Enter: the next hit
v    show values: v y, v probabilities[0, 2, :5], v head.weight[7]
a    show another array as the picture      + -  another plane of it
?    this help                              q    quit

The table: shapes are batch×channels×height×width in the stem,
batch×tokens×channels after it, batch×heads×queries×keys in attention.
> marks the step's results; `values` is a histogram from min to max.
The picture: red is above 0, blue below; without colour, darker is
higher. If several values share a dot, it shows their mean.
The arrow marks the current line of source: of the layer that calls the
step or, once inside, of the operation itself.

? again: a glossary
"""
WORDS = """\
token       the features of one patch of the image: a row of channels
channel     one number of a pixel or token; each responds to something else
head        one of several attentions in parallel, each with its own q, k, v
q, k, v     query, key, value: what a token looks for, offers, and passes on
softmax     turns scores into weights that sum to 1
logit       the score of a class before the softmax; the largest is the answer
BN          gamma (x - mean) / deviation + beta, for each channel
parameter   a number that training sets: weight, gamma, beta, bias, table
plan        what fast evaluation computes instead, BN folded into weights
residual    x + branch(x): the branch corrects its input
stage       blocks of one resolution; from stage to stage, fewer tokens
stride      how far a window moves; 2 halves the width and height
loss        how wrong the answer is: -log of the target's probability
gradient    dy for y: the change of the loss per unit of a small change of y
forward     from the image to the answer
backward    from the loss to every gradient, the last layer first

B images   N tokens   C, O channels in, out   H, W height, width   K window
D, V size of keys, values   Nq, Nk queries, keys   ᵀ transposed   Σ sum
"""
_KEYS = "n/p next/previous  s/o into/out  b/f backward/forward  v value  ? help  q quit"
TEXT = {"g": "go to: ", "/": "search: ", "v": "value: "}  # commands that need an argument: their prompts
_ALIASES = {"\r": "n", "\n": "n", "right": "n", "left": "p", "down": "s", "up": "o", " ": "s", "=": "+", "_": "-"}


class Session:
    """The state of an interactive walk.  do(command, text) changes it; lines(page) displays it."""

    def __init__(self, walk: Walk, labels=()):
        self.walk, self.labels = walk, labels
        self.stop, self.view = walk.stops[0], View()
        self.message, self.helping, self.ended = "", "", False
        self._named, self._searched = "", ""  # by g, by /

    def do(self, command: str, text: str = "") -> None:
        """Executes a command, a key or the first word of a line, with its argument; errors become the message."""
        command = _ALIASES.get(command, command)
        self.message, helped, self.helping = "", self.helping, ""
        try:
            if command in _MOVES:
                self._go(*_MOVES[command](self))
            elif command in _OTHERS:
                _OTHERS[command](self, text.strip())
            elif command == "?":
                self.helping = WORDS if helped == HELP else HELP
            elif command == "q":
                self.ended = not helped  # q first closes the help
            elif command != "escape":
                raise LevitError(f"{command!a} is not a command; ? lists them")
        except LevitError as error:
            self.message = str(error)

    def lines(self, page: Page) -> list[Text]:
        """The stop, or the help, and a last line with the message or the most common keys."""
        if page.height is not None:
            page = Page(page.width, max(1, page.height - 1), page.colour, page.unicode)
        if self.helping:
            body = [Text(line) for line in self.helping.splitlines()][: page.height]
            body = [fitted(line, page) for line in body] + [Text()] * ((page.height or 0) - len(body))
        else:
            body = show(self.walk, self.stop, self.view, page, self.labels)
        foot = Text(self.message or _KEYS, "bold" if self.message else "dim")
        foot.truncate(page.width, overflow="ellipsis")
        return [*body, fitted(foot, page)]

    def _go(self, stop, otherwise: str):
        if stop is None:
            raise LevitError(otherwise)
        self.stop, self.view = stop, View()

    def turn(self, direction: str):
        """(the same stop in the other direction or None, the message if it is None)."""
        if self.walk.trace.backward or direction == "forward":
            return self.walk.turned(self.stop, direction), f"nothing here has a {direction} of its own"
        return None, "this walk has no backward: it was made without a target"

    def _find(self, text: str):
        self._named = text or self._named
        self._go_to_next(self.walk.find(self._named), self._named, "g")

    def _search(self, text: str):
        self._searched = text or self._searched
        self._go_to_next(self.walk.search(self._searched), self._searched, "/")

    def _go_to_next(self, found: list, text: str, command: str):
        """Goes to the first of the found stops after the current one, or else to the first of all."""
        here = (self.stop.operation or self.stop).place
        self._go(next((stop for stop in found if stop.place > here), found[0] if found else None),
                 f"no step is called {text!a:.60}; / searches names, operations and formulas")
        if len(found) > 1:
            self.message = f"{found.index(self.stop) + 1} of {len(found)}; {command} and Enter goes to the next"

    def _ask(self, text: str):
        if not text:
            raise LevitError(f"expected a name: {', '.join(arrays_at(self.stop, self.walk))}")
        self.view.asked = look_up(text, self.stop, self.walk)

    def _another_array(self, _):
        names = list(arrays_at(self.stop, self.walk))
        self.view.array, self.view.plane = (-1 if self.view.array is None else self.view.array) + 1, 0
        self.view.asked = None
        self.message = f"the picture shows {names[self.view.array % len(names)]}" if names else "nothing to show"

    def _plane(self, step: int):
        self.view.plane, self.view.asked = self.view.plane + step, None


_END = "the end of the walk; p goes back, q quits"
_MOVES = {
    "n": lambda session: (session.walk.next(session.stop), _END),
    "p": lambda session: (session.walk.previous(session.stop), "the beginning of the walk"),
    "s": lambda session: (session.walk.into(session.stop), _END),
    "o": lambda session: (session.walk.out(session.stop), "this is the network: nothing is around it"),
    "b": lambda session: session.turn("backward"),
    "f": lambda session: session.turn("forward"),
}
_OTHERS = {
    "g": Session._find, "/": Session._search, "v": Session._ask, "a": Session._another_array,
    "+": lambda session, _: session._plane(1), "-": lambda session, _: session._plane(-1),
}
