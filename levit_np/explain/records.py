"""The steps of a recorded pass: of each layer, forward and backward, and of each operation within them."""

from typing import NamedTuple

import numpy as np

from .operations import Source, layer_source, operation


class Forward(NamedTuple):
    """A layer's forward.  input is None where the parameters alone are computed with (the attention bias).

    number counts all calls of a pass in the order in which they began, so that a layer's is below those of its parts;
    parent is the name of the layer that called it (None for the network itself), line the one of its source that
    did."""

    name: str
    kind: str  # the layer's class
    input: np.ndarray | None
    output: np.ndarray
    number: int = 0
    parent: str | None = None
    line: int = 0


class Backward(NamedTuple):
    """A layer's backward: the gradient that reached its output, the one that left at its input (None as above), and
    those of its own parameters.  number, parent and line as above, in one count with the forward's."""

    name: str
    kind: str
    doutput: np.ndarray
    dinput: np.ndarray | None
    gradients: dict[str, np.ndarray]
    number: int = 0
    parent: str | None = None
    line: int = 0


class Step(NamedTuple):
    """One call of one operation, y = op(inputs).

    inputs are the values by the operation's own argument names: arrays, tuples of them, numbers, None; those that the
    layer left out are not among them. outputs are named as in the formula (`dx`, `dw` of `linear_backward`), or, where
    the operation returns a list of parts, as the layer calls them (`q`, `k`, `v` of `split_heads`). No array is a copy:
    the output of one step is the very array that is the input of the next."""

    number: int  # of the call, in one count with the layers'
    direction: str  # "forward" or "backward"
    name: str  # unique: the layer's, the operation's, and a turn where it occurs twice: ….attention.split_heads.1
    layer: str  # the name of the layer that called it: "" is the network, "loss" the loss
    kind: str  # that layer's class
    op: str
    line: int  # of that layer's source, where it is called
    inputs: dict[str, object]
    outputs: dict[str, object]

    @property
    def formula(self) -> str:
        """In one line: `y = x wᵀ + b`."""
        return operation(self.op).formula

    @property
    def meaning(self) -> str:
        """What the operation's docstring adds to the formula, or ""."""
        return operation(self.op).meaning

    @property
    def source(self) -> Source:
        """The textbook's lines of the operation: file below the package, number of the first line, lines.

        Another backend computes the same by other means."""
        return operation(self.op).source

    @property
    def caller(self) -> Source:
        """The lines of the layer's forward or backward; the one with number `line` calls the operation."""
        return layer_source(self.kind, self.direction)

    def arrays(self) -> dict[str, np.ndarray]:
        """{name: array} of the inputs, then of the outputs; `parts.0`, `parts.1` of a tuple."""
        found = {}
        for name, value in (*self.inputs.items(), *self.outputs.items()):
            parts = {f"{name}.{i}": part for i, part in enumerate(value)} if isinstance(value, tuple) else {name: value}
            found |= {key: part for key, part in parts.items() if isinstance(part, np.ndarray)}
        return found
