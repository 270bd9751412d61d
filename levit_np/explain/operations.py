"""Descriptions of operations and layers, read from the source of ops/reference and layers, so that they always match
it: the formula and the names of the results from the docstring, and the lines of code."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..layers.layer import Layer
from ..ops import reference

PACKAGE = Path(__file__).resolve().parent.parent


class Source(NamedTuple):
    """The lines of one function."""

    file: str  # below the package: ops/reference/linear.py
    first: int  # the number of the first line
    lines: tuple[str, ...]


class Operation(NamedTuple):
    """A function of ops/reference.  The first sentence of its docstring is `formula: meaning`, and the shapes are given
    around an arrow after it; `outputs` are the names of the results in order (one name for a list of parts)."""

    name: str
    formula: str
    meaning: str
    shapes: str  # `x (..., C), w (O, C) -> y (..., O)`, or ""
    outputs: tuple[str, ...]
    source: Source


@cache
def names() -> frozenset[str]:
    """The names of all operations that the reference backend defines."""
    return frozenset(name for name, value in vars(reference).items() if inspect.isfunction(value)
                     and value.__module__.startswith(reference.__name__) and not name.startswith("_"))


@cache
def operation(name: str) -> Operation:
    """The operation of that name.  Raises KeyError for a name that is no operation."""
    function = vars(reference)[name]
    document = _document(function)
    formula, meaning = _first_sentence(document)
    return Operation(name, formula, meaning, _shapes(document), _results(document, formula), source_of(function))


@cache
def signature(name: str) -> inspect.Signature:
    return inspect.signature(vars(reference)[name])


@cache
def layer_class(kind: str) -> type[Layer]:
    """The layer class of that name.  Raises KeyError if there is none."""
    return {found.__name__: found for found in _below(Layer)}[kind]


@cache
def layer_formula(kind: str) -> tuple[str, str]:
    """(formula, meaning) of a layer: the first sentence of its docstring."""
    return _first_sentence(_document(layer_class(kind)))


@cache
def layer_shapes(kind: str) -> str:
    """The shapes in a layer's docstring, as in `x (B, N, C) -> y (B, N, O)`, or ""."""
    return _shapes(_document(layer_class(kind)))


@cache
def layer_source(kind: str, direction: str) -> Source:
    """The lines of a layer's forward or backward, which may be inherited."""
    return source_of(getattr(layer_class(kind), direction))


def source_of(function) -> Source:
    lines, first = inspect.getsourcelines(function)
    file = Path(inspect.getsourcefile(function)).resolve().relative_to(PACKAGE).as_posix()
    return Source(file, first, tuple(line.rstrip("\n") for line in lines))


def assigned(file: str, line: int) -> tuple[str, ...]:
    """The names to which the statement on that line of a source file assigns: (q, k, v) of `q, k, v = …`."""
    for node in _assignments(file):
        if node.lineno <= line <= node.end_lineno:
            target = node.targets[0]
            return tuple(part.id for part in getattr(target, "elts", [target]) if isinstance(part, ast.Name))
    return ()


@cache
def _assignments(file: str) -> tuple[ast.Assign, ...]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Assign))


def _below(kind):
    for found in kind.__subclasses__():
        yield found
        yield from _below(found)


def _document(thing) -> str:
    """The docstring of a function or a class; read from the source under `python -OO`, which discards docstrings, from
    Python 3.14 on also those of what ast.parse reads."""
    if document := inspect.getdoc(thing):
        return document
    tree = compile(inspect.getsource(thing), "<source>", "exec", ast.PyCF_ONLY_AST, optimize=0)
    return ast.get_docstring(tree.body[0])


def _first_sentence(document: str) -> tuple[str, str]:
    """`y = x wᵀ + b: what it is for.  shapes` -> (`y = x wᵀ + b`, `what it is for`)."""
    sentence = document.partition("\n\n")[0].replace("\n", " ").partition(".  ")[0].removesuffix(".")
    formula, _, meaning = sentence.partition(": ")
    return formula, meaning


def _shapes(document: str) -> str:
    """The sentence with the arrow, if it has shapes on both sides of it, else ""."""
    sentences = re.split(r"\.  |\.\n|: |\n\n", document.replace("\n", " ") + "\n\n")
    sentence = next((s.strip().rstrip(".") for s in sentences if "->" in s), "")
    left, _, right = sentence.partition("->")
    return sentence if "(" in left and "(" in right else ""


def _results(document: str, formula: str) -> tuple[str, ...]:
    """The names after the docstring's arrow, `-> dx (B, C), dw (O, C).`, else the name that the formula begins with."""
    found, rest = [], document.partition("->")[2].replace("\n", " ")
    while match := re.match(r"\s*([A-Za-z]\w*)(?: \([^()]*\))?([,.:]|$)", rest):
        found.append(match[1])
        rest = rest[match.end() :] if match[2] == "," else ";"
    return tuple(found) or tuple(re.findall(r"^\w+", formula)) or ("y",)
