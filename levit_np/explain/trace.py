"""What happened in one pass through a network: every layer's input and output, every operation, and with a target every
gradient.

In a file each array stands once, at the attribute path of the layer that made it: /stages/0/blocks/1/mlp/up/output.
The document "trace" lists the steps in order and which arrays are whose: the output of one layer is most often the
input of the next, and that of a block the output of its last layer.
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


@dataclass(frozen=True, eq=False, repr=False)  # both would go through hundreds of arrays
class Trace:
    """One pass, at two levels.

    forward and backward hold a record a layer, in the order in which they ended: the parts of a layer come before it,
    and the network is the last. A name is the layer's attribute path, "" for the network. Two kinds of layers need
    more: a layer that computes repeatedly has its turns numbered (`stem.activation.0`, `.1`, …), and a wrapper, whose
    path belongs to its branch, is called after its class (`stages.0.blocks.0.attention.residual`: x + attention(x)).

    steps hold a record an operation (see Step), in order, forward, loss and backward. `step.layer` is the name of the
    layer that called it, in forward or backward as `step.direction` says; the loss's are those of a layer "loss", which
    has no record of its own. All records, of layers and of operations, bear a number in one count of the calls in the
    order in which they began: sorted by it, forward + backward + steps are a walk from the network down to each
    operation, and `parent` (of an operation: `layer`) says what is a part of what. Plain arithmetic, the sum
    x + branch(x) say, is no operation; the layer's record shows it.
    """

    config: LeViTConfig
    x: np.ndarray  # the images
    about: str  # where they come from
    forward: tuple[Forward, ...]
    target: tuple[int, ...] | None = None  # a class an image
    loss: float | None = None
    backward: tuple[Backward, ...] = ()
    steps: tuple[Step, ...] = ()
    parameters: dict[str, np.ndarray] = field(default_factory=dict)  # parameters and statistics, as model.state()
    teacher: tuple[int, ...] | None = None  # the class that a teacher chose, an image

    def __repr__(self):
        back = f", {len(self.backward)} back from {list(self.target)}" if self.backward else ""
        return f"<Trace of {self.config.name}: images {self.x.shape}, {len(self.forward)} steps forward{back}>"

    @property
    def logits(self) -> np.ndarray:
        """(B, classes): the heads averaged, as model.forward(x)."""
        return self.forward[-1].output

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """{step: its output}."""
        return {step.name: step.output for step in self.forward}

    @cached_property
    def doutputs(self) -> dict[str, np.ndarray]:
        """{step: the gradient that reached its output}."""
        return {step.name: step.doutput for step in self.backward}

    @cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """{parameter: its gradient}, under the names of model.gradients()."""
        return {f"{step.name}.{key}": array for step in self.backward for key, array in step.gradients.items()}

    @property
    def dx(self) -> np.ndarray | None:
        """The gradient that reached the images."""
        return self.backward[-1].dinput if self.backward else None

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """{name: array} of all that is recorded: `input` (the images), `stages.0.blocks.0.mlp.up.weight`, `….output`,
        `….doutput`, `….dweight`, and an operation's, `….linear.x`. Many are one array under several names."""
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
        """The memory that holds the arrays, each counted once: of LeViT-256 at 224×224 with a target 230 MiB, of which
        72 are the model's own parameters and as many their gradients."""
        owners = {}
        for array in self.arrays.values():
            while isinstance(array.base, np.ndarray):
                array = array.base
            owners[id(array)] = array.nbytes
        return sum(owners.values())

    def save(self, path) -> None:
        """Replaces `path` by an HDF5 file of the trace; CheckpointError for values that are not finite."""
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
        """The inverse of save.  Raises CheckpointError for whatever is wrong with the file, or no trace."""
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
    """Whether a file holds a trace; a weight file of any format, and one that cannot be read, does not."""
    try:
        return "trace" in hdf5.read(path)[1]
    except CheckpointError:
        return False


def _named(layer: str, arrays: dict) -> dict[str, np.ndarray]:
    return {f"{layer}.{key}".lstrip("."): array for key, array in arrays.items() if array is not None}


class _References:
    """Values as JSON: an array is {"array": the name under which it is stored}."""

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
    """One of the records, of the right types and with names that are known; ValueError otherwise."""
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
    """Evaluates `model` on images x (B, C, H, W) and records every layer and operation; `about` says what x is.

    The arithmetic is the evaluation's (running statistics, no drop path: training="frozen"), on the textbook's
    operations, whose lines a step shows, or those of another `backend`: each output is the very value that
    model.forward computes there. With `target`, a class or one an image, the loss is the cross-entropy of the averaged
    logits, a mean over the batch,

        loss = -1/B Σ_b log softmax((logits + logits_dist) / 2)[b, target_b],

    and the backward follows: (softmax - onehot) / B reaches the average, a half of it each head. Without distillation
    there is one head, and all of it reaches that. With a `teacher`'s choice too, a class or one an image, it is what
    LeViT is trained with, half the cross-entropy of one head with the target and half of the other's with the teacher,

        loss = -1/(2B) Σ_b (log softmax(logits)[b, target_b] + log softmax(logits_dist)[b, teacher_b]).

    The model itself is left alone, its gradients too. Arrays are kept, not copied: a training that writes into the
    model's parameters changes those that the trace shows. Raises LevitError for images, a target or a teacher
    that do not fit, BackendError for a backend that is not there."""
    recorder, here = Recorder(model, ops.backend(backend)), model.ops.to_host(x).copy()
    x = recorder.ops.asarray(here)
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
    """The loss and the network's own record; the heads' gradients together are that of the average."""
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
    """What the trace ends in, or None."""
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
    """One class an image, as whole numbers (B,)."""
    found = np.asarray(given)
    if found.dtype.kind not in "iu" or found.shape not in ((), (batch,)):
        raise LevitError(f"{what}: expected a class, or one for each of {batch} images, found {given!r}")
    if found.size and not (0 <= found.min() and found.max() < classes):
        raise LevitError(f"{what}: expected classes from 0 to {classes - 1}, found {given!r}")
    return np.broadcast_to(found, batch).astype(np.int64)
