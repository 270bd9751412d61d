"""Losses on logits (B, classes), each with its gradient, in float32 whatever the logits are."""

import numpy as np

from .. import reference
from ..reference import correct, log_softmax  # noqa: F401
from .device import arrays


def targets_of(labels, classes, smoothing=0.0, dtype=np.float64):
    """Integer labels (B,) -> (B, classes): 1 - ε + ε/classes on the label, ε/classes elsewhere."""
    xp = arrays()
    hit = xp.asarray(labels)[:, None] == xp.arange(classes)
    return (hit * (1 - smoothing) + smoothing / classes).astype(dtype)


def cross_entropy(logits, targets):
    """-mean_b Σ_c targets log softmax(logits).  targets (B, classes), each row summing to 1."""
    return reference.cross_entropy(*_floats(logits, targets))


def cross_entropy_backward(logits, targets):
    """(softmax(logits) - targets) / B."""
    return reference.cross_entropy_backward(*_floats(logits, targets))


def soft_distillation(logits, teacher, temperature):
    """τ²/(B·classes) Σ p log(p / q): p the teacher's, q the student's softmax at temperature τ (the authors' scale)."""
    return reference.soft_distillation(*_floats(logits, teacher), temperature)


def soft_distillation_backward(logits, teacher, temperature):
    """One τ of τ² goes with the chain rule through logits / τ."""
    return reference.soft_distillation_backward(*_floats(logits, teacher), temperature)


def hard_distillation(logits, teacher):
    """Cross-entropy with the teacher's first choice as the label."""
    return cross_entropy(logits, _choice(teacher))


def hard_distillation_backward(logits, teacher):
    """(softmax(logits) - the teacher's first choice) / B."""
    return cross_entropy_backward(logits, _choice(teacher))


def _choice(teacher):
    return targets_of(teacher.argmax(-1), teacher.shape[-1], dtype=np.float32)


def _floats(*values):
    return [a.astype("float32", copy=False) for a in values]
