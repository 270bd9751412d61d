"""What happened in one pass through a network: every layer's input and output and, with a target, every gradient.

In a file each array stands once, at the attribute path of the layer that made it: /stages/0/blocks/1/mlp/up/output.
The document "trace" lists the steps in order and which arrays are whose: the output of one layer is most often the
input of the next, and that of a block the output of its last layer.
"""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple

import numpy as np

from ..config import LeViTConfig
from ..errors import CheckpointError, LevitError
from ..layers.layer import Layer
from ..model import LeViT
from ..storage import hdf5


class Forward(NamedTuple):
    """A layer's forward.  input is None where the parameters alone are computed with (the attention bias)."""

    name: str
    kind: str  # the layer's class
    input: np.ndarray | None
    output: np.ndarray


class Backward(NamedTuple):
    """A layer's backward: the gradient that reached its output, the one that left at its input (None as above), and
    those of its own parameters."""

    name: str
    kind: str
    doutput: np.ndarray
    dinput: np.ndarray | None
    gradients: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)  # both would go through hundreds of arrays
class Trace:
    """The steps in the order in which they ended: the parts of a layer come before it, and the network is the last.

    A step's name is the layer's attribute path, "" for the network. Two kinds of layers need more: a layer that
    computes repeatedly has its turns numbered (`stem.activation.0`, `.1`, …), and a wrapper, whose path belongs to
    its branch, is called after its class (`stages.0.blocks.0.attention.residual`: x + attention(x)).
    """

    config: LeViTConfig
    x: np.ndarray  # the images
    about: str  # where they come from
    forward: tuple[Forward, ...]
    target: tuple[int, ...] | None = None  # a class an image
    loss: float | None = None
    backward: tuple[Backward, ...] = ()

    def __repr__(self):
        back = f", {len(self.backward)} back from {list(self.target)}" if self.backward else ""
        return f"<Trace of {self.config.name}: images {self.x.shape}, {len(self.forward)} steps forward{back}>"

    @property
    def logits(self) -> np.ndarray:
        """(B, classes): the heads averaged, as model.forward(x)."""
        return self.forward[-1].output

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        """{step: its output}."""
        return {step.name: step.output for step in self.forward}

    @property
    def doutputs(self) -> dict[str, np.ndarray]:
        """{step: the gradient that reached its output}."""
        return {step.name: step.doutput for step in self.backward}

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """{parameter: its gradient}, under the names of model.gradients()."""
        return {f"{step.name}.{key}": array for step in self.backward for key, array in step.gradients.items()}

    @property
    def dx(self) -> np.ndarray | None:
        """The gradient that reached the images."""
        return self.backward[-1].dinput if self.backward else None

    def save(self, path) -> None:
        """Replaces `path` by an HDF5 file of the trace; CheckpointError for values that are not finite."""
        arrays, kept = {}, {}

        def keep(step, field, array):
            """The name of the array, stored where it occurs first."""
            if array is not None and id(array) not in kept:
                name = ".".join(filter(None, (step, field)))
                arrays[name], kept[id(array)] = array, name
            return kept.get(id(array))

        document = {
            "config": self.config.to_dict(), "about": self.about, "x": keep("", "input", self.x),
            "target": self.target, "loss": self.loss,
            "forward": [[s.name, s.kind, keep(s.name, "input", s.input), keep(s.name, "output", s.output)]
                        for s in self.forward],
            "backward": [[s.name, s.kind, keep(s.name, "doutput", s.doutput), keep(s.name, "dinput", s.dinput),
                          {key: keep(s.name, f"d{key}", array) for key, array in s.gradients.items()}]
                         for s in self.backward],
        }
        hdf5.write(path, arrays, {"trace": document})

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


def _from_document(arrays: dict, document: Any) -> Trace:
    def array(name):
        return None if name is None else arrays[name]

    forward = tuple(Forward(str(name), str(kind), array(x), arrays[y]) for name, kind, x, y in document["forward"])
    backward = tuple(Backward(str(name), str(kind), arrays[dy], array(dx),
                              {str(key): arrays[place] for key, place in gradients.items()})
                     for name, kind, dy, dx, gradients in document["backward"])
    target = None if document["target"] is None else tuple(map(int, document["target"]))
    loss = None if document["loss"] is None else float(document["loss"])
    if not forward or (target is None) != (not backward):
        raise ValueError("expected the steps of a pass, and a backward where there is a target")
    return Trace(LeViTConfig.from_dict(document["config"]), arrays[document["x"]], str(document["about"]), forward,
                 target, loss, backward)


def trace(model: LeViT, x: np.ndarray, target=None, about: str = "") -> Trace:
    """Evaluates `model` on images x (B, C, H, W) and records every layer; `about` says where x comes from.

    The arithmetic is the evaluation's (running statistics, no drop path: training="frozen"), on the model's own
    backend: each output is the very value that model.forward computes. With `target`, a class or one an image, the
    loss is the cross-entropy of the averaged logits, a mean over the batch,

        loss = -1/B Σ_b log softmax((logits + logits_dist) / 2)[b, target_b],

    and the backward follows: (softmax - onehot) / B reaches the average, a half of it each head. Without distillation
    there is one head, and all of it reaches that. The model itself is left alone, its gradients too. Raises LevitError
    for images or a target that do not fit."""
    recorder = _Recorder(model)
    x = x.copy()
    outputs, saved = recorder.network.forward(x, training="frozen")
    both = model.head_dist is not None
    logits = (outputs[0] + outputs[1]) / 2 if both else outputs
    forward = (*recorder.forward(), Forward("", type(recorder.network).__name__, x, logits))
    if target is None:
        return Trace(model.config, x, about, forward)
    target = _targets(target, len(x), model.config.num_classes)
    onehot = model.ops.targets_of(target, model.config.num_classes, dtype=x.dtype)
    dlogits = model.ops.cross_entropy_backward(logits, onehot)
    dx = recorder.network.backward((dlogits / 2, dlogits / 2) if both else dlogits, saved)
    backward = (*recorder.backward(), Backward("", type(recorder.network).__name__, dlogits, dx, {}))
    loss = float(model.ops.cross_entropy(logits, onehot))
    return Trace(model.config, x, about, forward, tuple(target), loss, backward)


def _targets(target, batch: int, classes: int) -> list[int]:
    """One class an image, as whole numbers."""
    given = np.asarray(target)
    if given.dtype.kind not in "iu" or given.shape not in ((), (batch,)):
        raise LevitError(f"target: expected a class, or one for each of {batch} images, found {target!r}")
    if given.size and not (0 <= given.min() and given.max() < classes):
        raise LevitError(f"target: expected classes from 0 to {classes - 1}, found {target!r}")
    return np.broadcast_to(given, batch).tolist()


class _Recorder:
    """A network of the same arrays as the model whose layers write down what they are given and give.

    A network of its own: nothing of the model's has to be restored, and another thread may use it meanwhile."""

    def __init__(self, model: LeViT):
        self.network = LeViT(model.config, model.ops)
        self.network.set_state(model.state())
        self.forwards, self.backwards = [], []
        for name, layer in _named(self.network):
            self._listen(name, layer)

    def _listen(self, name: str, layer: Layer) -> None:
        forward, backward, kind = layer.forward, layer.backward, type(layer).__name__

        def listening_forward(x=None, *more, **options):
            result = forward() if x is None else forward(x, *more, **options)
            self.forwards.append(Forward(name, kind, x, result[0] if isinstance(result, tuple) else result))
            return result

        def listening_backward(dy, *saved):
            dx = backward(dy, *saved)
            self.backwards.append(Backward(name, kind, dy, dx, dict(layer.accumulated)))
            return dx

        layer.forward, layer.backward = listening_forward, listening_backward

    def forward(self) -> Iterator[Forward]:
        times, turn = Counter(step.name for step in self.forwards), Counter()
        for step in self.forwards:
            yield step._replace(name=f"{step.name}.{turn[step.name]}") if times[step.name] > 1 else step
            turn[step.name] += 1

    def backward(self) -> Iterator[Backward]:
        """The last turn of a layer is the first to be undone."""
        left = Counter(step.name for step in self.backwards)
        times = Counter(left)
        for step in self.backwards:
            left[step.name] -= 1
            yield step._replace(name=f"{step.name}.{left[step.name]}") if times[step.name] > 1 else step


def _named(network: LeViT) -> Iterator[tuple[str, Layer]]:
    """(name as in Trace, layer) of every layer below the network."""
    names = {id(layer): name for name, layer in network.walk()}
    for layer in _below(network):
        inner = layer
        while id(inner) not in names:
            inner = inner.branch
        yield names[id(inner)] + ("" if inner is layer else f".{type(layer).__name__.lower()}"), layer


def _below(layer: Layer) -> Iterator[Layer]:
    for _, child in layer.children():
        yield child
        yield from _below(child)
