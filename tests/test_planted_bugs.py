"""Bugs planted one at a time, each of which the suite's checks must detect: a test that cannot fail shows nothing.

A bug is a change to the source of one function, or of a forward and its backward together, which then still agree with
each other, so that only an independent implementation can tell. No bug raises an error, which would be noticed
anyway."""

import inspect
import pkgutil
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from levit_np.ops import reference as ops

from .networks import TINY, against_torch, is_right
from .ops.cases import op_is_right


def network_is_right():
    """Compares small networks, in every mode, with the torch LeViT: logits, gradients, running statistics."""
    return all(is_right(against_torch(config, training)) for training in (True, "frozen", False)
               for config in TINY.values())


def optimizer_is_right():
    """Compares three steps of AdamW with torch's, also with gradients that are small compared to eps."""
    values, gradients = np.random.default_rng(0).standard_normal((2, 3, 8)) * [1, 1, 1, 1, 1, 1, 1, 1e-8]
    peer = torch.nn.Parameter(torch.from_numpy(values[0].copy()))
    optimizer, mine, moments = torch.optim.AdamW([peer], lr=0.01, weight_decay=0.1), values[0], (0.0, 0.0)
    for step, gradient in enumerate(gradients, 1):
        peer.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        mine, *moments = ops.adamw(mine, gradient, *moments, step, 0.01, decay=0.1)
    return np.allclose(mine, peer.detach().numpy(), rtol=1e-12, atol=1e-15)


def in_op(name, target, old, new):
    """A bug that the operation's own adjoint check detects, without torch."""
    return pytest.param(lambda: op_is_right(name, ops), [(f"ops.reference.{target}", old, new)],
                        id=f"{target}: {new or old}")


def in_network(what, *edits):
    return pytest.param(network_is_right, edits, id=what)


def in_optimizer(old, new):
    return pytest.param(optimizer_is_right, [("ops.reference.adamw", old, new)], id=f"adamw: {new}")


_OPS, _ATTENTION, _BLOCK = "ops.reference", "layers.attention", "layers.block"
_NO_SHORTCUT = (f"{_BLOCK}.Residual.backward", "self.ops.add(dy, self.branch.backward(dh, saved.branch))",
                "self.branch.backward(dh, saved.branch)"),
BUGS = [
    # Only in the backward: a sign, a scale, a dropped term, a wrong axis.
    in_op("hardswish", "hardswish_backward", "2 * x + 3", "2 * x - 3"),
    in_op("silu", "silu_backward", "x * (1 - s)", "x * s"),
    in_op("softmax", "softmax_backward", " - (dy * y).sum(-1, keepdims=True)", ""),
    in_op("softmax", "softmax_backward", "(dy * y).sum(-1", "(dy * y).sum(0"),
    in_op("attention", "attention", "k.swapaxes(-1, -2)) * scale", "k.swapaxes(-1, -2))"),
    in_op("attention", "attention_backward", "(dscores @ k) * scale", "dscores @ k"),
    in_op("attention", "attention_backward", "dscores.sum(0)", "dscores.mean(0)"),
    in_op("gather_bias", "gather_bias_backward", "index.ravel()", "index.ravel()[::-1]"),
    in_op("split_heads", "split_heads_backward", "np.concatenate(parts, -1)", "np.concatenate(parts[::-1], -1)"),
    in_op("merge_heads", "merge_heads_backward", "heads, dy.shape[2] // heads).transpose(0, 2, 1, 3)",
          "dy.shape[2] // heads, heads).transpose(0, 3, 1, 2)"),
    in_op("convolution", "convolution_backward", "dw[:, :, i, j]", "dw[:, :, j, i]"),
    in_op("convolution", "convolution_backward", "[...] += dpixels", "[...] = dpixels"),
    in_op("linear", "linear_backward", "dx = dy @ w", "dx = -dy @ w"),
    in_op("bias", "bias_backward", ".sum(0)", ".mean(0)"),
    in_op("normalize", "normalize_backward", "gamma * inverse_deviation", "gamma"),
    in_op("batch_norm", "batch_norm_backward", " + normalized * dgamma.reshape(shape)", ""),
    in_op("batch_norm", "batch_norm_backward", "/ statistics.count", "/ (statistics.count - 1)"),
    in_op("layer_norm", "layer_norm_backward", "(dnormalized * normalized).mean", "(dy * normalized).mean"),
    in_op("average_pool", "average_pool_backward", " / tokens", ""),
    in_op("first_token", "first_token_backward", "dx[:, 0]", "dx[:, -1]"),
    in_op("prepend_token", "prepend_token_backward", "dy[:, :1].sum(0)", "dy[:, -1:].sum(0)"),
    in_op("subsample", "subsample_backward", "dx[:, ::stride, ::stride]", "dx[:, ::-stride, ::stride]"),
    in_op("cross_entropy", "cross_entropy_backward", "/ len(logits)", "/ logits.size"),
    in_op("soft_distillation", "soft_distillation_backward", ") * temperature /", ") * temperature**2 /"),
    in_op("hard_distillation", "hard_distillation_backward", "argmax", "argmin"),

    # In forward and backward alike.
    in_network("scores without 1/sqrt(D)",
               (f"{_ATTENTION}.Attention.forward", "self.sizes[0] ** -0.5", "1.0"),
               (f"{_ATTENTION}.Attention.backward", "self.sizes[0] ** -0.5", "1.0")),
    in_network("queries and keys swapped",
               (f"{_ATTENTION}.Attention.forward", "q, k, v = self.ops", "k, q, v = self.ops"),
               (f"{_ATTENTION}.Attention.backward", "(dq, dk, dv))", "(dk, dq, dv))")),
    in_network("heads in the reverse order",
               (f"{_OPS}.split_heads", ".transpose(0, 2, 1, 3)", "[:, :, ::-1].transpose(0, 2, 1, 3)"),
               (f"{_OPS}.split_heads_backward", "np.concatenate(parts, -1)", "np.concatenate(parts, -1)[:, ::-1]")),
    in_network("the rows of all heads interleaved",
               (f"{_OPS}.split_heads", "heads, sum(sizes)).transpose(0, 2, 1, 3)",
                "sum(sizes), heads).transpose(0, 3, 1, 2)"),
               (f"{_OPS}.split_heads_backward", "merge_heads(np.concatenate(parts, -1))",
                "(lambda x: x.transpose(0, 2, 3, 1).reshape(len(x), x.shape[2], -1))(np.concatenate(parts, -1))")),
    in_network("a bias one pixel off", (f"{_OPS}.bias_index", "np.abs(x[queries, None] - x)",
                                        "np.maximum(np.abs(x[queries, None] - x) - 1, 0)")),
    in_network("a bias that knows left from right",
               (f"{_OPS}.bias_index", "np.abs(x[queries, None] - x)", "(x[queries, None] - x) % width")),
    in_network("the bias forgotten", (f"{_OPS}.attention", "scores = scores + bias", "pass")),
    in_network("queries from the other rows",
               (f"{_OPS}.subsample", "[:, ::stride, ::stride]", "[:, ::-stride, ::stride]"),
               (f"{_OPS}.subsample_backward", "dx[:, ::stride, ::stride]", "dx[:, ::-stride, ::stride]")),
    in_network("a true convolution, not a correlation",
               (f"{_OPS}.convolution", "w[:, :, i, j].T", "w[:, :, ~i, ~j].T"),
               (f"{_OPS}.convolution_backward", "dw[:, :, i, j]", "dw[:, :, ~i, ~j]"),
               (f"{_OPS}.convolution_backward", "rows @ w[:, :, i, j]", "rows @ w[:, :, ~i, ~j]")),
    in_network("a square weight transposed", (f"{_OPS}.linear", "x @ w.T", "x @ (w if len(w) == w.shape[1] else w.T)"),
               (f"{_OPS}.linear_backward", "dx = dy @ w", "dx = dy @ (w.T if len(w) == w.shape[1] else w)")),
    in_network("tokens column by column", (f"{_OPS}.image_to_tokens", "x.reshape(", "x.swapaxes(2, 3).reshape("),
               (f"{_OPS}.tokens_to_image", "height, width)\n", "width, height).swapaxes(2, 3)\n")),
    in_network("the momentum of the old and the new swapped",
               (f"{_OPS}.update_running", "(1 - momentum) * mean + momentum *", "momentum * mean + (1 - momentum) *")),
    in_network("a biased running variance",
               (f"{_OPS}.update_running", "statistics.count / (statistics.count - 1)", "1")),
    in_network("an unbiased variance of the batch", (f"{_OPS}.batch_statistics", "x.var(axes)", "x.var(axes, ddof=1)")),
    in_network("BN without eps", (f"{_OPS}.normalize", "np.sqrt(variance + eps)", "np.sqrt(variance)")),
    in_network("statistics of the batch where they are frozen",
               ("layers.normalization.BatchNorm.forward", "training is not True", "not training")),
    in_network("LayerNorm without gamma", (f"{_OPS}.layer_norm", "gamma * centred", "centred")),
    in_network("Hardswish clipped at 5", (f"{_OPS}.hardswish", "np.clip(x + 3, 0, 6)", "np.clip(x + 3, 0, 5)")),
    in_network("sigmoid for SiLU", (f"{_OPS}.silu", "x * _sigmoid(x)", "_sigmoid(x)")),
    in_network("a residual without its shortcut", (f"{_BLOCK}.Residual.forward", "self.ops.add(x, h)", "h"),
               *_NO_SHORTCUT),
    in_network("a shortcut without gradient", *_NO_SHORTCUT),
    in_network("drop path that does not scale what is kept", (f"{_OPS}.drop_path_mask", " / dtype.type(1 - rate)", "")),
    in_network("drop path that drops what it should keep", (f"{_OPS}.drop_path_mask", ">= rate", "< rate")),
    in_network("a dropped branch with gradient",
               (f"{_BLOCK}.Residual.backward", "self.ops.multiply(dy, saved.mask)", "dy")),
    in_network("drop path also when frozen", (f"{_BLOCK}.Residual.forward", "training is True and", "training and")),
    in_network("a shrinking attention whose queries get no gradient",
               (f"{_ATTENTION}.ShrinkingAttention.backward", "self.ops.add(dx, self.kv.backward(dh, saved.kv))",
                "self.kv.backward(dh, saved.kv)")),
    in_network("no activation in the MLP", (f"{_BLOCK}.MLP.forward", "h, activation =", "_, activation =")),
    in_network("blocks undone in the order of the forward",
               (f"{_BLOCK}.Stage.backward", "zip(reversed(self.blocks), reversed(saved.blocks))",
                "zip(self.blocks, saved.blocks)")),
    in_network("LayerNorm without gradient",
               (f"{_BLOCK}.PreNorm.backward", "self.norm.backward(self.branch.backward(dy, saved.branch), saved.norm)",
                "self.branch.backward(dy, saved.branch)")),
    in_network("one head's gradient dropped", 
               ("model.LeViT.backward", "self.ops.add(dpooled, self.head_dist.backward(douts[1], saved.head_dist))",
                "self.head_dist.backward(douts[1], saved.head_dist)")),
    in_network("the two heads summed", ("model.LeViT.forward", "(outputs + second) / 2", "outputs + second")),
    in_network("a position's gradient averaged",
               ("layers.position.PositionEmbedding.backward", "self.ops.sum(dy, 0)", "dy.mean(0)")),
    in_network("the class token read from the wrong end", (f"{_OPS}.first_token", "x[:, 0]", "x[:, -1]"),
               (f"{_OPS}.first_token_backward", "dx[:, 0]", "dx[:, -1]")),

    in_optimizer("(1 - betas[0]) * gradient", "betas[0] * gradient"),
    in_optimizer("gradient**2", "np.abs(gradient)"),
    in_optimizer("rate / (1 - betas[0] ** step)", "rate"),
    in_optimizer("second / (1 - betas[1] ** step)", "second / (1 - betas[1])"),
    in_optimizer("np.sqrt(second / (1 - betas[1] ** step)) + eps", "np.sqrt(second / (1 - betas[1] ** step) + eps)"),
    in_optimizer("(1 - rate * decay)", "(1 - decay)"),
]


def plant(monkeypatch, target, old, new):
    """Replaces `old`, which must occur once, in the source of a function or method, everywhere the function is
    bound."""
    place, name = target.rsplit(".", 1)
    owner = pkgutil.resolve_name(f"levit_np.{place}")
    function = getattr(owner, name)
    source = SOURCES.get(function) or textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{target}: expected {old!r} once in\n{source}"
    scope = {}
    exec(source.replace(old, new), function.__globals__, scope)
    SOURCES[scope[name]] = source.replace(old, new)
    for module in [owner, *(m for n, m in sys.modules.items() if n.startswith("levit_np.ops.reference"))]:
        if vars(module).get(name) is function:
            monkeypatch.setattr(module, name, scope[name])


SOURCES = {}  # sources of functions that already contain a bug, and so have no file


def test_without_a_bug_all_is_right():
    assert network_is_right() and optimizer_is_right()


@pytest.mark.parametrize("right, edits", BUGS)
def test_a_planted_bug_is_seen(right, edits, monkeypatch):
    for edit in edits:
        plant(monkeypatch, *edit)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a bug may overflow, which does not count as detection
        assert not right()
