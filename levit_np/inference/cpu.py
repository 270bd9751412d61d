"""The cpu backend's executor: a snapshot of a model's weights, packed, and a program for each batch size that it meets.
"""

from collections import OrderedDict

import numpy as np

from ..errors import BackendError, LevitError
from ..ops.cpu import threads
from ..ops.cpu.library import library
from ..ops.cpu.memory import trim_heap
from ..ops.cpu.step import Pad
from . import plan
from .lowering import Lowering
from .program import Program

MAX_BATCH = 16  # images of one program; a larger batch is divided
KEPT = 4  # batch sizes whose programs are kept
GROUP_ROWS = 392  # tokens of a stage that pass through its weights together: as many images as fit


class CpuExecutor:
    """logits = executor(images), images float32 (B, C, H, W) -> (B, classes) float32; apart: see plan.steps_of.

    half: products of bfloat16 or, where the processor is faster at float32, of float32 with bfloat16 weights; summed in
    float32, in which the residual stream, the softmax and the head stay. Raises BackendError where the loaded kernels
    have neither. Several threads may call it at once: each call has its own buffers."""

    def __init__(self, model, half=False, apart=False):
        self.kernels = library()
        # LEVIT_NP_INSTRUCTIONS has changed since they were loaded.
        if half and not self.kernels.instructions.bfloat16:
            raise BackendError("dtype bfloat16: expected kernels with products of bfloat16, found those for "
                               f"{self.kernels.instructions.name}, which this process has loaded; use float32")
        self._outputs = model.config.num_classes * (2 if apart and model.config.distillation else 1)
        steps = plan.steps_of(model, apart, pooled_early=True)
        self._lowering = Lowering(steps, model.config, self.kernels.instructions, half)
        trim_heap()  # the folded weights, in float64, are freed: 16 MiB of LeViT-256's
        self._idle: OrderedDict[int, list[Program]] = OrderedDict()

    def __call__(self, images):
        if images.dtype != np.float32:  # a parameter may have been replaced by one of another type
            raise LevitError(f"cpu: expected images of float32, found {images.dtype}")
        logits = np.empty((len(images), self._outputs), np.float32)
        parts = -(-len(images) // MAX_BATCH)
        for part in range(parts):
            # Parts whose sizes differ by one at most.
            start, stop = len(images) * part // parts, len(images) * (part + 1) // parts
            program = self._take(stop - start)
            # only this part: a copy of all may not fit into memory
            self._run(program, np.ascontiguousarray(images[start:stop]))
            logits[start:stop] = program.logits(self._outputs)
            self._give(program)
        return logits

    def stepwise(self, images):
        """Evaluates up to MAX_BATCH images step by step, and yields the name of each after it has run: to time them.

        A step of the plan may be several here: layouts change before it, or it takes a few images at a time."""
        program = self._take(len(images))
        self._read(program, images)
        for step, name in enumerate(program.names):
            self._execute(program, step, step + 1)
            yield name
        self._give(program)

    def _run(self, program, images):
        self._read(program, images)
        self._execute(program, 0, len(program.table))

    def _read(self, program, images):
        for row, first in program.inputs:
            program.table[row, Pad.SOURCE] = images[first].ctypes.data

    def _execute(self, program, first, last):
        count, address = threads.threads(), program.table.ctypes.data
        threads.run_with_threads(
            lambda thread, counter: self.kernels.run(address, first, last, thread, count, counter), count)

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
