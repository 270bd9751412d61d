"""What training minimises: cross-entropy with the labels on one head, with the teacher's on the other."""

from .recipe import Recipe


def objective(ops, recipe: Recipe, outputs, targets, teacher=None) -> tuple:
    """-> (loss, its gradient to the logits of each head, in the form of outputs).

    outputs: logits (B, classes), or a pair of them with distillation; targets (B, classes), each row summing to 1;
    teacher: the teacher's logits (B, classes), or None.  With two heads

        loss = (1 - alpha) cross_entropy(first, targets) + alpha second's,

    the second's being, with a teacher, hard (its first choice is the label) or soft distillation at `temperature`
    (DeiT, arXiv 2012.12877, section 3, and its code's scale); without one, the cross-entropy with the targets too.
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
