"""Losses on logits (B, classes), each with its gradient; all are means over the batch.

Smoothed targets: Szegedy et al., arXiv 1512.00567; distillation: Hinton et al., arXiv 1503.02531, and hard, DeiT, arXiv
2012.12877.
"""

import numpy as np

from .activation import softmax


def log_softmax(x):
    """y = x - log Σ exp(x) on the last axis: the largest is taken off first.

    So no logarithm is taken of a softmax that became 0."""
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def targets_of(labels, classes, smoothing=0.0, dtype=np.float64):
    """targets[b, c] = (1 - ε) [c = label] + ε/classes: ε smooths.  labels (B,) -> targets (B, classes)."""
    even = np.full((len(labels), classes), smoothing / classes, dtype)
    return even + (1 - smoothing) * np.eye(classes, dtype=dtype)[labels]


def correct(logits, targets):
    """count = Σ_b [argmax logits = argmax targets]: images whose likeliest class is their targets' largest."""
    return (logits.argmax(-1) == targets.argmax(-1)).sum()


def cross_entropy(logits, targets):
    """loss = -mean_b Σ_c targets log softmax(logits).  targets (B, classes), each row summing to 1."""
    return -(targets * log_softmax(logits)).sum() / len(logits)


def cross_entropy_backward(logits, targets):
    """dlogits = (softmax(logits) - targets) / B."""
    return (softmax(logits) - targets) / len(logits)


def soft_distillation(logits, teacher, temperature):
    """loss = τ²/(B·classes) Σ p log(p / q): p the teacher's, q the student's softmax at τ (the authors' scale)."""
    p, q = log_softmax(teacher / temperature), log_softmax(logits / temperature)
    return (np.exp(p) * (p - q)).sum() * temperature**2 / logits.size


def soft_distillation_backward(logits, teacher, temperature):
    """dlogits = τ (q - p) / (B·classes): one τ of τ² goes with the chain rule through logits / τ."""
    return (softmax(logits / temperature) - softmax(teacher / temperature)) * temperature / logits.size


def hard_distillation(logits, teacher):
    """loss = -mean_b log softmax(logits)[t]: cross-entropy with the teacher's first choice t as the label."""
    return cross_entropy(logits, targets_of(teacher.argmax(-1), logits.shape[-1], dtype=logits.dtype))


def hard_distillation_backward(logits, teacher):
    """dlogits = (softmax(logits) - onehot(t)) / B: t is the teacher's first choice."""
    return cross_entropy_backward(logits, targets_of(teacher.argmax(-1), logits.shape[-1], dtype=logits.dtype))
