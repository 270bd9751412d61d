"""The processor's backend: the textbook's operations, and for evaluation the Numba kernels of a whole network.

The kernels read and write memory by address (kernels.py); `inference` writes the programs that they run.
"""

from ..reference import *  # noqa: F401,F403
from ..reference import asarray, zeros, zeros_like  # noqa: F401

NAME = "cpu"
