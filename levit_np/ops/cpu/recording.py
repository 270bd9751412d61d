"""A training step recorded as it runs, to be replayed without Python in between: each pass over memory drives what
Python needs out of the caches, and then each of some hundred calls takes as long as tens of thousands of multiply-adds.

A recording consists of programs, the steps of all kernels that ran, and calls of functions that have no kernel, in
order. A replay uses the same arrays again; an array that neither a step nor a call made would keep the values of the
first time for ever. Therefore everything that a step or call is given must be known: an array that the function was
said to read, one that an operation made, or a constant (integers, which are tables here, or what is not writeable)."""

import threading
from array import array
from functools import wraps
from types import SimpleNamespace

import numpy as np

from . import blocks
from . import training_step as step
from .library import library
from .threads import run_with_threads, threads

_here = threading.local()


def recording():
    """This thread's recording in progress, or None."""
    return getattr(_here, "recording", None)


def captured(function, arrays=()):
    """A function that repeats what function()'s operations do, in the same memory, and returns the same arrays.

    function() is called once, now, and the first replay returns that result; only the later ones compute. arrays: all
    that it reads and does not make. Raises RuntimeError where it computes by anything but this backend's operations."""
    written = _Recording()
    with written:
        written.learn(*arrays)
        result = function()
        written.require_known(result)
    first = [result]

    def replay():
        if first:
            return first.pop()
        written.replay()
        return result

    return replay


def repeated(operation):
    """The operation; a recording calls it again at each replay if it runs no kernels."""
    @wraps(operation)
    def call(*arguments, **named):
        now = recording()
        return operation(*arguments, **named) if now is None or now.inside else now.call(operation, arguments, named)

    return call


def computed(function, *arguments):
    """function(*arguments), a NumPy function inside an operation that runs kernels, recorded as a call."""
    now = recording()
    return function(*arguments) if now is None else now.call(function, arguments, {})


class _Recording:
    """While this is entered, this thread's operations are both run and recorded."""

    def __init__(self):
        self._parts, self._numbers = [], array("q")  # programs and calls, in order; the rows of the next program
        self._known, self._kept, self._blocks = set(), [], blocks.Blocks()
        self.threads, self.inside, self.scratch = threads(), False, SimpleNamespace()

    def __enter__(self):
        self._others = blocks.use(self._blocks)
        self._blocks.take_over(self._others)
        self._blocks.begin()
        _here.recording = self

    def __exit__(self, kind, *_):
        _here.recording = None
        blocks.use(self._others)
        self._end_program()
        self._blocks.end()
        if kind:
            self._others.take_over(self._blocks)

    def learn(self, *arrays) -> None:
        """Makes arrays known, those the function reads and those that an operation makes, and keeps them alive."""
        for known in arrays:
            owner = _owner(known)
            if id(owner) in self._known:
                continue
            self._known.add(id(owner))
            if not self._blocks.holds(owner):  # another reference would mark the block as in use
                self._kept.append(owner)

    def require_known(self, value) -> None:
        for found in _arrays(value):
            constant = found.dtype.kind != "f" or isinstance(found, np.ndarray) and not found.flags.writeable
            if not constant and id(_owner(found)) not in self._known:
                raise RuntimeError(f"expected arrays of the backend's operations, found one of shape {found.shape} "
                                   "that something else made")

    def steps(self, numbers: list, arrays: list) -> None:
        """Adds rows to the program, and keeps the arrays whose addresses they hold."""
        self.require_known(tuple(arrays))
        self._kept += [given for given in arrays if given.dtype.kind != "f"]  # tables of int64
        self._numbers.extend(numbers)

    def call(self, function, arguments, named):
        """function(*arguments, **named), recorded as a call unless it runs kernels, which record themselves."""
        given = *arguments, *named.values()
        self.require_known(given)
        outer, self.inside, before = self.inside, True, self._length()
        try:
            result = function(*arguments, **named)
        finally:
            self.inside = outer
        if self._length() != before:
            return result
        result = _as_arrays(result)
        # A view of an argument needs no repeating.
        made = [None if any(np.may_share_memory(found, other) for other in _arrays(given)) else found
                for found in _arrays(result)]
        if result is None or any(found is not None for found in made):
            self.learn(*(found for found in made if found is not None))
            self._end_program()
            self._parts.append(lambda: _renew(made, function(*arguments, **named)))
        return result

    def replay(self) -> None:
        """Runs all of it once."""
        count, run = min(self.threads, threads()), library("training_kernels").run  # there is scratch for so many
        for part in self._parts:
            if callable(part):
                part()
                continue
            program, last = part.buffer_info()[0], len(part) // step.COLUMNS
            run_with_threads(lambda thread, counter: run(program, 0, last, thread, count, counter), count)

    def _length(self):
        return len(self._parts), len(self._numbers)

    def _end_program(self):
        if self._numbers:
            self._parts.append(self._numbers)
            self._numbers = array("q")


def _owner(found):
    """The array that owns its memory."""
    while isinstance(getattr(found, "base", None), np.ndarray):
        found = found.base
    return found


def _arrays(value):
    """All arrays and NumPy scalars in it, inside tuples and lists too."""
    if isinstance(value, (np.ndarray, np.generic)):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays(part)


def _as_arrays(value):
    """The same with NumPy scalars as arrays, which can be written to."""
    if isinstance(value, np.generic):
        return np.array(value)
    if type(value) in (tuple, list):
        return type(value)(map(_as_arrays, value))
    return value


def _renew(arrays, values) -> None:
    """Writes a call's new results into the arrays of the first time."""
    for own, value in zip(arrays, _arrays(values)):
        if own is not None:
            own[...] = value
