"""Each operation and its backward against torch.nn.functional and autograd, in float64, on odd shapes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from levit_np.ops import reference as ops

TOLERANCE = dict(rtol=1e-10, atol=1e-11)


def draw(*shape, seed=0):
    """Random values, not contiguous in memory, as a caller's arrays may be."""
    return np.random.default_rng(seed + len(shape)).standard_normal((*shape, 2))[..., 0]


def autograd(function, *arrays):
    """(y, upstream, gradients) of a torch function of float64 arrays; the upstream gradient is random."""
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    y = function(*tensors)
    upstream = draw(*y.shape, seed=9)
    y.backward(torch.from_numpy(upstream.copy()))
    return y.detach().numpy(), upstream, [t.grad.numpy() for t in tensors]


def agree(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


@pytest.mark.parametrize("kernel, stride, padding", [(3, 2, 1), (16, 16, 0), (3, 1, 1)])
@pytest.mark.parametrize("size", [(17, 32), (33, 19)])
def test_convolution(kernel, stride, padding, size):
    x, w = draw(2, 3, *size), draw(5, 3, kernel, kernel, seed=1)
    y, dy, expected = autograd(lambda x, w: F.conv2d(x, w, stride=stride, padding=padding), x, w)
    agree([ops.convolution(x, w, stride, padding)], [y])
    agree(ops.convolution_backward(dy, x, w, stride, padding), expected)


def test_linear():
    x, w, b = draw(3, 5, 7), draw(4, 7), draw(4)
    y, dy, expected = autograd(F.linear, x, w, b)
    agree([ops.linear(x, w, b)], [y])
    agree([*ops.linear_backward(dy, x, w), ops.bias_backward(dy)], expected)


@pytest.mark.parametrize("shape, axis", [((6, 5), -1), ((3, 5, 4, 7), 1)])
def test_batch_norm(shape, axis):
    x, gamma, beta = draw(*shape), draw(5, seed=1), draw(5, seed=2)
    mean, variance = torch.from_numpy(draw(5, seed=3).copy()), torch.from_numpy(np.abs(draw(5, seed=4)) + 0.1)
    running = mean.numpy().copy(), variance.numpy().copy()
    y, dy, expected = autograd(lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True), x, gamma, beta)
    ours, statistics = ops.batch_norm(x, gamma, beta, 1e-5, axis)
    agree([ours, *ops.batch_norm_backward(dy, x, gamma, statistics, 1e-5, axis)], [y, *expected])
    F.batch_norm(torch.from_numpy(x.copy()), mean, variance, training=True, momentum=0.1)
    agree(ops.update_running(running, statistics, 0.1), [mean.numpy(), variance.numpy()])
    y, dy, expected = autograd(lambda x, g, b: F.batch_norm(x, mean, variance, g, b), x, gamma, beta)
    agree([ops.normalize(x, gamma, beta, mean.numpy(), variance.numpy(), 1e-5, axis)], [y])
    agree(ops.normalize_backward(dy, x, gamma, mean.numpy(), variance.numpy(), 1e-5, axis), expected)


def test_layer_norm():
    x, gamma, beta = draw(2, 3, 8), draw(8), draw(8, seed=1)
    y, dy, expected = autograd(lambda x, g, b: F.layer_norm(x, (8,), g, b, 1e-6), x, gamma, beta)
    agree([ops.layer_norm(x, gamma, beta, 1e-6), *ops.layer_norm_backward(dy, x, gamma, 1e-6)], [y, *expected])


@pytest.mark.parametrize("name, peer", [("hardswish", F.hardswish), ("silu", F.silu)])
def test_activation(name, peer):
    x = draw(40, 5) * 4
    x[0, :2] = -3, 3  # the kinks themselves
    y, dy, (expected,) = autograd(peer, x)
    agree([getattr(ops, name)(x), getattr(ops, f"{name}_backward")(dy, x)], [y, expected])


def test_hardswish_derivative_at_whole_numbers():
    found = ops.hardswish_backward(np.ones(5), np.array([-4, 0, 1, 2, 5]))
    np.testing.assert_allclose(found, [0, 1 / 2, 5 / 6, 7 / 6, 1], rtol=1e-15)


def test_attention_with_bias():
    q, k, v, table = draw(2, 3, 4, 5), draw(2, 3, 12, 5, seed=1), draw(2, 3, 12, 10, seed=2), draw(3, 12)
    index = ops.bias_index(3, 4, 2)  # queries on 2×2 of 3×4 pixels

    def peer(q, k, v, table):
        return ((q @ k.mT) * 0.4 + table[:, torch.from_numpy(index)]).softmax(-1) @ v

    y, dy, expected = autograd(peer, q, k, v, table)
    ours, probabilities = ops.attention(q, k, v, ops.gather_bias(table, index), 0.4)
    *gradients, dbias = ops.attention_backward(dy, q, k, v, 0.4, probabilities)
    agree([ours, *gradients, ops.gather_bias_backward(dbias, index, 12)], [y, *expected])


def test_bias_index_depends_on_the_distance_alone():
    index = ops.bias_index(5, 3)
    y, x = np.divmod(np.arange(15), 3)
    np.testing.assert_array_equal(index, np.abs(y[:, None] - y) * 3 + np.abs(x[:, None] - x))
    np.testing.assert_array_equal(index, index.T)


def test_pooling_and_layouts_are_adjoint():
    """⟨dy, J x⟩ = ⟨Jᵀ dy, x⟩ for the linear maps."""
    x, dy = draw(2, 15, 4), draw(2, 6, 4)
    assert np.vdot(dy, ops.subsample(x, 5, 3, 2)) == pytest.approx(np.vdot(ops.subsample_backward(dy, 5, 3, 2), x))
    pooled = draw(2, 4)
    assert np.vdot(pooled, ops.average_pool(x)) == pytest.approx(np.vdot(ops.average_pool_backward(pooled, 15), x))
    parts = ops.split_heads(x, 1, (1, 3))
    agree([ops.split_heads_backward(parts), ops.tokens_to_image(x, 5, 3).reshape(2, 4, 15)], [x, x.swapaxes(1, 2)])


def test_losses():
    logits, teacher, labels = draw(5, 7), draw(5, 7, seed=1), np.array([0, 6, 3, 3, 1])
    targets = ops.targets_of(labels, 7, 0.1)
    y, dy, (d,) = autograd(lambda z: F.cross_entropy(z, torch.from_numpy(labels), label_smoothing=0.1), logits)
    agree([ops.cross_entropy(logits, targets), dy * ops.cross_entropy_backward(logits, targets)], [y, d])
    p = F.log_softmax(torch.from_numpy(teacher / 3), -1)
    y, dy, (d,) = autograd(lambda z: F.kl_div(F.log_softmax(z / 3, -1), p, reduction="sum", log_target=True) * 9 / 35,
                           logits)
    agree([ops.soft_distillation(logits, teacher, 3), dy * ops.soft_distillation_backward(logits, teacher, 3)], [y, d])
    choice = torch.from_numpy(teacher.argmax(-1))
    y, dy, (d,) = autograd(lambda z: F.cross_entropy(z, choice), logits)
    agree([ops.hard_distillation(logits, teacher), dy * ops.hard_distillation_backward(logits, teacher)], [y, d])


def test_adamw():
    p = torch.nn.Parameter(torch.from_numpy(draw(6).copy()))
    optimizer = torch.optim.AdamW([p], lr=0.01, weight_decay=0.1)
    mine, first, second = p.detach().numpy().copy(), 0.0, 0.0
    for step in range(1, 6):
        gradient = draw(6, seed=step)
        p.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        mine, first, second = ops.adamw(mine, gradient, first, second, step, 0.01, decay=0.1)
    agree([mine], [p.detach().numpy()])


def test_moving_average():
    """After n steps from a towards a constant b: b + decayⁿ (a - b)."""
    a, b = draw(3, 4), draw(3, 4, seed=1)
    average = a.copy()
    for _ in range(20):
        average = ops.moving_average(average, b, 0.9)
    agree([average], [b + 0.9**20 * (a - b)])
    assert ops.moving_average(average, a, 0.5, out=average) is average
    assert np.array_equal(ops.moving_average(a, a.copy(), 0.99996), a)
