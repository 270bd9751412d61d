"""A plan as a table: what each step computes, the shape of its result, its numbers and its multiply-adds."""

from math import prod
from typing import Iterable, Iterator, NamedTuple

import numpy as np

from ..config import LeViTConfig
from ..model import LeViT, aligned
from ..ops.reference import convolution_size
from . import plan


class Row(NamedTuple):
    """One step.  shape: of its result for one image; numbers: in its weights and biases, which evaluation reads."""

    name: str
    formula: str
    shape: tuple[int, ...]
    numbers: int
    multiply_adds: int


def rows(steps: Iterable, config: LeViTConfig) -> Iterator[Row]:
    """The rows of a plan's steps (see plan.steps_of), in their order, each made when it is asked for."""
    shapes = {"map": (config.in_channels, *config.image_size)}
    for step in steps:
        shape, multiply_adds = SHAPES[type(step)](step, shapes)
        shapes[getattr(step, "target", "x")] = shape
        if isinstance(step, plan.Convolution):
            channels, height, width = shapes["map"] = shape
            shapes["x"] = height * width, channels
        numbers = sum(value.size for value in step if isinstance(value, np.ndarray))
        yield Row(step.name, step.formula, shape, numbers, multiply_adds)


def summary(model: LeViT) -> str:
    """The plan that the cpu backend runs, as text: a line for each step, and the totals."""
    found = list(rows(plan.steps_of(model, pooled_early=True), model.config))
    total = Row("total", "", (), sum(row.numbers for row in found), sum(row.multiply_adds for row in found))
    table = aligned([("step", "output", "numbers", "multiply-adds"),
                     *((row.name, " × ".join(map(str, row.shape)), f"{row.numbers:,}", f"{row.multiply_adds:,}")
                       for row in (*found, total))])
    formulas = ["computes", *(row.formula for row in found), ""]
    return "\n".join(f"{line}  {formula}".rstrip() for line, formula in zip(table.splitlines(), formulas))


def formulas(model: LeViT) -> dict[str, str]:
    """{layer: what its steps compute}."""
    found = {}
    for step in plan.steps_of(model):
        found[step.name] = f"{found[step.name]}; {step.formula}" if step.name in found else step.formula
    return found


def _convolution(step, shapes):
    outputs, _, kernel, _ = step.weight.shape
    out = tuple(convolution_size(n, kernel, step.stride, step.padding) for n in shapes["map"][1:])
    return (outputs, *out), step.weight.size * prod(out)


def _linear(step, shapes):
    tokens = shapes[step.source][:-1]  # (N,), or () of a pooled token
    return (*tokens, len(step.weight)), prod(tokens) * step.weight.size


def _subsample(step, shapes):
    return (prod(-(-n // step.stride) for n in step.grid), shapes[step.source][-1]), 0


def _attention(step, shapes):
    """Its two products and, as the authors count, one for each score's softmax."""
    queries, keys = shapes[step.queries][0], shapes[step.source][0]
    return (queries, step.heads * step.value), step.heads * queries * keys * (step.key + 1 + step.value)


def _layer_norm(step, shapes):
    return shapes[step.source], 0


def _embedding(step, shapes):
    return shapes["x"], 0


def _token(step, shapes):
    tokens, channels = shapes["x"]
    return (tokens + 1, channels), 0


def _pool(step, shapes):
    return shapes[step.source][1:], 0


SHAPES = {plan.Convolution: _convolution, plan.Linear: _linear, plan.Subsample: _subsample, plan.Attention: _attention,
          plan.LayerNorm: _layer_norm, plan.Embedding: _embedding, plan.Token: _token, plan.Pool: _pool}
