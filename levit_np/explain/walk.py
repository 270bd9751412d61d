"""A walk through a trace: its calls as a tree of stops, in order, and the moves between them."""

from dataclasses import dataclass, field
from typing import Iterator

from . import operations
from .inside import Inside, Line, look_inside
from .records import Backward, Forward, Step
from .trace import Trace


@dataclass(eq=False, repr=False)
class Stop:
    """One stop: a call of a layer, a call of an operation within it, or one line of an operation."""

    name: str  # the record's name; "" is the network, "loss" the loss; for a line, its operation's name
    kind: str  # the layer's class, or the operation
    direction: str  # "forward" or "backward"
    record: Forward | Backward | Step | Line | None  # None for the loss
    parent: "Stop | None" = None
    parts: list["Stop"] = field(default_factory=list)
    place: int = 0  # position in the walk, counted from 1
    inputs: dict = field(default_factory=dict)  # for a line: the arguments of its operation

    @property
    def is_operation(self) -> bool:
        return isinstance(self.record, Step)

    @property
    def is_line(self) -> bool:
        return isinstance(self.record, Line)

    @property
    def operation(self) -> "Stop | None":
        """This stop if it is an operation, the operation that a line belongs to, None for a layer."""
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
    """All stops of a trace: forward, loss, backward; each is followed by its parts.

    The network, the loss and the parts of the network are on one level, so that `next` goes from the stem through the
    stages to the heads, the loss and back to the stem. plan: {layer: formula} of the steps that fast evaluation takes
    instead."""

    def __init__(self, trace: Trace, plan: dict[str, str] | None = None):
        self.trace, self.plan, self.stops, self._by_name = trace, plan or {}, [], {}
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
        """The stops on the same level, including this one."""
        return stop.parent.parts if stop.parent else [other for other in self.stops if other.parent is None]

    def next(self, stop: Stop) -> Stop | None:
        """The next stop on the same level; after the last, the next on the level above.  None at the end."""
        level = self.beside(stop)
        place = level.index(stop) + 1
        if place < len(level):
            return level[place]
        return self.next(stop.parent) if stop.parent else None

    def previous(self, stop: Stop) -> Stop | None:
        """The stop before it on the same level; before the first, their parent."""
        level = self.beside(stop)
        place = level.index(stop) - 1
        return level[place] if place >= 0 else stop.parent

    def into(self, stop: Stop) -> Stop | None:
        """Its first part: of a layer, its first call; of an operation, its first line; of a line, the first line of an
        operation that it calls, else the next line."""
        if stop.name == "" and not stop.is_line:
            return self.stops[stop.place]
        if stop.is_operation and not stop.parts:
            stop.parts = _lines(look_inside(stop.record), stop)
        return stop.parts[0] if stop.parts else self.next(stop)

    def out(self, stop: Stop) -> Stop | None:
        """Its parent; for a part of the network, the network."""
        return stop.parent or self._by_name.get((stop.direction, "")) if stop.name else None

    def turned(self, stop: Stop, direction: str) -> Stop | None:
        """The stop of the same layer or operation in the given direction; None if there is none."""
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

    def planned(self, stop: Stop) -> str:
        """What fast evaluation computes in place of a layer; of a BN, the step that it is folded into; "" if neither.
        """
        name = stop.name.removesuffix(".bn") if stop.name not in self.plan else stop.name
        return self.plan.get(name, "") if isinstance(stop.record, Forward) else ""

    def find(self, text: str) -> list[Stop]:
        """The stops whose name is `text`; if none, those whose name ends in it; if none, what search finds."""
        wanted = text.strip().lower()
        for fits in (lambda stop: stop.name.lower() == wanted, lambda stop: stop.name.lower().endswith(f".{wanted}")):
            if found := [stop for stop in self.stops if wanted and fits(stop)]:
                return found
        return self.search(text)

    def search(self, text: str) -> list[Stop]:
        """The stops with `text` in their name, kind or formula."""
        wanted = text.strip().lower()
        return [stop for stop in self.stops if wanted and wanted in f"{stop.name} {stop.kind} {stop.formula}".lower()]

    def below(self, text: str) -> Iterator[Stop]:
        """The stops that `text` names, with all their parts: the output of --only."""
        wanted, kept = set(map(id, self.find(text))), set()
        for stop in self.stops:
            if id(stop) in wanted or stop.parent and id(stop.parent) in kept:
                kept.add(id(stop))
                yield stop


def _lines(call: Inside, parent: Stop) -> list[Stop]:
    """One stop per line; the lines of the operations that a line calls are its parts."""
    stops = []
    for line in call.lines:
        stop = Stop(parent.name, call.op, parent.direction, line, parent, place=parent.place, inputs=call.inputs)
        stop.parts = [part for inner in line.calls for part in _lines(inner, stop)]
        stops.append(stop)
    return stops
