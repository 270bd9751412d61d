"""Multi-head attention with a translation-invariant bias, and the shrinking attention between two stages.

D is the key size (also the query's), V the value size, both per head; N, Nq, Nk count tokens.
"""

from typing import NamedTuple

from .activation import Activation
from .layer import Layer
from .linear import projection


class AttentionBias(Layer):
    """bias[h, q, k] = table[h, |Δy|·width + |Δx|]: equation 1's bias, one learned number per head and offset between
    the pixels of query and key.  table (heads, height·width)."""

    def __init__(self, ops, heads, grid, stride):
        super().__init__(ops)
        self.grid, self.stride, self.index = tuple(grid), stride, None
        self.parameter("table", (heads, grid[0] * grid[1]), 0.0)

    def forward(self):
        if self.index is None:  # at first use: a weight file may name a huge grid that nobody computes with
            self.index = self.ops.bias_index(*self.grid, self.stride)
        return self.ops.gather_bias(self.table, self.index)

    def backward(self, dbias):
        self.accumulate(table=self.ops.gather_bias_backward(dbias, self.index, self.table.shape[1]))


class SavedAttention(NamedTuple):
    qkv: object
    q: object
    k: object
    v: object
    probabilities: object
    activation: object
    projection: object


class Attention(Layer):
    """y = W act(softmax(q kᵀ / √D + bias) v), W being `projection`: (q, k, v) = qkv(x), and the heads are concatenated
    before act.  x (B, N, C) -> y (B, N, C)."""

    def __init__(self, ops, channels, heads, grid, config):
        super().__init__(ops)
        self.heads, self.grid = heads, tuple(grid)
        self.sizes = (config.key_size, config.key_size, config.value_ratio * config.key_size)
        self.qkv = projection(ops, channels, heads * sum(self.sizes), config.normalization)
        self.bias = AttentionBias(ops, heads, grid, 1) if config.position == "bias" else None
        self.activation = Activation(ops, config.attention_activation)
        # gamma = 0: each residual block x + branch(x) starts as the identity (section 4.2, "Normalization layers")
        self.projection = projection(ops, heads * self.sizes[2], channels, config.normalization, gamma=0.0)

    def forward(self, x, training=False):
        h, qkv = self.qkv.forward(x, training)  # 1  (B, N, heads·(2D + V))
        q, k, v = self.ops.split_heads(h, self.heads, self.sizes)  # 2  (B, heads, N, D), …, (B, heads, N, V)
        bias = self.bias.forward() if self.bias else None  # 3  (heads, N, N)
        context, probabilities = self.ops.attention(q, k, v, bias, self.sizes[0] ** -0.5)  # 4
        merged = self.ops.merge_heads(context)  # 5  (B, N, heads·V)
        active, activation = self.activation.forward(merged, training)  # 6
        y, projected = self.projection.forward(active, training)  # 7
        saved = SavedAttention(qkv, q, k, v, probabilities, activation, projected) if training else None
        return y, saved

    def backward(self, dy, saved):
        dactive = self.projection.backward(dy, saved.projection)  # 7
        dmerged = self.activation.backward(dactive, saved.activation)  # 6
        dcontext = self.ops.merge_heads_backward(dmerged, self.heads)  # 5
        dq, dk, dv, dbias = self.ops.attention_backward(  # 4
            dcontext, saved.q, saved.k, saved.v, self.sizes[0] ** -0.5, saved.probabilities)
        if self.bias:
            self.bias.backward(dbias)  # 3
        dh = self.ops.split_heads_backward((dq, dk, dv))  # 2
        return self.qkv.backward(dh, saved.qkv)  # 1

    def shapes(self, shape):
        yield from self.qkv.shapes(shape)
        yield self, (shape[0], shape[1], self.heads * self.sizes[2]), _products(
            self.heads, shape[1], shape[1], self.sizes)
        yield from self.projection.shapes((shape[0], shape[1], self.heads * self.sizes[2]))


class SavedShrinking(NamedTuple):
    q_projection: object  # what the layer q saved; the field q below is its output, split into heads
    kv: object
    q: object
    k: object
    v: object
    probabilities: object
    activation: object
    projection: object


class ShrinkingAttention(Layer):
    """y = W act(softmax(q kᵀ / √D + bias) v), W being `projection`: only every second pixel in each direction has a
    query, so Nq ≈ Nk / 4; there is no residual connection, as the shapes of x and y differ.

    x (B, Nk, C) -> y (B, Nq, C')."""

    stride = 2

    def __init__(self, ops, channels, outputs, heads, grid, config):
        super().__init__(ops)
        self.heads, self.grid = heads, grid
        self.sizes = (config.key_size, config.shrink_value_ratio * config.key_size)
        self.kv = projection(ops, channels, heads * sum(self.sizes), config.normalization)
        self.q = projection(ops, channels, heads * self.sizes[0], config.normalization)
        self.bias = AttentionBias(ops, heads, grid, self.stride) if config.position == "bias" else None
        self.activation = Activation(ops, config.attention_activation)
        self.projection = projection(ops, heads * self.sizes[1], outputs, config.normalization)

    def forward(self, x, training=False):
        h, kv = self.kv.forward(x, training)  # 1  (B, Nk, heads·(D + V))
        k, v = self.ops.split_heads(h, self.heads, self.sizes)  # 2
        kept = self.ops.subsample(x, *self.grid, self.stride)  # 3  (B, Nq, C)
        hq, q_projection = self.q.forward(kept, training)  # 4
        (q,) = self.ops.split_heads(hq, self.heads, self.sizes[:1])  # 5  (B, heads, Nq, D)
        bias = self.bias.forward() if self.bias else None  # 6  (heads, Nq, Nk)
        context, probabilities = self.ops.attention(q, k, v, bias, self.sizes[0] ** -0.5)  # 7
        merged = self.ops.merge_heads(context)  # 8  (B, Nq, heads·V)
        active, activation = self.activation.forward(merged, training)  # 9
        y, projected = self.projection.forward(active, training)  # 10
        saved = SavedShrinking(q_projection, kv, q, k, v, probabilities, activation, projected) if training else None
        return y, saved

    def backward(self, dy, saved):
        dactive = self.projection.backward(dy, saved.projection)  # 10
        dmerged = self.activation.backward(dactive, saved.activation)  # 9
        dcontext = self.ops.merge_heads_backward(dmerged, self.heads)  # 8
        dq, dk, dv, dbias = self.ops.attention_backward(  # 7
            dcontext, saved.q, saved.k, saved.v, self.sizes[0] ** -0.5, saved.probabilities)
        if self.bias:
            self.bias.backward(dbias)  # 6
        dhq = self.ops.split_heads_backward((dq,))  # 5
        dkept = self.q.backward(dhq, saved.q_projection)  # 4
        dx = self.ops.subsample_backward(dkept, *self.grid, self.stride)  # 3
        dh = self.ops.split_heads_backward((dk, dv))  # 2
        return self.ops.add(dx, self.kv.backward(dh, saved.kv))  # 1

    def shapes(self, shape):
        kept = (shape[0], -(-self.grid[0] // self.stride) * -(-self.grid[1] // self.stride), shape[2])
        yield from self.kv.shapes(shape)
        yield from self.q.shapes(kept)
        merged = (*kept[:2], self.heads * self.sizes[1])
        yield self, merged, _products(self.heads, kept[1], shape[1], self.sizes)
        yield from self.projection.shapes(merged)


def _products(heads, queries, keys, sizes):
    """Multiply-adds of q kᵀ, the softmax (1 per score) and its product with v, as the authors count them."""
    return heads * queries * keys * (sizes[0] + 1 + sizes[-1])
