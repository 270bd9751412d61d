"""The training objective: cross-entropy with the labels on the first head, distillation from a teacher on the
second."""

from .recipe import Recipe


def objective(ops, recipe: Recipe, outputs, targets, teacher=None) -> tuple:
    """-> (loss, its gradient with respect to each head's logits, in the form of `outputs`).

    outputs: logits (B, classes), or a pair of them with distillation; targets (B, classes), each row summing to 1;
    teacher: the teacher's logits (B, classes), or None.  With two heads

        loss = (1 - alpha) cross_entropy(first, targets) + alpha distillation(second, teacher).

    Distillation is hard (the teacher's predicted class is the label) or soft at `temperature` (DeiT, arXiv 2012.12877,
    section 4, with the scale of its code); without a teacher it is the cross-entropy with the targets.
    """
    if not isinstance(outputs, tuple):
        return ops.cross_entropy(outputs, targets), ops.cross_entropy_backward(outputs, targets)
    if teacher is None:
        name, arguments = "cross_entropy", (targets,)
    elif recipe.distillation == "hard":
        name, arguments = "hard_distillation", (teacher,)
    else:
        name, arguments = "soft_distillation", (teacher, recipe.temperature)
    first, second = outputs
    shares = 1 - recipe.alpha, recipe.alpha
    losses = ops.cross_entropy(first, targets), getattr(ops, name)(second, *arguments)
    gradients = ops.cross_entropy_backward(first, targets), getattr(ops, f"{name}_backward")(second, *arguments)
    return ops.add(*map(ops.multiply, shares, losses)), tuple(map(ops.multiply, shares, gradients))
