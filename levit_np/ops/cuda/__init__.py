"""The GPU's backend: every operation, forward and backward, in float32, float16 or bfloat16, by kernels in CUDA C++.

A kernel is a `.cu` file beside the Python that launches it. Start with attention.cu for attention, or product.cuh for
the matrix product that linear.cu and convolution.cu share. geometry.py says how a kernel's work is divided into blocks
of threads, operands.py what form its operands take, device.py compiles it (by CuPy, when first used) and runs it;
machine.cuh wraps the GPU instructions that are not C++.

    product.cuh    a tile of a matrix product: its stages of copies; matrix.cuh: fragments and tensor cores
    warpgroup.cuh  the same by Hopper's warpgroup instructions; resident.cu: a linear map built on them
    epilogue.cuh   what becomes of a tile's sums; result.cuh: their way to memory
    attention.cuh  what attention's kernels share; softmax.cuh: the forward of attention.cu and attention_pairs.cu
    the others     attention_backward.cu, bias.cu, normalization.cu, optimizer.cu, pointwise.cu, reduction.cu, image.cu

The type of the activations decides the precision: parameters, statistics and gradients of parameters are float32."""

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
