"""Collects what a page shows of a pass through a network: the layers, the stops of the walk, and their numbers."""

import math
from typing import Any

import numpy as np

from ...errors import LevitError
from ...model import LeViT
from ...ops import reference
from ..operations import Source
from ..recorder import Recorder
from ..records import Step
from ..trace import trace
from .detail import DETAILS, Detail
from .sums import Sum, with_sums
from .tensors import Tensors


class Pass:
    """The computation, done once; `document` describes it in more or less detail.

    losses: "ce", the cross-entropy of the averaged logits with `target` (default: the predicted class); with two heads
    also "kd", half the cross-entropy of each head, the second's with the `teacher`'s class (default: the target).
    why: the classes whose logits are followed back to the image and the attention maps, so that the page can compare
    any two: first the target and its `rival` (default: the likeliest other), then the rest of the top five."""

    def __init__(self, model: LeViT, x: np.ndarray, target: int | None = None, teacher: int | None = None,
                 rival: int | None = None):
        if teacher is not None and model.head_dist is None:
            raise LevitError(f"teacher: expected a model with two heads, found {model.config.name}")
        self.model = model
        order = np.argsort(-model.forward(x)[0][0], kind="stable")
        self.top = [int(i) for i in order[:5]]
        self.target = self.top[0] if target is None else target
        if rival == self.target:
            raise LevitError(f"rival: expected a class other than the target, found {rival} for both")
        self.teacher = self.target if teacher is None else teacher
        self.why = list(dict.fromkeys([self.target, *([] if rival is None else [rival]), *self.top]))
        self.traces = {"ce": trace(model, x, self.target)}
        if model.head_dist is not None:
            self.traces["kd"] = trace(model, x, self.target, teacher=self.teacher)
        if not all(math.isfinite(found.loss) for found in self.traces.values()):  # JSON cannot represent others
            raise LevitError(f"{model.config.name}: expected a finite loss, found another: the weights or the image "
                             "are too large, or NaN")
        self.logits_back = [_back_from_logit(model, x, which) for which in self.why]

    def document(self, detail: Detail, labels, about: str, preprocessing) -> tuple[dict, Tensors]:
        """(the document for JSON, without the table of tensors; the tensors)."""
        tensors, code = Tensors(detail), _Code()
        shown = sorted(dict.fromkeys([*self.top, self.target, self.teacher, *self.why]))
        first = self.traces["ce"]
        x = tensors.add("convolution", "x", first.x, detail.digits + 1)
        stops = _Stops(self, tensors, code, shown)
        heads = [r.output for r in first.forward if r.name in ("head", "head_dist")]
        document = {
            "model": self._about_model(), "about": about, "recipe": preprocessing, "labels": list(labels),
            "top": self.top, "target": self.target, "teacher": self.teacher, "why": self.why,
            "losses": {name: found.loss for name, found in self.traces.items()}, "layers": self._layers(),
            "forward": stops.forward(), "backward": stops.backward(), "code": code.table(),
            "logits": tensors.add("average", "y", first.logits),
            "heads": [tensors.add("linear", "y", h) for h in heads], "x": x, **self._why(tensors),
        }
        return document, tensors

    def _why(self, tensors: Tensors) -> dict:
        """For each class of `why`: "saliency", the gradient of its logit with respect to the image (the largest over
        the colours, at each pixel); for each layer "influence" (heads, Nk), Σ over the queries of attention weight ·
        its gradient; and, for the first two classes, "maps" (heads, Nq, Nk), that gradient."""
        attentions = {step.layer: step for step in self.traces["ce"].steps if step.op == "attention"}
        found: dict[str, Any] = {"saliency": [], "influence": {}, "maps": {}}
        digits = None if tensors.detail.reach == math.inf else 2  # enough for pictures
        for place, (dx, steps) in enumerate(self.logits_back):
            largest = np.take_along_axis(dx, np.abs(dx).argmax(1, keepdims=True), 1)
            found["saliency"].append(tensors.add("convolution_backward", "dx", largest, digits))
            for layer, dy in ((s.layer, s.inputs["dy"]) for s in steps if s.op == "attention_backward"):
                gradient = dy @ attentions[layer].inputs["v"].swapaxes(-1, -2)  # of the attention weights
                influence = (attentions[layer].outputs["probabilities"] * gradient).sum(2)[0]
                found["influence"].setdefault(layer, []).append(tensors.add("attention", "dtable", influence))
                if place < 2:
                    maps = found["maps"].setdefault(layer, [])
                    maps.append(tensors.add("attention", "dprobabilities", gradient, digits))
        return found

    def _about_model(self) -> dict:
        config, rows = self.model.config, self.model.rows()
        stages = [stage._asdict() for stage in config.stages]
        return {"name": config.name, "config": config.to_dict() | {"stages": stages}, "resolutions": config.resolutions,
                "parameters": sum(row[2] for row in rows), "macs": sum(row[3] for row in rows)}

    def _layers(self) -> list[dict]:
        rows, layers = {name: rest for name, *rest in self.model.rows()}, []
        for name, layer in self.model.walk():
            shape, _, macs = rows.get(name, (None, 0, 0))
            parameters = sum(math.prod(spec.shape) for spec in layer.specs.values() if spec.trainable)
            more = {"stride": layer.stride} if isinstance(getattr(layer, "stride", None), int) else {}
            layers.append({"name": name, "kind": type(layer).__name__, "shape": shape, "parameters": parameters,
                           "macs": macs, **more})
        return layers


def _back_from_logit(model: LeViT, x: np.ndarray, which: int) -> tuple[np.ndarray, list[Step]]:
    """The gradient of one averaged logit with respect to the images, and the operations of its backward."""
    with Recorder(model, reference) as recorder:
        with recorder.calling("", "LeViT", "forward"):
            outputs, saved = recorder.network.forward(x, training="frozen")
        onehot = reference.targets_of([which], model.config.num_classes, dtype=x.dtype)
        with recorder.calling("", "LeViT", "backward"):
            dx = recorder.network.backward((onehot / 2, onehot / 2) if isinstance(outputs, tuple) else onehot, saved)
        return dx, [step for step in recorder.steps() if step.direction == "backward"]


class _Stops:
    """The stops of the walk: a trace's operations and, between them, the sums that layers compute themselves."""

    def __init__(self, whole: Pass, tensors: Tensors, code: "_Code", shown: list[int]):
        self.whole, self.tensors, self.code = whole, tensors, code
        # For heads with many classes, keep only the rows of the classes that the page mentions.
        self.rows = shown if whole.model.config.num_classes > 16 else None
        # Both losses start from the same logits, of which each trace has its own array.
        first = whole.traces["ce"]
        self.logits = {"average": first.logits} | {r.name: r.output for r in first.forward if r.name.startswith("head")}

    def forward(self) -> list[dict]:
        first = self.whole.traces["ce"]
        stops = [self._stop(step) for step in with_sums(first, "forward") if step.layer != "loss"]
        for loss, found in self.whole.traces.items():
            stops += [self._stop(step) | {"only": loss} for step in with_sums(found, "forward") if step.layer == "loss"]
        return stops

    def backward(self) -> list[dict]:
        """With two losses, each stop has the numbers for the first one, and under "kd" the gradients for the second."""
        stops, places = [], {}
        for loss, found in self.whole.traces.items():
            stops += [self._stop(step) | {"only": loss} for step in with_sums(found, "backward")
                      if step.layer == "loss"]
        for step in with_sums(self.whole.traces["ce"], "backward"):
            if step.layer != "loss":
                places[step.name] = len(stops)
                stops.append(self._stop(step))
        if "kd" in self.whole.traces:
            detail = self.tensors.detail.half()
            for step in with_sums(self.whole.traces["kd"], "backward"):
                if step.layer != "loss":
                    stops[places[step.name]]["kd"] = self._arrays(step, detail, gradients_only=True)
        return stops

    def _stop(self, step: Step | Sum) -> dict:
        is_sum = isinstance(step, Sum)
        code = self.code.of(*(None, step.source) if is_sum else (step.source, step.caller), step.line)
        numbers = {name: value for name, value in (*step.inputs.items(), *step.outputs.items())
                   if isinstance(value, (int, float)) or name == "sizes"}
        stop: dict[str, Any] = {"name": step.name, "layer": step.layer, "op": step.op, "formula": step.formula,
                                "code": code, "with": numbers, **self._arrays(step)}
        if step.op == "normalize":
            stop |= self._training_statistics(step)
        return stop

    def _arrays(self, step: Step | Sum, detail=None, gradients_only=False) -> dict:
        """{"in": {name: number}, "out": …} of the arrays that the page holds."""
        found: dict[str, dict] = {"in": {}, "out": {}}
        for group, values in (("in", _plain(step.inputs)), ("out", _plain(step.outputs))):
            for name, array in values.items():
                gradient = _is_gradient(step, name)
                if gradients_only and not gradient or name == "index":
                    continue
                if name == "bias" and array.ndim == 3:
                    continue  # the page gathers it from the table itself
                head = step.layer.startswith("head")
                rows = self.rows if name in ("w", "dw") and head else None
                more = DETAILS[1] if head and array.ndim == 1 else detail
                known_as = f"d{name}" if gradient and not name.startswith("d") else name
                place = self.tensors.add(step.op, known_as, self._known(step, name, array), None, more, rows)
                if place is not None:
                    found[group][name] = place
        return found

    def _known(self, step: Step | Sum, name: str, array: np.ndarray) -> np.ndarray:
        """The array with these numbers that the page already has, if there is one, else `array`."""
        if step.layer != "loss" or not name.startswith("logits"):
            return array
        return next((known for known in self.logits.values() if np.array_equal(known, array)), array)

    def _training_statistics(self, step: Step) -> dict:
        """The statistics that BN would use in training for this image alone; none if it has one value per channel."""
        x, axis = step.inputs["x"], step.inputs.get("axis", -1)
        if x.size <= x.shape[axis]:
            return {}
        mean, variance, count = reference.batch_statistics(x, axis)
        return {"training": {"mean": self.tensors.add("normalize", "mean", mean), "count": count,
                             "variance": self.tensors.add("normalize", "variance", variance)}}


def _is_gradient(step: Step | Sum, name: str) -> bool:
    """Whether an array is a gradient: by its name, or because the backward uses a forward operation
    (tokens_to_image)."""
    borrowed = isinstance(step, Step) and step.direction == "backward" and not step.op.endswith("_backward")
    return borrowed or name.startswith("d")


def _plain(values: dict) -> dict[str, np.ndarray]:
    """The arrays by name; the parts of split_heads_backward are named as gradients of queries, keys and values."""
    found = {}
    for name, value in values.items():
        if isinstance(value, tuple) and name == "parts":
            parts = {1: ("dq",), 2: ("dk", "dv"), 3: ("dq", "dk", "dv")}[len(value)]
            found |= dict(zip(parts, value))
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found


class _Code:
    """The source code that the stops show, each function once."""

    def __init__(self):
        self._numbers: dict[Source, int] = {}

    def of(self, op: Source | None, layer: Source, line: int) -> dict:
        number = {} if op is None else {"op": self._number(op)}
        return number | {"layer": self._number(layer), "line": line}

    def _number(self, source: Source) -> int:
        return self._numbers.setdefault(source, len(self._numbers))

    def table(self) -> list[dict]:
        return [source._asdict() for source in self._numbers]
