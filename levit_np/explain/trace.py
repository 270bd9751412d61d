"""The trace of one pass through a network: every layer's input and output, every operation and, with a target, every
gradient.

A file stores each array once, under the first of its names in Trace.arrays: /stages/0/blocks/1/mlp/up/bn/output.  The
document "trace" lists the steps in order, with references to their arrays: the output of one layer is usually the input
of the next, and the output of a block that of its last layer.
"""

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .. import ops
from ..config import LeViTConfig
from ..errors import CheckpointError, LevitError
from ..model import LeViT
from ..storage import hdf5
from . import operations
from .loss import CrossEntropy, Distillation
from .recorder import Recorder
from .records import Backward, Forward, Step


@dataclass(frozen=True, eq=False, repr=False)  # generated eq and repr would go through hundreds of arrays
class Trace:
    """One pass, recorded at two levels: layers and operations.

    forward and backward hold one record per layer, in the order in which the calls ended: sub-layers come before the
    layer that contains them, and the network is last. A name is the layer's attribute path, "" for the network, with
    two exceptions: if a layer is called repeatedly, its calls are numbered (`stem.activation.0`, `.1`, …); and a
    wrapper, whose path belongs to its branch, has its class appended (`stages.0.blocks.0.attention.residual`: x +
    attention(x)).

    steps hold one record per operation (see Step), in order: forward, loss and backward. `step.layer` is the name of
    the layer that called it, in its forward or backward according to `step.direction`; for the loss it is "loss", which
    has no record of its own. All records of layers and operations are numbered by the order in which the calls began:
    sorted by number, forward + backward + steps are a walk from the network down to each operation, and `parent` (for
    an operation: `layer`) is the enclosing call. Plain arithmetic, such as the sum x + branch(x), is no operation; it
    shows in the layer's record.
    """

    config: LeViTConfig
    x: np.ndarray  # the images
    about: str  # a description of the images
    forward: tuple[Forward, ...]
    target: tuple[int, ...] | None = None  # the class of each image
    loss: float | None = None
    backward: tuple[Backward, ...] = ()
    steps: tuple[Step, ...] = ()
    parameters: dict[str, np.ndarray] = field(default_factory=dict)  # parameters and statistics, as model.state()
    teacher: tuple[int, ...] | None = None  # the class that a teacher predicts for each image

    def __repr__(self):
        back = f", {len(self.backward)} back from {list(self.target)}" if self.backward else ""
        return f"<Trace of {self.config.name}: images {self.x.shape}, {len(self.forward)} steps forward{back}>"

    @property
    def logits(self) -> np.ndarray:
        """(B, classes): the heads averaged, as model.forward(x)."""
        return self.forward[-1].output

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """{layer's record: its output}."""
        return {step.name: step.output for step in self.forward}

    @cached_property
    def doutputs(self) -> dict[str, np.ndarray]:
        """{layer's record: the gradient of its output}."""
        return {step.name: step.doutput for step in self.backward}

    @cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """{parameter: its gradient}, under the names of model.gradients()."""
        return {f"{step.name}.{key}": array for step in self.backward for key, array in step.gradients.items()}

    @property
    def dx(self) -> np.ndarray | None:
        """The gradient of the images."""
        return self.backward[-1].dinput if self.backward else None

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """{name: array} of everything recorded: `input` (the images), `stages.0.blocks.0.mlp.up.weight`, `….output`,
        `….doutput`, `….dweight`, and of operations, `….linear.x`. Often one array has several names."""
        found = {"input": self.x} | self.parameters
        for step in self.forward:
            found |= _named(step.name, {"input": step.input, "output": step.output})
        for step in self.backward:
            gradients = {f"d{key}": array for key, array in step.gradients.items()}
            found |= _named(step.name, {"doutput": step.doutput, "dinput": step.dinput, **gradients})
        for step in self.steps:
            found |= _named(step.name, step.arrays())
        return found

    @property
    def nbytes(self) -> int:
        """The bytes of memory that hold the arrays, each counted once: for LeViT-256 at 224×224 with a target 230 MiB,
        of which 72 are the model's own parameters and 72 their gradients."""
        owners = {}
        for array in self.arrays.values():
            while isinstance(array.base, np.ndarray):
                array = array.base
            owners[id(array)] = array.nbytes
        return sum(owners.values())

    def save(self, path) -> None:
        """Writes the trace to an HDF5 file.  Raises CheckpointError for values that are not finite."""
        first = {}  # the name under which an array is stored
        for name, array in self.arrays.items():
            first.setdefault(id(array), name)
        stored = {name: array for name, array in self.arrays.items() if first[id(array)] == name}
        place = _References(first)
        document = {
            "config": self.config.to_dict(), "about": self.about, "x": place(self.x), "target": self.target,
            "teacher": self.teacher, "loss": self.loss, "parameters": place(self.parameters),
            "forward": [[place(value) for value in step] for step in self.forward],
            "backward": [[place(value) for value in step] for step in self.backward],
            "steps": [[place(value) for value in step] for step in self.steps],
        }
        hdf5.write(path, stored, {"trace": document})

    @classmethod
    def read(cls, path) -> "Trace":
        """The inverse of save.  Raises CheckpointError for anything wrong with the file, or if it is no trace."""
        arrays, documents = hdf5.read(path)
        if "trace" not in documents:
            raise CheckpointError(f"{os.fspath(path)}: expected a recorded trace, found another file of arrays")
        try:
            return _from_document(arrays, documents["trace"])
        except KeyError as error:
            raise CheckpointError(f"{os.fspath(path)}: trace: expected {error}, found none") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{os.fspath(path)}: trace: {error}") from None


def is_trace(path) -> bool:
    """Whether a file holds a trace; false for weight files of any format and for files that cannot be read."""
    try:
        return "trace" in hdf5.read(path)[1]
    except CheckpointError:
        return False


def _named(layer: str, arrays: dict) -> dict[str, np.ndarray]:
    return {f"{layer}.{key}".lstrip("."): array for key, array in arrays.items() if array is not None}


class _References:
    """Turns values into JSON, with an array as {"array": the name under which it is stored}."""

    def __init__(self, names: dict[int, str]):
        self.names = names

    def __call__(self, value):
        if isinstance(value, np.ndarray):
            return {"array": self.names[id(value)]}
        if isinstance(value, dict):
            return {"values": {key: self(part) for key, part in value.items()}}
        return [self(part) for part in value] if isinstance(value, (tuple, list)) else value


def _value(stored, arrays: dict):
    """The inverse of _References."""
    if isinstance(stored, dict):
        if "array" in stored:
            return arrays[stored["array"]]
        return {key: _value(part, arrays) for key, part in stored["values"].items()}
    return tuple(_value(part, arrays) for part in stored) if isinstance(stored, list) else stored


def _from_document(arrays: dict, document: Any) -> Trace:
    fields = {key: _value(value, arrays) for key, value in document.items() if key not in ("config", "about")}
    forward = tuple(_record(Forward, row) for row in fields["forward"])
    backward = tuple(_record(Backward, row) for row in fields["backward"])
    steps = tuple(_record(Step, row) for row in fields["steps"])
    target, teacher = (None if fields[key] is None else tuple(map(int, fields[key])) for key in ("target", "teacher"))
    loss = None if fields["loss"] is None else float(fields["loss"])
    if not forward or (target is None) != (not backward):
        raise ValueError("expected the steps of a pass, and a backward where there is a target")
    _require(fields["x"], np.ndarray)
    for array in _require(fields["parameters"], dict).values():
        _require(array, np.ndarray)
    return Trace(LeViTConfig.from_dict(document["config"]), fields["x"], str(document["about"]), forward, target, loss,
                 backward, steps, fields["parameters"], teacher)


_TYPES = {  # of the fields of each record
    Forward: (str, str, (np.ndarray, type(None)), np.ndarray, int, (str, type(None)), int),
    Backward: (str, str, np.ndarray, (np.ndarray, type(None)), dict, int, (str, type(None)), int),
    Step: (int, str, str, str, str, str, int, dict, dict),
}


def _record(kind, row):
    """A record from a row of the document.  Raises ValueError for wrong types and unknown names."""
    if len(row) != len(_TYPES[kind]):
        raise ValueError(f"expected {len(_TYPES[kind])} fields of each {kind.__name__}, found {len(row)}: another "
                         "version recorded it")
    found = kind(*(_require(value, types) for value, types in zip(row, _TYPES[kind])))
    for array in found.gradients.values() if kind is Backward else ():
        _require(array, np.ndarray)
    operations.layer_class(found.kind)
    if kind is Step:
        operations.operation(found.op)
        if found.direction not in ("forward", "backward"):
            raise ValueError(f"expected forward or backward, found {found.direction!a:.100}")
    return found


def _require(value, types):
    if not isinstance(value, types):
        raise ValueError(f"expected {types}, found {value!a:.100}")
    return value


def trace(model: LeViT, x: np.ndarray, target=None, about: str = "", *, teacher=None,
          backend: str = "reference") -> Trace:
    """Evaluates `model` on images x (B, C, H, W) and records every layer and operation; `about` describes x.

    It computes as in evaluation (running statistics, no drop path: training="frozen"), with the reference operations,
    whose lines the steps show, or with those of another `backend`; each output is exactly the value that model.forward
    computes there. With `target`, a class or one per image, the loss is the cross-entropy of the averaged logits, a
    mean over the batch,

        loss = -1/B Σ_b log softmax((logits + logits_dist) / 2)[b, target_b],

    and the backward follows: the averaged logits get the gradient (softmax - onehot) / B, each head half of it (without
    distillation the only head gets all of it). With `teacher`, the class that a teacher predicts or one per image, it
    is the loss that LeViT is trained with, half the cross-entropy of one head with the target and half that of the
    other with the teacher's class,

        loss = -1/(2B) Σ_b (log softmax(logits)[b, target_b] + log softmax(logits_dist)[b, teacher_b]).

    The model and its gradients are not changed. Arrays are not copied: training that writes into the model's parameters
    also changes those in the trace. Raises LevitError for images, a target or a teacher that do not fit, BackendError
    for a backend that is not there."""
    with Recorder(model, ops.backend(backend)) as recorder:
        x = recorder.ops.asarray(model.ops.to_host(x).copy())
        with recorder.calling("", "LeViT", "forward") as whole:
            outputs, saved = recorder.network.forward(x, training="frozen")
        logits = (outputs[0] + outputs[1]) / 2 if isinstance(outputs, tuple) else outputs
        end = Forward("", "LeViT", recorder.here(x), recorder.here(logits), *recorder.place(whole))
        loss, value, backward = _loss(recorder.ops, model, len(x), target, teacher), None, ()
        if loss:
            value, back = _loss_and_backward(recorder, loss, outputs, saved)
            backward = (*recorder.backwards(), back)
        classes = [None if given is None else tuple(getattr(loss, what).tolist())
                   for what, given in (("target", target), ("teacher", teacher))]
        return Trace(model.config, end.input, about, (*recorder.forwards(), end), classes[0], value, backward,
                     tuple(recorder.steps()), recorder.here(recorder.network.state()), classes[1])


def _loss_and_backward(recorder: Recorder, loss, outputs, saved) -> tuple[float, Backward]:
    """The loss, and the network's own backward record; the gradient of the averaged logits is the sum of the heads'."""
    kind = type(loss).__name__
    with recorder.calling("loss", kind, "forward"):
        value, saved_loss = loss.forward(outputs)
    with recorder.calling("loss", kind, "backward"):
        doutputs = loss.backward(outputs, saved_loss)
    with recorder.calling("", "LeViT", "backward") as whole:
        dx = recorder.network.backward(doutputs, saved)
    dlogits = doutputs[0] + doutputs[1] if isinstance(doutputs, tuple) else doutputs
    return float(value), Backward("", "LeViT", recorder.here(dlogits), recorder.here(dx), {}, *recorder.place(whole))


def _loss(operations, model: LeViT, batch: int, target, teacher):
    """The loss with which the trace ends, or None."""
    if target is None and teacher is None:
        return None
    if target is None or teacher is not None and not model.config.distillation:
        raise LevitError(f"teacher: expected a target too, and a model with two heads, found target {target!r} and "
                         f"{model.config.name}")
    target = _classes("target", target, batch, model.config.num_classes)
    if teacher is None:
        return CrossEntropy(operations, target)
    return Distillation(operations, target, _classes("teacher", teacher, batch, model.config.num_classes))


def _classes(what: str, given, batch: int, classes: int) -> np.ndarray:
    """The class of each image, int64 (B,).  Raises LevitError for anything else."""
    found = np.asarray(given)
    if found.dtype.kind not in "iu" or found.shape not in ((), (batch,)):
        raise LevitError(f"{what}: expected the number of a class, or one for each of {batch} images, found {given!r}")
    if found.size and not (0 <= found.min() and found.max() < classes):
        raise LevitError(f"{what}: expected classes from 0 to {classes - 1}, found {given!r}")
    return np.broadcast_to(found, batch).astype(np.int64)
