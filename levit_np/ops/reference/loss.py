"""Losses on logits (B, classes), each followed by its gradient. All are means over the batch.

Label smoothing: Szegedy et al., arXiv 1512.00567; soft distillation: Hinton et al., arXiv 1503.02531; hard
distillation: DeiT, arXiv 2012.12877.
"""

import numpy as np

from .activation import softmax


def log_softmax(x):
    """y = x - log Σ exp(x) over the last axis: log(softmax(x)) would be -∞ where the softmax underflows to 0.

    The maximum is subtracted first, as in softmax."""
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def targets_of(labels, classes, smoothing=0.0, dtype=np.float64):
    """targets[b, c] = (1 - ε) [c = label] + ε/classes: one-hot, smoothed by ε.  labels (B,) -> targets (B, classes)."""
    even = np.full((len(labels), classes), smoothing / classes, dtype)
    return even + (1 - smoothing) * np.eye(classes, dtype=dtype)[labels]


def correct(logits, targets):
    """count = Σ_b [argmax logits = argmax targets]: how many images are classified correctly."""
    return (logits.argmax(-1) == targets.argmax(-1)).sum()


def cross_entropy(logits, targets):
    """loss = -mean_b Σ_c targets log softmax(logits).  targets (B, classes), each row summing to 1."""
    return -(targets * log_softmax(logits)).sum() / len(logits)


def cross_entropy_backward(logits, targets):
    """dlogits = (softmax(logits) - targets) / B: probability minus target.

    From ∂ log softmax(z)_c / ∂z_i = [i = c] - softmax(z)_i and Σ_c targets = 1."""
    return (softmax(logits) - targets) / len(logits)


def soft_distillation(logits, teacher, temperature):
    """loss = τ²/(B·classes) Σ p log(p / q): p and q are the teacher's and the student's softmax(logits / τ).

    The factor is the authors' scale."""
    p, q = log_softmax(teacher / temperature), log_softmax(logits / temperature)
    return (np.exp(p) * (p - q)).sum() * temperature**2 / logits.size


def soft_distillation_backward(logits, teacher, temperature):
    """dlogits = τ (q - p) / (B·classes): the chain rule through logits / τ takes one τ of τ²."""
    return (softmax(logits / temperature) - softmax(teacher / temperature)) * temperature / logits.size


def hard_distillation(logits, teacher):
    """loss = -mean_b log softmax(logits)[t]: cross-entropy with the teacher's predicted class t as the label."""
    return cross_entropy(logits, targets_of(teacher.argmax(-1), logits.shape[-1], dtype=logits.dtype))


def hard_distillation_backward(logits, teacher):
    """dlogits = (softmax(logits) - onehot(t)) / B: t is the class that the teacher predicts."""
    return cross_entropy_backward(logits, targets_of(teacher.argmax(-1), logits.shape[-1], dtype=logits.dtype))
