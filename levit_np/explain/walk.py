"""The way through a trace: its calls as a tree of stops, in order, and how to get from one to another."""

from dataclasses import dataclass, field
from typing import Iterator

from . import operations
from .inside import Inside, Line, look_inside
from .records import Backward, Forward, Step
from .trace import Trace


@dataclass(eq=False, repr=False)
class Stop:
    """One call: of a layer, or of an operation within it; or one line of an operation."""

    name: str  # the record's; "" is the network, "loss" the loss; of a line the operation's
    kind: str  # the layer's class, or the operation
    direction: str  # "forward" or "backward"
    record: Forward | Backward | Step | Line | None  # None of the loss
    parent: "Stop | None" = None
    parts: list["Stop"] = field(default_factory=list)
    place: int = 0  # in the walk, from 1
    inputs: dict = field(default_factory=dict)  # of a line: what its operation was given

    @property
    def is_operation(self) -> bool:
        return isinstance(self.record, Step)

    @property
    def is_line(self) -> bool:
        return isinstance(self.record, Line)

    @property
    def operation(self) -> "Stop | None":
        """The operation that a line belongs to, or that this is."""
        return self.parent.operation if self.is_line else self if self.is_operation else None

    @property
    def formula(self) -> str:
        if self.kind not in operations.names():
            return "" if self.is_line else operations.layer_formula(self.kind)[0]
        return operations.operation(self.kind).formula

    @property
    def shapes(self) -> str:
        if self.kind in operations.names():
            return operations.operation(self.kind).shapes
        return "" if self.is_line or self.direction == "backward" else operations.layer_shapes(self.kind)


class Walk:
    """All stops of a trace, forward, loss, backward; each is followed by its parts.

    The network, the loss and the parts of the network stand side by side, so that `next` goes from the stem over the
    stages to the heads, the loss and back to the stem."""

    def __init__(self, trace: Trace):
        self.trace, self.stops, self._by_name = trace, [], {}
        for record in sorted([*trace.forward, *trace.backward, *trace.steps], key=lambda record: record.number):
            self._add(record)

    def _add(self, record):
        if isinstance(record, Step):
            parent = self._by_name.get((record.direction, record.layer))
            if parent is None:  # the loss is a layer without a record
                parent = self._append(Stop(record.layer, record.kind, record.direction, None))
            stop = Stop(record.name, record.op, record.direction, record, parent)
        else:
            direction = "forward" if isinstance(record, Forward) else "backward"
            parent = self._by_name[direction, record.parent] if record.parent is not None else None
            stop = Stop(record.name, record.kind, direction, record, parent)
        if stop.parent and stop.parent.name == "":
            stop.parent = None
        self._append(stop)

    def _append(self, stop: Stop) -> Stop:
        self.stops.append(stop)
        stop.place = len(self.stops)
        if not stop.is_operation:
            self._by_name[stop.direction, stop.name] = stop
        if stop.parent:
            stop.parent.parts.append(stop)
        return stop

    def beside(self, stop: Stop) -> list[Stop]:
        """The stops of one level, itself among them."""
        return stop.parent.parts if stop.parent else [other for other in self.stops if other.parent is None]

    def next(self, stop: Stop) -> Stop | None:
        """The next of its level; behind the last, the next of the level above.  None at the end."""
        level = self.beside(stop)
        place = level.index(stop) + 1
        if place < len(level):
            return level[place]
        return self.next(stop.parent) if stop.parent else None

    def previous(self, stop: Stop) -> Stop | None:
        """The one before it on its level; before the first, what they are parts of."""
        level = self.beside(stop)
        place = level.index(stop) - 1
        return level[place] if place >= 0 else stop.parent

    def into(self, stop: Stop) -> Stop | None:
        """Its first part: a layer's calls, an operation's lines, those of an operation that a line calls; of a line
        that calls none, the next."""
        if stop.name == "" and not stop.is_line:
            return self.stops[stop.place]
        if stop.is_operation and not stop.parts:
            stop.parts = _lines(look_inside(stop.record), stop)
        return stop.parts[0] if stop.parts else self.next(stop)

    def out(self, stop: Stop) -> Stop | None:
        """What it is a part of; of a part of the network, the network."""
        return stop.parent or self._by_name.get((stop.direction, "")) if stop.name else None

    def turned(self, stop: Stop, direction: str) -> Stop | None:
        """The same layer's, or operation's, stop in the other direction; None where there is none."""
        stop = stop.operation or stop
        if stop.direction == direction:
            return stop
        layer = stop.record.layer if stop.is_operation else stop.name
        other = self._by_name.get((direction, layer))
        if other is None or not stop.is_operation:
            return other
        wanted = stop.kind + "_backward" if direction == "backward" else stop.kind.removesuffix("_backward")
        same = [part for part in (other.parts or self.beside(other)) if part.kind == wanted]
        return same[0] if len(same) == 1 else other

    def find(self, text: str) -> list[Stop]:
        """The stops whose name is `text`; if none, those whose name ends in it; if none, what search finds."""
        wanted = text.strip().lower()
        for fits in (lambda stop: stop.name.lower() == wanted, lambda stop: stop.name.lower().endswith(f".{wanted}")):
            if found := [stop for stop in self.stops if wanted and fits(stop)]:
                return found
        return self.search(text)

    def search(self, text: str) -> list[Stop]:
        """The stops that have `text` in their name, kind or formula."""
        wanted = text.strip().lower()
        return [stop for stop in self.stops if wanted and wanted in f"{stop.name} {stop.kind} {stop.formula}".lower()]

    def below(self, text: str) -> Iterator[Stop]:
        """The stops that `text` names, with all their parts: what --only prints."""
        wanted, kept = set(map(id, self.find(text))), set()
        for stop in self.stops:
            if id(stop) in wanted or stop.parent and id(stop.parent) in kept:
                kept.add(id(stop))
                yield stop


def _lines(call: Inside, parent: Stop) -> list[Stop]:
    """A stop a line; the lines of what a line calls are its parts."""
    stops = []
    for line in call.lines:
        stop = Stop(parent.name, call.op, parent.direction, line, parent, place=parent.place, inputs=call.inputs)
        stop.parts = [part for inner in line.calls for part in _lines(inner, stop)]
        stops.append(stop)
    return stops
