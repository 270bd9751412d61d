"""Finds where two networks start to differ: compares two states, or two traces, layer by layer in the order of
computation."""

from collections import defaultdict
from dataclasses import fields
from itertools import zip_longest
from typing import Iterator, NamedTuple

import numpy as np

from ..config import LeViTConfig
from ..errors import LevitError
from ..model import LeViT
from .trace import Trace, trace


class Row(NamedTuple):
    """The largest differences in one layer.  `relative` is relative to the array's largest value; for a gradient, to
    the largest gradient of the same kind (of parameters, or of activations) in the same block."""

    name: str
    what: str  # the array with the largest relative difference
    absolute: float
    relative: float
    before: float = 0.0  # the relative difference of the layer's input

    def differs(self, tolerance: float) -> bool:
        return not self.relative <= tolerance  # true for NaN

    def begins(self, tolerance: float) -> bool:
        """Whether the layer differs although its input agrees."""
        return self.differs(tolerance) and self.before <= tolerance


def compare_states(a: LeViT, b: LeViT) -> list[Row]:
    """One row per layer, comparing its parameters and statistics.  Raises LevitError for two different networks."""
    require_same_network(a.config, b.config)
    layers = dict(b.walk())

    def differences(name, layer):
        return {key: _differences(getattr(layer, key), getattr(layers[name], key), name) for key in layer.specs}

    return [_row(name, differences(name, layer)) for name, layer in a.walk() if layer.specs]


def compare_with_trace(model: LeViT, recorded: Trace) -> list[Row]:
    """Repeats a recorded pass: one row per layer of the forward, then one per layer of the backward, in its order.

    A row between them is for model(x), which a backend may compute by its own fast path.  Raises LevitError for a trace
    of a different network, or one recorded by a version of this library with other steps."""
    require_same_network(model.config, recorded.config)
    found = trace(model, recorded.x, recorded.target, teacher=recorded.teacher, backend=model.ops.NAME)
    for a, b in ((found.forward, recorded.forward), (found.backward, recorded.backward)):
        for here, there in zip_longest((step[:2] for step in a), (step[:2] for step in b)):
            if here != there:
                raise LevitError(f"trace: expected the step {here}, found {there}: another version recorded it")
    answer = _row("", {"model(x)": _differences(model(recorded.x), recorded.logits, "model(x)")})
    return [*_forward_rows(found, recorded), answer, *_backward_rows(found, recorded)]


def first_difference(rows: list[Row], tolerance: float) -> Row | None:
    """The first layer that differs although its input agrees; else the first that differs at all; else None.

    Layers after the culprit differ too, but so do their inputs. Sub-layers come before the layer that contains them: in
    a LinearBN with a wrong weight, BN differs but so does its input, so LinearBN is named; with wrong arrays in BN, BN
    is named."""
    differing = [row for row in rows if row.differs(tolerance)]
    return next((row for row in differing if row.begins(tolerance)), differing[0] if differing else None)


def require_same_network(a: LeViTConfig, b: LeViTConfig) -> None:
    """Raises LevitError, listing the fields that differ; name and drop path are ignored, as they change no value."""
    different = [f"{f.name} {getattr(a, f.name)} against {getattr(b, f.name)}" for f in fields(LeViTConfig)
                 if f.name not in ("name", "drop_path") and getattr(a, f.name) != getattr(b, f.name)]
    if different:
        raise LevitError(f"expected the same network twice, found {'; '.join(different)}")


def _forward_rows(found: Trace, recorded: Trace) -> Iterator[Row]:
    for a, b in zip(found.forward, recorded.forward):
        before = 0.0 if a.input is None or b.input is None else _differences(a.input, b.input, a.name)[1]
        yield _row(a.name, {"output": _differences(a.output, b.output, a.name)}, before)


def _backward_rows(found: Trace, recorded: Trace) -> Iterator[Row]:
    # Some gradients cancel almost completely, such as the queries' if all values are nearly alike: what remains is
    # rounding, which differs between machines. So differences are relative to the largest of the kind in the block.
    along, within = defaultdict(float), defaultdict(float)
    for step in recorded.backward:
        block = _block(step.name)
        along[block] = max(along[block], *(_largest(a) for a in (step.doutput, step.dinput) if a is not None))
        within[block] = max(within[block], *map(_largest, step.gradients.values()), 0.0)
    for a, b in zip(found.backward, recorded.backward):
        place, block = f"{a.name}, backward", _block(a.name)
        differences = {f"d{key}": _differences(array, b.gradients.get(key, np.zeros(0)), place, within[block])
                       for key, array in a.gradients.items()}
        if a.dinput is not None and b.dinput is not None:
            differences["dinput"] = _differences(a.dinput, b.dinput, place, along[block])
        if differences:
            yield _row(a.name, differences, _differences(a.doutput, b.doutput, place, along[block])[1])


def _block(name: str) -> str:
    """The block that a layer belongs to: stages.0.blocks.1, or stages.1.downsample.attention."""
    return ".".join(name.split(".")[:4])


def _row(name: str, differences: dict[str, tuple[float, float]], before: float = 0.0) -> Row:
    what = max(differences, key=lambda key: np.nan_to_num(differences[key][1], nan=np.inf))
    return Row(name, what, *differences[what], before)


def _differences(a: np.ndarray, b: np.ndarray, place: str, largest: float | None = None) -> tuple[float, float]:
    """max |a - b|, and the same divided by `largest`, by default the largest absolute value in a and b."""
    if a.shape != b.shape:
        raise LevitError(f"{place}: expected the same shape, found {a.shape} and {b.shape}")
    if not a.size:
        return 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported in the table, not as warnings
        absolute = float(np.abs(np.subtract(a, b, dtype=np.float64)).max())
    if largest is None:
        largest = max(_largest(a), _largest(b))
    return absolute, absolute / largest if largest else float("inf") if absolute else 0.0


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0))
