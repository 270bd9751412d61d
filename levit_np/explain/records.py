"""The records of a traced pass: one per call of a layer's forward or backward, and one per call of an operation."""

from typing import NamedTuple

import numpy as np

from .operations import Source, layer_source, operation


class Forward(NamedTuple):
    """A layer's forward.  input is None if the layer computes from its parameters alone (the attention bias).

    number counts all calls of a pass in the order in which they began, so a layer's is lower than its sub-layers';
    parent is the name of the calling layer (None for the network itself), line the line of the call in its source."""

    name: str
    kind: str  # the layer's class
    input: np.ndarray | None
    output: np.ndarray
    number: int = 0
    parent: str | None = None
    line: int = 0


class Backward(NamedTuple):
    """A layer's backward: the gradients of its output, of its input (None as above) and of its own parameters.

    number, parent and line as in Forward; number continues the same count."""

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

    inputs are the arguments that the layer passed, by the operation's parameter names: arrays, numbers, a dtype's name,
    None, or tuples of arrays or numbers. outputs are named as in the formula (`dx`, `dw` of `linear_backward`) or, if
    the operation returns a list of parts, as the variables of the layer (`q`, `k`, `v` of `split_heads`). No array is
    copied: the output of one step is the same object as the input of the next."""

    number: int  # of the call, in the same count as the layers'
    direction: str  # "forward" or "backward"
    name: str  # unique: layer, operation, and a turn if it is called repeatedly: ….attention.split_heads.1
    layer: str  # the name of the calling layer: "" is the network, "loss" the loss
    kind: str  # the class of that layer
    op: str
    line: int  # of the call, in that layer's source
    inputs: dict[str, object]
    outputs: dict[str, object]

    @property
    def formula(self) -> str:
        """The operation's formula, one line such as `y = x wᵀ + b`."""
        return operation(self.op).formula

    @property
    def meaning(self) -> str:
        """The explanation of the formula in the operation's docstring, or ""."""
        return operation(self.op).meaning

    @property
    def source(self) -> Source:
        """The operation's source in ops/reference: file (relative to the package), first line number, lines.

        Other backends compute the same in other ways."""
        return operation(self.op).source

    @property
    def caller(self) -> Source:
        """The lines of the layer's forward or backward; the one with number `line` calls the operation."""
        return layer_source(self.kind, self.direction)

    def arrays(self) -> dict[str, np.ndarray]:
        """{name: array} of the inputs, then of the outputs."""
        return arrays_of(self.inputs) | arrays_of(self.outputs)


def arrays_of(values: dict) -> dict[str, np.ndarray]:
    """{name: array} of the arrays among the values; `parts.0`, `parts.1` of a tuple or list."""
    parts = {f"{key}.{i}" if isinstance(value, (tuple, list)) else key: part for key, value in values.items()
             for i, part in enumerate(value if isinstance(value, (tuple, list)) else [value])}
    return {key: part for key, part in parts.items() if isinstance(part, np.ndarray)}
