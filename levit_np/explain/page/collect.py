"""A pass through a network as what a page shows of it: the layers, the stops of the walk, and the numbers of each."""

import math
from typing import Any

import numpy as np

from ...model import LeViT
from ...ops import reference
from ..operations import Source, layer_source, operation, source_of
from ..recorder import Recorder
from ..records import Backward, Forward, Step
from ..trace import Trace, trace
from .detail import DETAILS, Detail
from .tensors import Tensors


class Pass:
    """What is computed once; `document` then says it in more or less detail.

    losses: "ce", the cross-entropy of the averaged logits with `target` (by default the answer itself); with two heads
    also "kd", half the cross-entropy of each head, the second's with the `teacher`'s class (by default the target).
    why: two classes whose logits are followed back to the image and the attention maps, the target and its `rival` (by
    default the likeliest other)."""

    def __init__(self, model: LeViT, x: np.ndarray, target: int | None = None, teacher: int | None = None,
                 rival: int | None = None):
        self.model = model
        order = np.argsort(-model.forward(x)[0][0], kind="stable")
        self.top = [int(i) for i in order[:5]]
        self.target = self.top[0] if target is None else target
        self.teacher = self.target if teacher is None else teacher
        rivals = [self.target, rival] if rival is not None else list(dict.fromkeys([self.target, *self.top]))[:2]
        self.why = rivals if len(rivals) > 1 else rivals * 2  # a network of one class has no rival
        self.traces = {"ce": trace(model, x, self.target)}
        if model.head_dist is not None:
            self.traces["kd"] = trace(model, x, self.target, teacher=self.teacher)
        self.logits_back = [_back_from_logit(model, x, which) for which in self.why]

    def document(self, detail: Detail, labels, about: str, recipe) -> tuple[dict, Tensors]:
        """(the document, but for the tensors' table, as JSON can hold it; the numbers)."""
        tensors, code = Tensors(detail), _Code()
        shown = sorted(dict.fromkeys([*self.top, self.target, self.teacher, *self.why]))
        first = self.traces["ce"]
        x = tensors.add("convolution", "x", first.x, detail.digits + 1)
        stops = _Stops(self, tensors, code, shown)
        heads = [r.output for r in first.forward if r.name in ("head", "head_dist")]
        document = {
            "model": self._about_model(), "about": about, "recipe": recipe, "labels": list(labels),
            "top": self.top, "target": self.target, "teacher": self.teacher, "why": self.why,
            "losses": {name: found.loss for name, found in self.traces.items()}, "layers": self._layers(),
            "forward": stops.forward(), "backward": stops.backward(), "code": code.table(),
            "logits": tensors.add("average", "y", first.logits), "heads": [tensors.add("linear", "y", h) for h in heads],
            "x": x, "dx": {}, "maps": {},
        }
        values = {step.layer: step.inputs["v"] for step in first.steps if step.op == "attention"}
        for name, found in self.traces.items():
            document["dx"][name] = tensors.add("convolution_backward", "dx", found.dx)
        for place, (dx, steps) in enumerate(self.logits_back):
            digits = None if detail.reach == math.inf else 2  # for pictures it is enough
            document["dx"][f"why{place}"] = tensors.add("convolution_backward", "dx", dx, digits)
            for step in (s for s in steps if s.op == "attention_backward"):
                gradient = step.inputs["dy"] @ values[step.layer].swapaxes(-1, -2)  # to the attention weights
                document["maps"].setdefault(step.layer, []).append(tensors.add("attention", "dprobabilities", gradient, digits))
        return document, tensors

    def _about_model(self) -> dict:
        config, rows = self.model.config, self.model.rows()
        stages = [stage._asdict() for stage in config.stages]
        return {"name": config.name, "config": config.to_dict() | {"stages": stages}, "resolutions": config.resolutions,
                "parameters": sum(row[2] for row in rows), "macs": sum(row[3] for row in rows)}

    def _layers(self) -> list[dict]:
        rows, layers = {name: rest for name, *rest in self.model.rows()}, []
        for name, layer in self.model.walk():
            shape, parameters, macs = rows.get(name, (None, 0, 0))
            more = {"stride": layer.stride} if isinstance(getattr(layer, "stride", None), int) else {}
            layers.append({"name": name, "kind": type(layer).__name__, "shape": shape, "parameters": parameters,
                           "macs": macs, **more})
        return layers


def _back_from_logit(model: LeViT, x: np.ndarray, which: int) -> tuple[np.ndarray, list[Step]]:
    """The gradient of one averaged logit to the images, and the operations of its way."""
    recorder = Recorder(model, reference)
    with recorder.calling("", "LeViT", "forward"):
        outputs, saved = recorder.network.forward(x, training="frozen")
    onehot = reference.targets_of([which], model.config.num_classes, dtype=x.dtype)
    with recorder.calling("", "LeViT", "backward"):
        dx = recorder.network.backward((onehot / 2, onehot / 2) if isinstance(outputs, tuple) else onehot, saved)
    return dx, [step for step in recorder.steps() if step.direction == "backward"]


class _Stops:
    """The walk: a trace's operations, and between them the sums that the layers write themselves."""

    def __init__(self, whole: Pass, tensors: Tensors, code: "_Code", shown: list[int]):
        self.whole, self.tensors, self.code = whole, tensors, code
        # Of a head for many classes, the rows of those that the page speaks of.
        self.rows = shown if whole.model.config.num_classes > 16 else None

    def forward(self) -> list[dict]:
        first, *others = self.whole.traces.values()
        stops = [self._stop(step) for step in _with_sums(first, "forward") if _layer(step) != "loss"]
        if len(self.whole.traces) > 1:
            stops.append(self._average(first))
        for loss, found in self.whole.traces.items():
            stops += [self._stop(s) | {"only": loss} for s in found.steps if (s.direction, s.layer) == ("forward", "loss")]
        return stops

    def backward(self) -> list[dict]:
        """With two losses, each stop has the numbers of the first, and under "kd" those that differ for the second."""
        stops, places = [], {}
        for loss, found in self.whole.traces.items():
            stops += [self._stop(s) | {"only": loss} for s in found.steps
                      if (s.direction, s.layer) == ("backward", "loss")]
        for step in _with_sums(self.whole.traces["ce"], "backward"):
            if _layer(step) != "loss":
                places[_key(step)] = len(stops)
                stops.append(self._stop(step))
        if "kd" in self.whole.traces:
            detail = self.tensors.detail.half()
            for step in _with_sums(self.whole.traces["kd"], "backward"):
                if _layer(step) != "loss":
                    stops[places[_key(step)]]["kd"] = self._arrays(step, detail, gradients_only=True)
        return stops

    def _stop(self, step) -> dict:
        if not isinstance(step, Step):
            return self._sum(step)
        told = operation(step.op)
        stop: dict[str, Any] = {"name": step.name, "layer": step.layer, "op": step.op, "formula": told.formula,
                                "code": self.code.of(step.source, step.caller, step.line),
                                "with": {k: v for k, v in step.inputs.items() if isinstance(v, (int, float)) or k == "sizes"}
                                | {k: v for k, v in step.outputs.items() if isinstance(v, (int, float))}}
        stop |= self._arrays(step)
        if step.op == "normalize":
            stop |= self._training_statistics(step)
        return stop

    def _arrays(self, step, detail=None, gradients_only=False) -> dict:
        """{"in": {name: number}, "out": …} of the arrays that the page holds."""
        found: dict[str, dict] = {"in": {}, "out": {}}
        if not isinstance(step, Step):
            arrays = {"in": _sum_inputs(step, self._branch(step)), "out": _sum_outputs(step)}
        else:
            arrays = {"in": _plain(step, step.inputs), "out": _plain(step, step.outputs)}
        op = step.op if isinstance(step, Step) else "add"
        for group, values in arrays.items():
            for name, array in values.items():
                if gradients_only and not name.startswith("d") or name == "index":
                    continue
                if name == "bias" and array.ndim == 3:
                    continue  # gathered from the table: the page does that itself
                head = _layer(step).startswith("head")
                rows = self.rows if name in ("w", "dw") and head else None
                place = self.tensors.add(op, name, array, None, DETAILS[1] if head and array.ndim == 1 else detail, rows)
                if place is not None:
                    found[group][name] = place
        return found

    def _training_statistics(self, step: Step) -> dict:
        """What this image alone would give BN in training; nothing, where that is one value a channel."""
        x, axis = step.inputs["x"], step.inputs.get("axis", -1)
        if x.size <= x.shape[axis]:
            return {}
        mean, variance, count = reference.batch_statistics(x, axis)
        return {"training": {"mean": self.tensors.add("normalize", "mean", mean), "count": count,
                             "variance": self.tensors.add("normalize", "variance", variance)}}

    def _sum(self, record) -> dict:
        """x + branch(x), which a layer writes itself."""
        back = isinstance(record, Backward)
        source = layer_source(record.kind, "backward" if back else "forward")
        line = next(source.first + i for i, text in enumerate(source.lines) if "return" in text)
        return {"name": record.name, "layer": record.name, "op": "add_backward" if back else "add", "with": {},
                "formula": "dx = dy + dbranch" if back else "y = x + branch(x)",
                "code": self.code.of(None, source, line), **self._arrays(record)}

    def _branch(self, record):
        """The record of the branch that a residual adds."""
        records = self.whole.traces["ce"].forward if isinstance(record, Forward) else record_backwards(self.whole, record)
        return next(r for r in records if r.parent == record.name)

    def _average(self, found: Trace) -> dict:
        source = source_of(LeViT.forward)
        line = next(source.first + i for i, text in enumerate(source.lines) if "/ 2" in text)
        heads = {r.name: self.tensors.add("linear", "y", r.output) for r in found.forward if r.name in ("head", "head_dist")}
        return {"name": "average", "layer": "", "op": "average", "formula": "y = (head + head_dist) / 2", "with": {},
                "code": self.code.of(None, source, line), "in": heads,
                "out": {"y": self.tensors.add("average", "y", found.logits)}}


def record_backwards(whole: Pass, record: Backward) -> tuple[Backward, ...]:
    """The backward records of the trace that this one belongs to."""
    return next(t.backward for t in whole.traces.values() if any(r is record for r in t.backward))


def _with_sums(found: Trace, direction: str) -> list:
    """The operations of one direction, and behind the last of each residual's branch the residual's own record."""
    steps = [step for step in found.steps if step.direction == direction]
    records = found.forward if direction == "forward" else found.backward
    ends = {}  # index of the last operation within -> records, the innermost first
    for record in (r for r in records if r.kind == "Residual"):
        branch = record.name.rpartition(".")[0]
        last = max(i for i, s in enumerate(steps) if s.layer == branch or s.layer.startswith(f"{branch}."))
        ends.setdefault(last, []).append(record)
    return [part for i, step in enumerate(steps) for part in (step, *ends.get(i, ()))]


def _layer(step) -> str:
    return step.layer if isinstance(step, Step) else step.name


def _key(step) -> tuple[str, str]:
    return step.name, type(step).__name__


def _sum_inputs(record, branch) -> dict:
    if isinstance(record, Forward):
        return {"x": record.input, "branch": branch.output}
    return {"dy": record.doutput, "dbranch": branch.dinput}


def _sum_outputs(record) -> dict:
    return {"y": record.output} if isinstance(record, Forward) else {"dx": record.dinput}


def _plain(step: Step, values: dict) -> dict[str, np.ndarray]:
    """The arrays by name; the parts of split_heads_backward are the gradients of queries, keys and values."""
    found = {}
    for name, value in values.items():
        if isinstance(value, tuple) and name == "parts":
            parts = {1: ("dq",), 2: ("dk", "dv"), 3: ("dq", "dk", "dv")}[len(value)]
            found |= dict(zip(parts, value))
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found


class _Code:
    """The source that the stops show, each function once."""

    def __init__(self):
        self._numbers: dict[Source, int] = {}

    def of(self, op: Source | None, layer: Source, line: int) -> dict:
        number = {} if op is None else {"op": self._number(op)}
        return number | {"layer": self._number(layer), "line": line}

    def _number(self, source: Source) -> int:
        return self._numbers.setdefault(source, len(self._numbers))

    def table(self) -> list[dict]:
        return [source._asdict() for source in self._numbers]
