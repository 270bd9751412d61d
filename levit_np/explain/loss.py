"""The losses that a trace can end with, written as layers so that their operations are recorded like all others."""

from typing import NamedTuple

from ..layers.layer import Layer


class SavedLoss(NamedTuple):
    logits: object
    targets: object


class CrossEntropy(Layer):
    """loss = -mean_b log softmax((logits + logits_dist) / 2)[target]: of the averaged heads, as in evaluation.

    outputs: logits (B, classes), or a pair of them -> loss, a number."""

    def __init__(self, ops, target):
        super().__init__(ops)
        self.target = target

    def forward(self, outputs, training=False):
        logits = (outputs[0] + outputs[1]) / 2 if isinstance(outputs, tuple) else outputs  # 1  (B, classes)
        targets = self.ops.targets_of(self.target, logits.shape[-1], dtype=logits.dtype)  # 2  (B, classes)
        return self.ops.cross_entropy(logits, targets), SavedLoss(logits, targets)  # 3

    def backward(self, outputs, saved):
        dlogits = self.ops.cross_entropy_backward(saved.logits, saved.targets)  # 3
        return (dlogits / 2, dlogits / 2) if isinstance(outputs, tuple) else dlogits  # 1


class Distillation(Layer):
    """loss = ½ cross_entropy(logits, target) + ½ hard_distillation(logits_dist, teacher): the loss LeViT is trained
    with.

    outputs: the logits (B, classes) of the two heads; the second learns the teacher's prediction."""

    def __init__(self, ops, target, teacher):
        super().__init__(ops)
        self.target, self.teacher = target, teacher

    def forward(self, outputs, training=False):
        logits, logits_dist = outputs
        targets = self.ops.targets_of(self.target, logits.shape[-1], dtype=logits.dtype)  # 1
        teacher = self.ops.targets_of(self.teacher, logits.shape[-1], dtype=logits.dtype)  # 2  one-hot, used as logits
        labelled = self.ops.cross_entropy(logits, targets)  # 3
        taught = self.ops.hard_distillation(logits_dist, teacher)  # 4
        return (labelled + taught) / 2, SavedLoss(outputs, (targets, teacher))

    def backward(self, outputs, saved):
        (logits, logits_dist), (targets, teacher) = saved
        dlogits_dist = self.ops.hard_distillation_backward(logits_dist, teacher)  # 4
        dlogits = self.ops.cross_entropy_backward(logits, targets)  # 3
        return dlogits / 2, dlogits_dist / 2
