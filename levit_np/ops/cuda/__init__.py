"""The GPU's backend: every operation, forward and backward, in float32, float16 or bfloat16, with kernels in CUDA C++.

Start reading with attention.cu.  A kernel is a `.cu` file beside the Python that launches it; geometry.py says how its
work is cut up, operands.py what it reads, device.py compiles it (by CuPy, when it is first used) and runs it,
machine.cuh holds the few instructions of the GPU that are not C++.

The type of the activations decides the precision: parameters, statistics and gradients of parameters are float32.
"""

from .activation import *  # noqa: F401,F403
from .arithmetic import *  # noqa: F401,F403
from .attention import *  # noqa: F401,F403
from .convolution import *  # noqa: F401,F403
from .device import captured, free  # noqa: F401
from .linear import *  # noqa: F401,F403
from .loss import *  # noqa: F401,F403
from .normalization import *  # noqa: F401,F403
from .operands import asarray, to_host, type_of, zeros, zeros_like  # noqa: F401
from .optimizer import *  # noqa: F401,F403
from .pooling import *  # noqa: F401,F403

NAME = "cuda"
SIXTEEN_BIT = ("float16", "bfloat16")  # what activations may be while the parameters are float32
