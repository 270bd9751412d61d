"""Records a pass through a network: the inputs and outputs of every layer and of every operation."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isfunction
from itertools import count
from sys import _getframe
from typing import Iterator

import numpy as np

from ..layers.layer import Layer
from ..model import LeViT
from . import operations
from .records import Backward, Forward, Step


@dataclass(eq=False)
class _Call:
    """One call of a layer's forward or backward."""

    name: str
    kind: str
    direction: str
    number: int
    parent: "_Call | None"
    turn: int  # how often the layer was called before
    line: int = 0  # of the call, in the parent's source


class Recorder:
    """A context manager: a second network with the model's arrays, on a backend whose calls are recorded.

    The model itself is not modified, so nothing needs to be restored and other threads may use it meanwhile."""

    def __init__(self, model: LeViT, ops):
        self.ops = _Listening(ops, self)
        self.network = LeViT(model.config, self.ops)
        self.network.set_state(model.numpy_state(), copy=False)
        self._numbers, self._turns, self._open = count(), Counter(), []
        self._forwards, self._backwards, self._steps = [], [], []
        self._copied = {}  # id of a backend array -> (the array, kept so that its id stays unique; its NumPy copy)
        for name, layer in _named(self.network):
            self._listen(name, layer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Lets go of the arrays: in cycles of references they would stay until Python's garbage collector runs."""
        for _, layer in _named(self.network):
            del layer.forward, layer.backward  # the listening ones
        vars(self).clear()

    @contextmanager
    def calling(self, name: str, kind: str, direction: str, line: int = 0):
        """A context manager: operations recorded inside belong to this call."""
        turn = self._turns[name, direction]
        call = _Call(name, kind, direction, next(self._numbers), self._open[-1] if self._open else None, turn, line)
        self._turns[name, direction] += 1
        self._open.append(call)
        yield call
        self._open.pop()

    def _listen(self, name: str, layer: Layer) -> None:
        forward, backward, kind = layer.forward, layer.backward, type(layer).__name__

        def listening_forward(x=None, *more, **options):
            with self.calling(name, kind, "forward", _getframe(1).f_lineno) as call:
                result = forward() if x is None else forward(x, *more, **options)
            self._forwards.append((call, x, result[0] if isinstance(result, tuple) else result))
            return result

        def listening_backward(dy, *saved):
            with self.calling(name, kind, "backward", _getframe(1).f_lineno) as call:
                dx = backward(dy, *saved)
            self._backwards.append((call, dy, dx, dict(layer.accumulated)))
            return dx

        layer.forward, layer.backward = listening_forward, listening_backward

    def operation(self, name: str, function):
        """`function` wrapped so that each call is recorded, together with the layer that made it."""
        called, signature = operations.operation(name), operations.signature(name)

        def listening(*arguments, **options):
            frame, number = _getframe(1), next(self._numbers)
            result = function(*arguments, **options)
            inputs = {key: _plain(value) for key, value in signature.bind(*arguments, **options).arguments.items()}
            if isinstance(result, list):
                parts = operations.assigned(frame.f_code.co_filename, frame.f_lineno)
                outputs = dict(zip(parts, result, strict=True))
            else:
                results = result if isinstance(result, tuple) else (result,)
                outputs = dict(zip(called.outputs, map(_plain, results), strict=True))
            self._steps.append((self._open[-1], number, name, frame.f_lineno, inputs, outputs))
            return result

        return listening

    def forwards(self) -> Iterator[Forward]:
        for call, x, y in self._forwards:
            yield Forward(self._name(call), call.kind, self.here(x), self.here(y), *self.place(call))

    def backwards(self) -> Iterator[Backward]:
        for call, dy, dx, gradients in self._backwards:
            yield Backward(self._name(call), call.kind, self.here(dy), self.here(dx), self.here(gradients),
                           *self.place(call))

    def steps(self) -> Iterator[Step]:
        named = [f"{self._name(call)}.{op}".lstrip(".") for call, _, op, *_ in self._steps]
        times, turn = Counter(named), Counter()
        for name, (call, number, op, line, inputs, outputs) in zip(named, self._steps):
            unique = f"{name}.{turn[name]}" if times[name] > 1 else name
            turn[name] += 1
            yield Step(number, call.direction, unique, self._name(call), call.kind, op, line, self.here(inputs),
                       self.here(outputs))

    def here(self, value):
        """Arrays, or tuples and dictionaries of them, as NumPy arrays; each array is converted only once."""
        if isinstance(value, dict):
            return {key: self.here(part) for key, part in value.items()}
        if hasattr(value, "probabilities"):  # attention's second result, on a backend that recomputes them
            return self._copied.setdefault(id(value), (value, self.ops.to_host(value.probabilities())))[1]
        if isinstance(value, tuple):
            return tuple(map(self.here, value))
        if not hasattr(value, "shape"):
            return value
        return self._copied.setdefault(id(value), (value, self.ops.to_host(value)))[1]

    def place(self, call: _Call) -> tuple[int, str | None, int]:
        """(number, parent, line), the last fields of a layer's record."""
        return call.number, call.parent and self._name(call.parent), call.line

    def _name(self, call: _Call) -> str:
        """The layer's name, with its turn if it was called repeatedly; backward undoes the last turn first."""
        times = self._turns[call.name, call.direction]
        if times == 1:
            return call.name
        return f"{call.name}.{call.turn if call.direction == 'forward' else times - 1 - call.turn}"


class _Listening:
    """The operations of a backend, wrapped so that every call is recorded."""

    def __init__(self, ops, recorder: Recorder):
        self._ops, self._recorder = ops, recorder

    def __getattr__(self, name):
        found = getattr(self._ops, name)
        if isfunction(found) and name in operations.names():
            found = self._recorder.operation(name, found)
        setattr(self, name, found)
        return found


def _plain(value):
    """A NumPy scalar as a Python number, a dtype as its name."""
    if isinstance(value, np.dtype):
        return value.name
    return value.item() if getattr(value, "shape", None) == () else value


def _named(network: LeViT) -> Iterator[tuple[str, Layer]]:
    """(name as in Trace, layer) of every layer below the network."""
    names = {id(layer): name for name, layer in network.walk()}
    for layer in _below(network):
        inner = layer
        while id(inner) not in names:
            inner = inner.branch
        yield names[id(inner)] + ("" if inner is layer else f".{type(layer).__name__.lower()}"), layer


def _below(layer: Layer) -> Iterator[Layer]:
    for _, child in layer.children():
        yield child
        yield from _below(child)
