"""The base class of all layers: named parameters and buffers, their gradients, and the walk over sub-layers."""

from typing import Iterator, NamedTuple

from ..errors import LevitError


class Parameter(NamedTuple):
    """The shape of an array and its initial value: a constant, or a distribution ("uniform" | "normal", width).

    Not `trainable`: a buffer, such as BN's running statistics."""

    shape: tuple[int, ...]
    initial: object
    trainable: bool = True


class Layer:
    """Parameters and buffers are attributes with the names in `specs`; sub-layers are attributes too, or in tuples
    (in lists they are found, but not seen to be exchanged).

    forward(x, training) -> (y, saved): `saved` is what backward needs. training is False (evaluation; saved is None),
    True, or "frozen": computed as in evaluation (running statistics, no drop path), but saved for backward.
    backward(dy, saved) -> dx, and adds the parameters' gradients to `accumulated`. The numbered steps of forward are
    undone in reverse order; a sub-layer's own `saved` is the field of its name.
    shapes(shape of x) yields (layer, output shape, multiply-adds) for this layer and each computing layer below it.

    Whatever is derived from the parameters (inference.executor folds and packs them) must know when they change:
    assigning a parameter is counted (or another sub-layer, which is then refused), and code that writes into an array
    in place calls `written`. `version` counts for one layer, `changes` for all layers of all networks.
    """

    changes, version = 0, 0

    def __setattr__(self, name, value):
        before = vars(self).get(name)
        object.__setattr__(self, name, value)
        if isinstance(before, (Layer, tuple)) or name in vars(self).get("specs", ()):
            self.written()

    def written(self) -> None:
        """Call this after writing into an array of this layer or of one below it."""
        object.__setattr__(self, "version", self.version + 1)
        Layer.changes += 1

    def __init__(self, ops):
        self.ops = ops
        self.name = type(self).__name__
        self.specs: dict[str, Parameter] = {}
        self.accumulated: dict = {}
        self.completed = None  # a function called with this layer once backward has accumulated all its gradients

    def parameter(self, name, shape, initial, trainable=True):
        """Declares the array `self.<name>`, which set_state assigns later; see Parameter."""
        self.specs[name] = Parameter(tuple(shape), initial, trainable)

    def accumulate(self, **gradients):
        """Adds the gradients of one backward; one call with all parameters of the layer."""
        for name, gradient in gradients.items():
            self.accumulated[name] = self.accumulated[name] + gradient if name in self.accumulated else gradient
        if self.completed:
            self.completed(self)

    def children(self) -> Iterator[tuple[str, "Layer"]]:
        """(attribute path, layer) of each direct sub-layer, including those in tuples and lists."""
        for name, value in list(vars(self).items()):  # a copy: another thread may add an attribute meanwhile
            if isinstance(value, Layer):
                yield name, value
            elif isinstance(value, (tuple, list)) and value and isinstance(value[0], Layer):
                yield from ((f"{name}.{i}", layer) for i, layer in enumerate(value))

    def walk(self, name="") -> Iterator[tuple[str, "Layer"]]:
        """This layer and all layers below it, depth first, each with its attribute path."""
        yield name, self
        for child, layer in self.children():
            yield from layer.walk(f"{name}.{child}" if name else child)

    def expect(self, x, rank, channels, axis, form):
        """Raises LevitError, naming this layer, unless x has `rank` axes and `channels` on `axis`; form: the expected
        shape as text."""
        if x.ndim != rank or x.shape[axis] != channels:
            raise LevitError(f"{self.name}: expected x {form}, found {tuple(x.shape)}")
