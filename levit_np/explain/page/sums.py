"""Additional steps of a walk for the plain arithmetic that layers do between operations: the residual sum, the mean of
the heads and of their losses, the position embedding, the sum of gradients of a value that was used twice."""

from typing import NamedTuple

import numpy as np

from ..operations import Source, layer_source
from ..records import Step
from ..trace import Trace


class Sum(NamedTuple):
    """A step of plain arithmetic, with the fields of Step that a page shows; `source` is the layer's code, `line` the
    line that computes it."""

    name: str
    layer: str
    op: str
    formula: str
    inputs: dict[str, np.ndarray | float]
    outputs: dict[str, np.ndarray | float]
    source: Source
    line: int


ADDED = {"PositionEmbedding": "embedding", "ChannelBias": "beta"}  # layers that only add a parameter


def with_sums(found: Trace, direction: str) -> list[Step | Sum]:
    """The operations of one direction in order, with each sum after the last operation whose result it needs."""
    steps = [step for step in found.steps if step.direction == direction]
    behind = {}  # index of an operation -> the sums after it, innermost first
    for place, told in (_forward if direction == "forward" else _backward)(found, steps):
        behind.setdefault(place, []).append(told)
    return [part for i, step in enumerate(steps) for part in (step, *behind.get(i, ()))]


def _last(steps: list[Step], layer: str, op: str = "") -> int:
    """The index of the last operation within a layer."""
    return max(i for i, step in enumerate(steps)
               if (step.layer == layer or step.layer.startswith(f"{layer}.")) and op in ("", step.op))


def _forward(found: Trace, steps: list[Step]):
    """Yields (index of an operation, a sum that follows it) in the forward direction."""
    records = {record.name: record for record in found.forward}
    for record in found.forward:
        if record.kind == "Residual":
            branch = next(r for r in found.forward if r.parent == record.name)
            yield _last(steps, record.name.rpartition(".")[0]), Sum(
                record.name, record.name, "add", "y = x + branch(x)", {"x": record.input, "branch": branch.output},
                {"y": record.output}, *_line(record.kind, "forward", "return"))
        if record.kind in ADDED:
            learned = ADDED[record.kind]
            before = record.name.rpartition(".")[0] or ("token" if "token" in records else "stem")
            yield _last(steps, before), Sum(
                record.name, record.name, f"add_{learned}", f"y = x + {learned}",
                {"x": record.input, learned: found.parameters[f"{record.name}.{learned}"]}, {"y": record.output},
                *_line(record.kind, "forward", "return"))
    if "head_dist" in records:
        heads = {name: records[name].output for name in ("head", "head_dist")}
        yield _last(steps, "head_dist"), Sum(
            "average", "", "average", "y = (head + head_dist) / 2", heads, {"y": found.logits},
            *_line("LeViT", "forward", "/ 2"))
    if found.teacher is not None:
        losses = [step.outputs["loss"] for step in steps if "loss" in step.outputs]
        yield _last(steps, "loss"), Sum(
            "loss.mean", "loss", "mean_loss", "loss = (labelled + taught) / 2",
            dict(zip(("labelled", "taught"), losses)),
            {"loss": found.loss}, *_line("Distillation", "forward", "return"))


def _backward(found: Trace, steps: list[Step]):
    """The same in the backward direction."""
    records = {record.name: record for record in found.backward}
    if "head_dist" in records:
        yield _last(steps, "loss"), _halves(found, steps, records)
        pooled = next(step for step in steps if step.layer == "")
        yield _last(steps, "head_dist"), Sum(
            "heads", "", "sum_backward", "dx = dhead + dhead_dist",
            {f"d{name}": records[name].dinput for name in ("head", "head_dist")}, {"dx": pooled.inputs["dy"]},
            *_line("LeViT", "backward", "add(dpooled"))
    for record in found.backward:
        if record.kind == "Residual":
            branch = next(r for r in found.backward if r.parent == record.name)
            yield _last(steps, record.name.rpartition(".")[0]), Sum(
                record.name, record.name, "add_backward", "dx = dy + dbranch",
                {"dy": record.doutput, "dbranch": branch.dinput}, {"dx": record.dinput},
                *_line(record.kind, "backward", "return"))
        if record.kind in ADDED:
            learned, layer = ADDED[record.kind], record.name.rpartition(".")[0]
            place = _last(steps, layer, "convolution_backward") - 1 if layer else _last(steps, "stages.0")
            yield place, Sum(
                record.name, record.name, f"add_{learned}_backward", f"dx = dy, d{learned} = Σ dy",
                {"dy": record.doutput},
                {f"d{learned}": record.gradients[learned]}, *_line(record.kind, "backward", "sum"))
        if record.kind == "ShrinkingAttention":
            subsampled = steps[_last(steps, record.name, "subsample_backward")]
            yield _last(steps, record.name), Sum(
                f"{record.name}.sum", record.name, "sum_backward", "dx = dqueries + dkeys",
                {"dqueries": subsampled.outputs["dx"], "dkeys": records[f"{record.name}.kv"].dinput},
                {"dx": record.dinput}, *_line(record.kind, "backward", "return"))


def _halves(found: Trace, steps: list[Step], records: dict) -> Sum:
    """The backward of the mean of two logits or losses: each gets half of the gradient."""
    outputs = {f"d{name}": records[name].doutput for name in ("head", "head_dist")}
    inputs = {"dlogits": steps[_last(steps, "loss", "cross_entropy_backward")].outputs["dlogits"]}
    kind, formula = "CrossEntropy", "dhead = dhead_dist = dlogits / 2"
    if found.teacher is not None:
        inputs["dlogits_dist"] = steps[_last(steps, "loss", "hard_distillation_backward")].outputs["dlogits"]
        kind, formula = "Distillation", "dhead = dlogits / 2, dhead_dist = dlogits_dist / 2"
    return Sum("loss.halves", "loss", "average_backward", formula, inputs, outputs, *_line(kind, "backward", "/ 2"))


def _line(kind: str, direction: str, words: str) -> tuple[Source, int]:
    """A layer's code, and the number of its first line that contains `words`."""
    source = layer_source(kind, direction)
    return source, next(source.first + i for i, text in enumerate(source.lines) if words in text)
