"""Evaluation at full speed: a model becomes a plan, and a backend's executor runs it."""


def executor(model, precision: str, apart: bool = False):
    """What computes logits (B, classes) from images (B, C, H, W) in place of model.forward, from a snapshot of the
    model's weights; None on a backend that has no faster way.  apart: the logits of one head and then of the other,
    (B, 2·classes), in place of their average."""
    if model.ops.NAME == "cuda":
        from .cuda import CudaExecutor

        return CudaExecutor(model, precision, apart)
    if model.ops.NAME != "cpu":
        return None
    if precision == "float64":
        from .reference import ReferenceExecutor

        return ReferenceExecutor(model, apart)
    from .cpu import CpuExecutor

    return CpuExecutor(model, precision == "bfloat16", apart)
