"""What every layer shares: named parameters and buffers, their gradients, and the walk over children."""

from typing import Iterator, NamedTuple

from ..errors import LevitError


class Parameter(NamedTuple):
    """The shape of an array and how it starts: a number (constant), or ("uniform" | "normal", width)."""

    shape: tuple[int, ...]
    initial: object
    trainable: bool = True


class Layer:
    """Parameters and buffers are attributes of the names in `specs`; sub-layers are attributes too.

    forward(x, training) -> (y, saved).  training is False (evaluation, saved is None), True, or "frozen":
    the evaluation's arithmetic (running statistics, no drop path), saved for backward.
    backward(dy, saved) -> dx adds to `accumulated`.  The fields of saved bear the names of the sub-layers.
    shapes(shape of x) yields (layer, shape of its output, multiply-adds) of this layer and those below that compute.

    What is made of the parameters (inference.executor) must know when they change: each replacement is counted, and
    who writes into them calls `written`.  `version` counts for one layer, `changes` for all layers of all networks.
    """

    changes, version = 0, 0

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)
        if name in vars(self).get("specs", ()):
            self.written()

    def written(self) -> None:
        """To be called after writing into an array of this layer, or of one below it."""
        object.__setattr__(self, "version", self.version + 1)
        Layer.changes += 1

    def __init__(self, ops):
        self.ops = ops
        self.name = type(self).__name__
        self.specs: dict[str, Parameter] = {}
        self.accumulated: dict = {}
        self.completed = None  # called with this layer when a backward has given all its gradients

    def parameter(self, name, shape, initial, trainable=True):
        """Declares the array self.name, which set_state brings; see Parameter."""
        self.specs[name] = Parameter(tuple(shape), initial, trainable)

    def accumulate(self, **gradients):
        """Adds a backward's gradients, all that the layer has, in one call."""
        for name, gradient in gradients.items():
            self.accumulated[name] = self.accumulated[name] + gradient if name in self.accumulated else gradient
        if self.completed:
            self.completed(self)

    def children(self) -> Iterator[tuple[str, "Layer"]]:
        """(attribute path, layer) of the sub-layers, those in lists too."""
        for name, value in list(vars(self).items()):  # at once: another thread may add an attribute meanwhile
            if isinstance(value, Layer):
                yield name, value
            elif isinstance(value, list) and value and isinstance(value[0], Layer):
                yield from ((f"{name}.{i}", layer) for i, layer in enumerate(value))

    def walk(self, name="") -> Iterator[tuple[str, "Layer"]]:
        """This layer and all below, depth first, each with its attribute path."""
        yield name, self
        for child, layer in self.children():
            yield from layer.walk(f"{name}.{child}" if name else child)

    def expect(self, x, rank, channels, axis, form):
        """Raises LevitError, naming this layer, where x has not so many axes or channels; form: how it says so."""
        if x.ndim != rank or x.shape[axis] != channels:
            raise LevitError(f"{self.name}: expected x {form}, got {tuple(x.shape)}")
