"""Every operation of one pass, in the order of computation, with the arrays that went in and came out."""

import inspect
from typing import NamedTuple

import numpy as np

from ...model import LeViT
from ..trace import _named

OUT = {"attention": ("y", "probabilities"), "linear_backward": ("dx", "dw"), "convolution_backward": ("dx", "dw"),
       "normalize_backward": ("dx", "dgamma", "dbeta"), "layer_norm_backward": ("dx", "dgamma", "dbeta"),
       "attention_backward": ("dq", "dk", "dv", "dbias"), "bias_backward": ("db",), "gather_bias": ("bias",),
       "gather_bias_backward": ("dtable",), "bias_index": ("index",), "prepend_token_backward": ("dx", "dtoken")}


class Step(NamedTuple):
    layer: str
    kind: str
    op: str
    direction: str
    inputs: dict
    outputs: dict
    line: int


class _Ops:
    """The operations of a backend, each call written down."""

    def __init__(self, module, note):
        self._module, self._note = module, note

    def __getattr__(self, name):
        value = getattr(self._module, name)
        if not inspect.isfunction(value):
            return value
        note = self._note

        def call(*args, **kwargs):
            line = inspect.currentframe().f_back.f_lineno
            result = value(*args, **kwargs)
            arguments = dict(inspect.signature(value).bind(*args, **kwargs).arguments)
            if name == "split_heads":
                names = ("q", "k", "v")[-len(result):] if len(result) != 1 else ("q",)
            else:
                names = OUT.get(name, ("dx",) if name.endswith("_backward") else ("y",))
            values = result if isinstance(result, (tuple, list)) else (result,)
            note(name, arguments, dict(zip(names, values)), line)
            return result

        return call


def passes(model: LeViT, x, seeds: dict):
    """(outputs, forward steps, {name: (dx, backward steps)}): one forward, and a backward for each of `seeds`, which
    is {name: outputs -> doutputs}."""
    steps, stack = [], [("", "LeViT", "forward")]

    def note(op, inputs, outputs, line):
        steps.append(Step(*stack[-1][:2], op, stack[-1][2], inputs, outputs, line))

    network = LeViT(model.config, _Ops(model.ops, note))
    network.set_state(model.state())
    for name, layer in _named(network):
        _listen(name, layer, stack, note)
    outputs, saved = network.forward(x, training="frozen")
    forward, back = tuple(steps), {}
    for name, seed in seeds.items():
        steps.clear()
        stack[0] = ("", "LeViT", "backward")
        for _, layer in network.walk():
            layer.accumulated.clear()
        dx = network.backward(seed(outputs), saved)
        back[name] = dx, tuple(steps)
    return outputs, forward, back


def _listen(name, layer, stack, note):
    forward, backward, kind = layer.forward, layer.backward, type(layer).__name__

    def listening(function, direction):
        def call(*args, **options):
            stack.append((name, kind, direction))
            try:
                result = function(*args, **options)
            finally:
                stack.pop()
            if kind == "Residual" and direction == "forward":
                note_as(name, kind, direction, "add", {"x": args[0]}, {"y": result[0]})
            elif kind == "Residual":
                note_as(name, kind, direction, "add_backward", {"dy": args[0]}, {"dx": result})
            return result

        return call

    def note_as(name, kind, direction, op, inputs, outputs):
        stack.append((name, kind, direction))
        note(op, inputs, outputs, 0)
        stack.pop()

    layer.forward, layer.backward = listening(forward, "forward"), listening(backward, "backward")
