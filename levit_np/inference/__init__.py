"""Evaluation at full speed: a model becomes a plan, a plan a program for one backend, which an executor runs.

In reading order:

    fold.py           the algebra of folding BN into the linear maps beside it
    plan.py           a model as a flat list of steps, folded, independent of any backend
    listing.py        a plan as a table, for people
    reference.py      runs a plan with the reference operations: the simplest executor
    packing.py        how tensors lay out their columns, for both backends below, and the cpu's packed weights
    lowering.py       the cpu backend: a plan's steps with packed weights, which write themselves into a batch's
    program.py        program: its buffers and its table of steps for the kernels of ops/cpu
    cpu.py            runs such programs
    cuda_lowering.py  the same for the GPU: steps that launch the kernels of ops/cuda
    cuda.py           buffers and CUDA graphs, and the executor that replays them
"""


def executor(model, precision: str, apart: bool = False):
    """A function from images (B, C, H, W) to logits (B, classes) that replaces model.forward, made from a snapshot of
    the model's weights; None on a backend that has no faster way. apart: the logits of one head, then of the other, (B,
    2·classes), instead of their average."""
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
