"""Runs a plan step by step with the reference operations, in float64: the fast executors are tested against it, and the
cpu backend uses it in that type."""

from ..ops import reference as ops
from . import plan


class ReferenceExecutor:
    """logits = executor(images), images float64 (B, C, H, W); apart: see plan.steps_of."""

    def __init__(self, model, apart=False):
        self.steps = list(plan.steps_of(model, apart))

    def __call__(self, images):
        tensors = {"image": images}
        for step in self.steps:
            RUN[type(step)](step, tensors)
        return tensors["logits"]


def _convolution(step, tensors):
    y = ops.convolution(tensors["image"], step.weight, step.stride, step.padding) + step.bias[:, None, None]
    tensors["image"] = getattr(ops, step.activation)(y)
    tensors["x"] = ops.image_to_tokens(tensors["image"])


def _linear(step, tensors):
    y = getattr(ops, step.activation)(ops.linear(tensors[step.source], step.weight, step.bias))
    tensors[step.target] = tensors[step.target] + y if step.residual else y


def _subsample(step, tensors):
    tensors[step.target] = ops.subsample(tensors[step.source], *step.grid, step.stride)


def _attention(step, tensors):
    both, queries = tensors[step.source], tensors[step.queries]
    keys = step.heads * step.key
    start = keys if step.queries == step.source else 0  # where k begins in `source`
    q, k, v = (ops.merge_heads_backward(part, step.heads) for part in (  # (B, heads, N, size) each
        queries[..., :keys], both[..., start : start + keys], both[..., start + keys :]))
    context, _ = ops.attention(q, k, v, step.bias, 1)
    tensors[step.target] = getattr(ops, step.activation)(ops.merge_heads(context))


def _layer_norm(step, tensors):
    tensors["normalized"] = ops.layer_norm(tensors[step.source], step.gamma, step.beta, step.eps)


def _embedding(step, tensors):
    tensors["x"] = tensors["x"] + step.embedding


def _token(step, tensors):
    tensors["x"] = ops.prepend_token(tensors["x"], step.token)


def _pool(step, tensors):
    tensors[step.target] = (ops.first_token if step.first else ops.average_pool)(tensors[step.source])


RUN = {plan.Convolution: _convolution, plan.Linear: _linear, plan.Subsample: _subsample, plan.Attention: _attention,
       plan.LayerNorm: _layer_norm, plan.Embedding: _embedding, plan.Token: _token,
       plan.Pool: _pool}
