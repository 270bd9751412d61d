"""A pass through a network as the document that a page shows: layers, stops, and the numbers of each."""

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np

from ...model import LeViT
from ...ops import reference
from .detail import Detail, kept, layout
from .packing import Packed, pack
from .steps import passes

PACKAGE = Path(__file__).resolve().parents[2]
SKIPPED = ("index",)  # whole numbers that follow from the grid; the page computes them


class Tensors:
    """Every array once, packed, under a number."""

    def __init__(self, detail: Detail):
        self.detail, self.packed, self._numbers, self._alive = detail, [], {}, []

    def add(self, op, name, array, digits=None, detail=None, rows=None, batched=True) -> int:
        array = np.asarray(array)
        kind = layout(op, name, array)
        place = array.__array_interface__["data"][0], array.shape, array.strides
        if place not in self._numbers:
            self._alive.append(array)  # or its memory, and so its key, might be used again
            parameter = kind in ("filters", "matrix", "table") or array.ndim == 1 or kind == "pairs" and array.ndim == 3
            values = array if parameter or not batched else array[0]
            detail = detail or self.detail
            digits = digits or detail.digits + (kind == "heads" and name in ("q", "k"))
            decimals = 4 if name == "probabilities" else None  # hundredths of a percent
            self._numbers[place] = len(self.packed)
            self.packed.append((kind, pack(values, kept(kind, name, values.shape, detail, rows), digits, decimals)))
        return self._numbers[place]

    def table(self) -> tuple[list[dict], str]:
        """What the page needs to find and decode each, and the text that holds them all."""
        rows, start = [], 0
        for kind, tensor in self.packed:
            rows.append({"layout": kind, "shape": tensor.shape, "kept": [_short(k) for k in tensor.kept],
                         "decimals": tensor.decimals, "width": tensor.width, "at": [start, len(tensor.text)]})
            start += len(tensor.text)
        return rows, "".join(tensor.text for _, tensor in self.packed)


def _short(indices):
    """A count for the first so many, None for all, else the list."""
    return len(indices) if indices == list(range(len(indices or ()))) and indices else indices


class Pass:
    """The computation that a page shows, once; `document` then says it in more or less detail.

    losses: {"ce": cross-entropy of the averaged logits with `target`; "kd", with two heads: hard distillation, half
    the cross-entropy of each head, the second's with the teacher's class}. why: two classes whose logits' own gradients
    are followed back to the image and the attention maps."""

    def __init__(self, model: LeViT, x: np.ndarray, target: int | None = None, teacher: int | None = None):
        self.model, self.x, ops = model, x, model.ops
        both = model.head_dist is not None
        logits = model.forward(x)[0][0]
        order = np.argsort(-logits, kind="stable")
        self.top = [int(i) for i in order[:5]]
        self.target = self.top[0] if target is None else target
        self.teacher = self.target if teacher is None else teacher
        rivals = [i for i in dict.fromkeys([self.target, *self.top])][:2]
        self.why = rivals if len(rivals) > 1 else rivals * 2
        classes = model.config.num_classes

        def onehot(which):
            return ops.targets_of([which], classes, dtype=x.dtype)

        def averaged(gradient):
            return lambda _: (gradient / 2, gradient / 2) if both else gradient

        def cross_entropy(outputs):
            mean = (outputs[0] + outputs[1]) / 2 if both else outputs
            return averaged(ops.cross_entropy_backward(mean, onehot(self.target)))(None)

        def distillation(outputs):
            return (ops.cross_entropy_backward(outputs[0], onehot(self.target)) / 2,
                    ops.cross_entropy_backward(outputs[1], onehot(self.teacher)) / 2)

        seeds = {"ce": cross_entropy} | ({"kd": distillation} if both else {})
        seeds |= {f"why{i}": averaged(onehot(which)) for i, which in enumerate(self.why)}
        self.outputs, self.forward, self.backward = passes(model, x, seeds)
        self.heads = self.outputs if both else (self.outputs,)
        self.logits = (self.heads[0] + self.heads[1]) / 2 if both else self.outputs
        self.seeds = {name: seed(self.outputs) for name, seed in seeds.items()}
        self.losses = {"ce": float(ops.cross_entropy(self.logits, onehot(self.target)))}
        if both:
            self.losses["kd"] = float(ops.cross_entropy(self.heads[0], onehot(self.target))
                                      + ops.cross_entropy(self.heads[1], onehot(self.teacher))) / 2

    def document(self, detail: Detail, labels, about: str, recipe) -> tuple[dict, str]:
        """(the document, as JSON can hold it, and the text of the numbers)."""
        tensors, code = Tensors(detail), Code()
        shown = list(dict.fromkeys([*self.top, self.target, self.teacher, *self.why]))
        add = tensors.add
        stops = [self._stop(step, tensors, code, {}, detail.digits, shown) for step in self.forward]
        losses = [name for name in ("ce", "kd") if name in self.backward]
        back = [self._stop(step, tensors, code, {}, max(2, detail.digits - 1), shown) for step in self.backward["ce"][1]]
        if "kd" in losses:  # the same stops; of a page that had to leave out, half as many channels
            less = detail if detail.reach == math.inf else Detail(detail.reach / 2, detail.digits, 1)
            for stop, step in zip(back, self.backward["kd"][1]):
                stop["kd"] = self._gradients(step, tensors, less, max(2, detail.digits - 1), shown)
        document = {
            "model": self._about_model(), "about": about, "recipe": recipe,
            "labels": list(labels), "top": self.top, "target": self.target, "teacher": self.teacher, "why": self.why,
            "losses": self.losses, "layers": self._layers(), "forward": stops, "backward": back,
            "logits": add("average", "y", self.logits, 6), "heads": [add("linear", "y", h, 6) for h in self.heads],
            "x": add("convolution", "x", self.x), "dx": {},
            "seeds": {n: [add("loss", "dy", g, 5) for g in (s if isinstance(s, tuple) else (s,))]
                      for n, s in self.seeds.items()},
            "maps": self._maps(tensors, detail), "code": code.table(),
        }
        for name, (dx, _) in self.backward.items():
            document["dx"][name] = add("convolution_backward", "dx", dx, 3 if name in losses else 2)
        document["tensors"], text = tensors.table()
        return document, text

    def _about_model(self) -> dict:
        config, rows = self.model.config, self.model.rows()
        return {"name": config.name, "config": config.to_dict(), "resolutions": config.resolutions,
                "parameters": sum(r[2] for r in rows), "macs": sum(r[3] for r in rows)}

    def _layers(self) -> list[dict]:
        rows = {name: (shape, parameters, macs) for name, shape, parameters, macs in self.model.rows()}
        layers = []
        for name, layer in self.model.walk():
            shape, parameters, macs = rows.get(name, (None, 0, 0))
            more = {key: getattr(layer, key) for key in ("heads", "sizes", "grid", "stride", "padding", "eps", "kind")
                    if hasattr(layer, key) and not callable(getattr(layer, key))}
            layers.append({"name": name, "kind": type(layer).__name__, "shape": shape, "parameters": parameters,
                           "macs": macs, **({"more": more} if more else {})})
        return layers

    def _stop(self, step, tensors, code, extra, digits, shown) -> dict:
        stop: dict[str, Any] = {"layer": step.layer, "kind": step.kind, "op": step.op, "formula": formula(step.op),
                                "code": code.of(step), "in": {}, "out": {}, "with": {}}
        rows = sorted(shown) if step.kind == "Head" and len(self.logits[0]) > 16 else None
        for group, arrays in (("in", step.inputs), ("out", step.outputs)):
            for name, value in arrays.items():
                if name in SKIPPED:
                    continue
                if name == "parts":
                    for part, array in zip(("q", "k", "v")[-len(value):] if len(value) > 1 else ("q",), value):
                        stop[group]["d" + part] = tensors.add(step.op, "d" + part, array, digits)
                elif isinstance(value, np.ndarray) and not (name == "bias" and step.op == "linear" and value is None):
                    if layout(step.op, name, value) == "pairs" and name == "bias":
                        continue  # gathered from the table, on the page too
                    of_layer = digits if name not in ("q", "k") else None
                    whole = rows if name in ("w", "dw") else None
                    stop[group][name] = tensors.add(step.op, name, value, of_layer, rows=whole)
                elif isinstance(value, (int, float, tuple)):
                    stop["with"][name] = value
        if step.op == "normalize":
            self._training_statistics(step, tensors, stop)
        return stop

    def _training_statistics(self, step, tensors, stop):
        """What this image alone would give BN in training."""
        x, axis = step.inputs["x"], step.inputs.get("axis", -1)
        if x.size > x.shape[axis]:
            mean, variance, count = self.model.ops.batch_statistics(x, axis)
            stop["training"] = {"mean": tensors.add("normalize", "mean", mean),
                                "variance": tensors.add("normalize", "variance", variance), "count": count}

    def _gradients(self, step, tensors, detail, digits, shown) -> dict:
        """{in, out: {name: number}} of the arrays that another loss changes."""
        found, rows = {"in": {}, "out": {}}, sorted(shown) if step.kind == "Head" and len(self.logits[0]) > 16 else None
        for group, arrays in (("in", step.inputs), ("out", step.outputs)):
            for name, value in arrays.items():
                if name == "parts":
                    for part, array in zip(("q", "k", "v")[-len(value):] if len(value) > 1 else ("q",), value):
                        found[group]["d" + part] = tensors.add(step.op, "d" + part, array, digits, detail)
                elif isinstance(value, np.ndarray) and (group == "out" or name.startswith("d")):
                    if layout(step.op, name, value) == "pairs" and detail.pairs == 1:
                        continue
                    found[group][name] = tensors.add(step.op, name, value, digits, detail,
                                                     rows if name == "dw" else None)
        return found

    def _maps(self, tensors, detail) -> dict:
        """{attention layer: [for each of the two classes, the logit's gradient to the attention weights]}."""
        values = {step.layer: step.inputs["v"] for step in self.forward if step.op == "attention"}
        maps = {}
        for name in ("why0", "why1"):
            for step in self.backward[name][1]:
                if step.op == "attention_backward":
                    gradient = step.inputs["dy"] @ values[step.layer].swapaxes(-1, -2)
                    maps.setdefault(step.layer, []).append(tensors.add("attention", "dprobabilities", gradient, 2))
        return maps


def formula(op: str) -> str:
    function = vars(reference).get(op)
    return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ") if function else ""


class Code:
    """The source that a stop shows: the operation's, and the layer's method that calls it, each function once."""

    def __init__(self):
        self._functions = {}

    def of(self, step) -> dict:
        from ..trace import _below  # noqa: F401

        found = {}
        if step.op in vars(reference):
            found["op"] = self._number(vars(reference)[step.op])
        kind = kinds().get(step.kind)
        if kind is not None:
            found["layer"] = self._number(getattr(kind, step.direction))
            found["line"] = step.line
        return found

    def _number(self, function) -> int:
        key = function.__qualname__, inspect.getsourcefile(function)
        if key not in self._functions:
            lines, first = inspect.getsourcelines(function)
            file = Path(inspect.getsourcefile(function)).resolve().relative_to(PACKAGE).as_posix()
            self._functions[key] = {"file": file, "first": first, "name": function.__qualname__,
                                    "lines": [line.rstrip("\n") for line in lines]}
        return list(self._functions).index(key)

    def table(self) -> list[dict]:
        return list(self._functions.values())


def kinds() -> dict:
    from ...layers.layer import Layer

    def below(kind):
        for found in kind.__subclasses__():
            yield found
            yield from below(found)

    return {kind.__name__: kind for kind in below(Layer)}


__all__ = ["Pass", "Packed"]
