"""Where two networks part: two states, or two traces, layer by layer in the order of computation."""

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
    """The largest differences of one layer; `relative` is to the largest value of the array, or, of a gradient, to the
    largest in the same block: of a parameter's among those, of one that passes through among those."""

    name: str
    what: str  # the array that differs most, relatively
    absolute: float
    relative: float
    before: float = 0.0  # the relative difference of what the layer was given

    def differs(self, tolerance: float) -> bool:
        return not self.relative <= tolerance  # a NaN parts

    def begins(self, tolerance: float) -> bool:
        """It parts, and what it was given does not."""
        return self.differs(tolerance) and self.before <= tolerance


def compare_states(a: LeViT, b: LeViT) -> list[Row]:
    """A row a layer: its parameters and statistics.  Raises LevitError for two different networks."""
    require_same_network(a.config, b.config)
    layers = dict(b.walk())

    def differences(name, layer):
        return {key: _differences(getattr(layer, key), getattr(layers[name], key), name) for key in layer.specs}

    return [_row(name, differences(name, layer)) for name, layer in a.walk() if layer.specs]


def compare_with_trace(model: LeViT, recorded: Trace) -> list[Row]:
    """Repeats a recorded pass: a row a layer's forward, then, in the order of the backward, a row a layer's gradients.

    A row between them is model(x), which a backend may compute by a way of its own.  Raises LevitError for the trace
    of a different network, or by a version of this library with other steps."""
    require_same_network(model.config, recorded.config)
    found = trace(model, recorded.x, recorded.target, teacher=recorded.teacher, backend=model.ops.NAME)
    for a, b in ((found.forward, recorded.forward), (found.backward, recorded.backward)):
        for here, there in zip_longest((step[:2] for step in a), (step[:2] for step in b)):
            if here != there:
                raise LevitError(f"trace: expected the step {here}, found {there}: another version recorded it")
    answer = _row("", {"model(x)": _differences(model(recorded.x), recorded.logits, "model(x)")})
    return [*_forward_rows(found, recorded), answer, *_backward_rows(found, recorded)]


def first_difference(rows: list[Row], tolerance: float) -> Row | None:
    """The first layer that parts though what it was given agrees; else the first that parts at all; else None.

    A layer behind the culprit parts too, and the parts of a layer come before itself: of LinearBN's two, BN parts
    with what it was given when the weight is at fault, and LinearBN is named; BN when its own arrays are."""
    parted = [row for row in rows if row.differs(tolerance)]
    return next((row for row in parted if row.begins(tolerance)), parted[0] if parted else None)


def require_same_network(a: LeViTConfig, b: LeViTConfig) -> None:
    """Raises LevitError that names the differing fields; the name, and drop path, decide no value."""
    different = [f"{f.name} {getattr(a, f.name)} against {getattr(b, f.name)}" for f in fields(LeViTConfig)
                 if f.name not in ("name", "drop_path") and getattr(a, f.name) != getattr(b, f.name)]
    if different:
        raise LevitError(f"expected the same network twice, found {'; '.join(different)}")


def _forward_rows(found: Trace, recorded: Trace) -> Iterator[Row]:
    for a, b in zip(found.forward, recorded.forward):
        before = 0.0 if a.input is None or b.input is None else _differences(a.input, b.input, a.name)[1]
        yield _row(a.name, {"output": _differences(a.output, b.output, a.name)}, before)


def _backward_rows(found: Trace, recorded: Trace) -> Iterator[Row]:
    # Some gradients are nothing but cancellation, the queries' where all values are much alike, say: only rounding is
    # left of them, which no two machines share. So each is held against the largest of its kind in its block.
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
    """stages.0.blocks.1, or stages.1.downsample.attention, of all below it."""
    return ".".join(name.split(".")[:4])


def _row(name: str, differences: dict[str, tuple[float, float]], before: float = 0.0) -> Row:
    what = max(differences, key=lambda key: np.nan_to_num(differences[key][1], nan=np.inf))
    return Row(name, what, *differences[what], before)


def _differences(a: np.ndarray, b: np.ndarray, place: str, largest: float | None = None) -> tuple[float, float]:
    """max |a - b|, and the same relative to `largest`, by default the largest value of the two."""
    if a.shape != b.shape:
        raise LevitError(f"{place}: expected the same shape, found {a.shape} and {b.shape}")
    if not a.size:
        return 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # an infinity is shown, not warned of
        absolute = float(np.abs(np.subtract(a, b, dtype=np.float64)).max())
    if largest is None:
        largest = max(_largest(a), _largest(b))
    return absolute, absolute / largest if largest else float("inf") if absolute else 0.0


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0))
