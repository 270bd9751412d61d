"""The cpu backend: the reference operations, the expensive ones replaced by kernels that Numba compiles for this
processor.

There are two sets of kernels, each compiled into one function `run` that executes a program: a table of int64, one row
a step, which holds the kernel's number, addresses and sizes. Evaluation's runs a whole network, whose program
`inference` writes. Training's runs one operation at a time: the wrappers here write a few steps for each call, and
leave float64, and whatever else the kernels do not take, to the reference. Start with step.py, instruction_set.py,
vector.py and tile.py, then follow one operation down.

    programs         step.py and training_step.py (their columns), running.py, recording.py (a training step replayed)
    micro-kernels    vector.py, tile.py, rows.py, filtering_rows.py, amx.py: LLVM IR, which Numba code calls by way of
                     routines.py; intrinsics.py: memory by address, atomics
    evaluation       kernels.py, of: tile_product.py, product_division.py, tile_attention.py, tile_filtering.py,
                     row_kernels.py; with AMX amx_product.py, amx_attention.py; in bfloat16 value_pairs.py
                     evaluation_routines.py: a list of their micro-kernels
    training         linear.py, convolution.py, filtering.py, attention.py, normalization.py, activation.py,
                     arithmetic.py, pooling.py, scatter.py, optimizer.py: the wrappers
                     training_kernels.py, of: *_kernel.py, *_kernels.py, panel_packing.py, strip_packing.py,
                     windows.py, filtering_squares.py, normalization_scalars.py; with AMX amx_training.py,
                     amx_panels.py, amx_split.py, amx_sizes.py, amx_planning.py (when they are used)
                     training_routines.py, row_functions.py: their micro-kernels
    convolution      minimal_filtering.py: how a 3 × 3 with stride 2 takes 25 products for 36
    compilation      jit.py, library.py, build.py, linker.py, machine_code.py, processor.py, instruction_set.py
    memory, threads  memory.py, blocks.py, threads.py, barrier.py
"""

from inspect import isfunction

from ..reference import *  # noqa: F401,F403
from ..reference import SIXTEEN_BIT, asarray, to_host, zeros, zeros_like  # noqa: F401
from .activation import hardswish, hardswish_backward, silu, silu_backward  # noqa: F401
from .arithmetic import add, copyto, multiply, sum  # noqa: F401
from .attention import (  # noqa: F401
    attention, attention_backward, gather_bias, gather_bias_backward, split_heads_backward)
from .convolution import convolution, convolution_backward  # noqa: F401
from .linear import linear, linear_backward  # noqa: F401
from .normalization import (  # noqa: F401
    batch_norm, batch_norm_backward, batch_norm_hardswish, batch_norm_hardswish_backward, batch_statistics, normalize,
    normalize_backward, update_running)
from .optimizer import adamw, update_together  # noqa: F401
from .pooling import subsample, subsample_backward  # noqa: F401
from .recording import repeated

NAME = "cpu"
globals().update({name: repeated(operation) for name, operation in globals().items()
                  if isfunction(operation) and operation not in (isfunction, repeated)})
from .recording import captured  # noqa: E402,F401
