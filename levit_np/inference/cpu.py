"""Runs a plan with the Numba kernels: a snapshot of a model's weights, packed, and buffers for the batches it meets."""

from collections import OrderedDict

import numpy as np

from ..errors import BackendError, LevitError
from ..ops.cpu import threads
from ..ops.cpu.library import library
from ..ops.cpu.memory import give_back
from ..ops.cpu.step import Pad
from . import plan
from .lowering import Lowering
from .program import Program

LARGEST = 16  # images a program; a larger batch goes through in parts
KEPT = 4  # programs kept, one a size of batch
GROUP_ROWS = 392  # tokens of a stage that share a pass through its weights


class CpuExecutor:
    """logits = executor(images), images float32 (B, C, H, W) -> (B, classes) float32; apart: see plan.steps_of.

    half: products of bfloat16 or, where the processor is faster at those of float32, of float32 and bfloat16 weights,
    summed in float32; the residual stream, the softmax and the head stay in float32.  Raises BackendError where the
    loaded kernels have neither.
    May be called by several threads at once: each call has buffers of its own."""

    def __init__(self, model, half=False, apart=False):
        self.kernels = library()
        if half and not self.kernels.instructions.half:  # LEVIT_NP_INSTRUCTIONS was another when they were loaded
            raise BackendError("dtype bfloat16: expected kernels with products of bfloat16, found those for "
                               f"{self.kernels.instructions.name}, which this process has loaded; use float32")
        self._outputs = model.config.num_classes * (2 if apart and model.config.distillation else 1)
        steps = plan.steps_of(model, apart, pooled_early=True)
        self._lowering = Lowering(steps, model.config, self.kernels.instructions, half)
        give_back()  # the folded weights, in float64, have gone: 16 MiB of LeViT-256's
        self._idle: OrderedDict[int, list[Program]] = OrderedDict()

    def __call__(self, images):
        if images.dtype != np.float32:  # whatever type a parameter was replaced in
            raise LevitError(f"cpu: expected images of float32, found {images.dtype}")
        logits = np.empty((len(images), self._outputs), np.float32)
        parts = -(-len(images) // LARGEST)
        for part in range(parts):
            # Of sizes that differ by one at most.
            start, stop = len(images) * part // parts, len(images) * (part + 1) // parts
            program = self._take(stop - start)
            self._run(program, np.ascontiguousarray(images[start:stop]))  # a part: all may be more than memory holds
            logits[start:stop] = program.logits(self._outputs)
            self._give(program)
        return logits

    def _run(self, program, images):
        for row, first in program.inputs:
            program.table[row, Pad.SOURCE] = images[first].ctypes.data
        count, steps = threads.threads(), len(program.table)
        address = program.table.ctypes.data
        threads.run_with_threads(
            lambda thread, counter: self.kernels.run(address, 0, steps, thread, count, counter), count)

    def _take(self, batch):
        try:
            return self._idle[batch].pop()
        except (KeyError, IndexError):
            instructions = self.kernels.instructions
            return Program(self._lowering.sections, batch, instructions.width, instructions.rows, GROUP_ROWS)

    def _give(self, program):
        self._idle.setdefault(program.batch, []).append(program)
        while len(self._idle) > KEPT:
            try:
                self._idle.popitem(last=False)
            except KeyError:
                break
