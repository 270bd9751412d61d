"""Shows what an operation computes line by line.  Operations are pure functions, so one can be run again from its
recorded inputs, with a trace function watching its lines; nothing needs to be stored until then."""

import ast
import sys
import textwrap
from functools import cache
from inspect import getsource, isfunction
from typing import NamedTuple

import numpy as np

from ..ops import reference
from . import operations
from .records import Step


class Line(NamedTuple):
    """One line of an operation that was executed."""

    number: int  # in its file
    times: int  # how often it was executed
    values: dict[str, object]  # the variables that it assigned the last time, or the values that it returned
    calls: tuple["Inside", ...]  # the operations that it called the last time


class Inside(NamedTuple):
    """One call of a function of ops/reference, with its lines in the order in which they were first executed."""

    op: str
    inputs: dict[str, object]
    outputs: dict[str, object]
    lines: tuple[Line, ...]


def look_inside(step: Step) -> Inside:
    """Runs the step's operation again in ops/reference; if the trace was recorded there, its outputs are the recorded
    ones bit by bit."""
    function = vars(reference)[step.op]
    watch = _Watch()
    before = sys.gettrace()
    sys.settrace(watch.entered)
    try:
        function(**step.inputs)
    finally:
        sys.settrace(before)
    return watch.finished[0]


class _Open:
    """A call that has not returned yet."""

    def __init__(self, frame):
        self.code, self.inputs, self.line = frame.f_code, dict(frame.f_locals), None
        self.lines: dict[int, list] = {}  # statement -> [times, values, calls]

    def begins(self, line: int):
        """The statement that contains this line (not necessarily its first line) starts."""
        statement = _statement(self.code, line)
        if statement is None:
            return
        self.line = statement.lineno
        entry = self.lines.setdefault(statement.lineno, [0, {}, []])
        entry[0] += 1
        entry[2] = []

    def ends(self, variables: dict):
        """The current statement has ended: keeps copies of what it assigned, as a later line may write into it."""
        if self.line is not None:
            names = _assigned(self.code, self.line)
            self.lines[self.line][1] = {name: _copy(variables[name]) for name in names if name in variables}


class _Watch:
    def __init__(self):
        self.open, self.finished = [], []

    def entered(self, frame, event, _):
        if frame.f_code not in _functions():
            return None
        self.open.append(_Open(frame))
        return self.within

    def within(self, frame, event, result):
        call = self.open[-1]
        if event in ("line", "return"):
            call.ends(frame.f_locals)
        if event == "line":
            call.begins(frame.f_lineno)
        elif event == "return":
            self.open.pop()
            self._finish(call, result)
        return self.within

    def _finish(self, call: _Open, result):
        name = _functions()[call.code]
        outputs = _results(name, result)
        if call.line is not None and not call.lines[call.line][1]:
            call.lines[call.line][1] = outputs
        lines = tuple(Line(number, times, values, tuple(calls))
                      for number, (times, values, calls) in call.lines.items())
        inside = Inside(name, call.inputs, outputs, lines)
        if self.open and self.open[-1].line is not None:
            self.open[-1].lines[self.open[-1].line][2].append(inside)
        self.finished.append(inside)
        self.finished = self.finished[-1:]


def _results(name: str, result) -> dict:
    if isinstance(result, list):
        return {f"part.{i}": part for i, part in enumerate(result)}
    results = result if isinstance(result, tuple) else (result,)
    names = operations.operation(name).outputs if name in operations.names() else ()
    return dict(zip(names, results)) if len(names) == len(results) else {
        f"result.{i}" if len(results) > 1 else "result": value for i, value in enumerate(results)}


@cache
def _functions() -> dict:
    """{code object: name} of all functions in ops/reference, including helpers."""
    return {value.__code__: name for module in _modules() for name, value in vars(module).items()
            if isfunction(value) and value.__module__ == module.__name__}


def function_named(name: str):
    """The function of that name in ops/reference, which may be a helper."""
    return next(vars(module)[name] for module in _modules()
                if getattr(vars(module).get(name), "__module__", None) == module.__name__)


def _modules():
    modules = list(sys.modules.items())  # a copy: another thread may import modules meanwhile
    return [module for name, module in modules if name.startswith(f"{reference.__name__}.")]


@cache
def _statements(code) -> tuple[ast.stmt, ...]:
    """The statements of a function, without its docstring, with their line numbers in the file."""
    tree = ast.parse(textwrap.dedent(getsource(code)))
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    function = tree.body[0]
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return tuple(node for statement in body for node in ast.walk(statement) if isinstance(node, ast.stmt))


def _statement(code, line: int) -> ast.stmt | None:
    """The innermost statement that contains the line."""
    fitting = [node for node in _statements(code) if node.lineno <= line <= node.end_lineno]
    return fitting[-1] if fitting else None


@cache
def _assigned(code, line: int) -> tuple[str, ...]:
    """The variables that the statement writes: `y` in `y += …` and in `y[…] = …`, `i` in `for i in …`."""
    names = []
    for node in _statements(code):
        if node.lineno == line:
            targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
            names += [_root(part) for target in targets if target for part in getattr(target, "elts", [target])]
    return tuple(dict.fromkeys(filter(None, names)))


def _root(target) -> str | None:
    """The variable that is written through an index, an attribute, or a view returned by a function of it."""
    while not isinstance(target, ast.Name):
        if isinstance(target, ast.Call):
            if not target.args:
                return None
            target = target.args[0]
        elif isinstance(target, (ast.Subscript, ast.Attribute, ast.Starred)):
            target = target.value
        else:
            return None
    return target.id


def _copy(value):
    if isinstance(value, tuple):
        return tuple(map(_copy, value))
    return value.copy() if isinstance(value, np.ndarray) else value
