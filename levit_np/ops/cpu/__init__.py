"""The processor's backend: the textbook's operations, those that training spends its time in with Numba kernels, and
for evaluation the kernels of a whole network.

The kernels read and write memory by address (kernels.py, training_kernels.py); the wrappers here and `inference` write
the programs that they run.  float64, and whatever else the kernels do not take, goes to the textbook.  What a step of
training consists of can be recorded and done again (recording.py).
"""

from inspect import isfunction

from ..reference import *  # noqa: F401,F403
from ..reference import SIXTEEN_BIT, asarray, to_host, zeros, zeros_like  # noqa: F401
from .activation import hardswish, hardswish_backward, silu, silu_backward  # noqa: F401
from .arithmetic import add, copyto, multiply, sum  # noqa: F401
from .attention import attention, attention_backward, gather_bias_backward, split_heads_backward  # noqa: F401
from .convolution import convolution, convolution_backward  # noqa: F401
from .linear import linear, linear_backward  # noqa: F401
from .normalization import (  # noqa: F401
    batch_norm, batch_norm_backward, batch_norm_hardswish, batch_norm_hardswish_backward, batch_statistics, normalize,
    normalize_backward, update_running)
from .optimizer import adamw, update_together  # noqa: F401
from .recording import repeated

NAME = "cpu"
globals().update({name: repeated(operation) for name, operation in globals().items()
                  if isfunction(operation) and operation not in (isfunction, repeated)})
from .recording import captured  # noqa: E402,F401
