"""The textbook: every operation of the network in plain NumPy, each forward followed by its backward.

Notation: for a loss L and an array a, da is the gradient ∂L/∂a and has a's shape.  A backward takes dy and what it
needs of the forward's inputs, and returns the gradients of the inputs by the chain rule.  The other backends offer the
same functions and are tested against these.
"""

from numpy import add, asarray, copyto, multiply, sum, zeros, zeros_like  # noqa: F401
from numpy import asarray as to_host  # noqa: F401

from .activation import *  # noqa: F401,F403
from .attention import *  # noqa: F401,F403
from .clipping import *  # noqa: F401,F403
from .convolution import *  # noqa: F401,F403
from .linear import *  # noqa: F401,F403
from .loss import *  # noqa: F401,F403
from .normalization import *  # noqa: F401,F403
from .optimizer import *  # noqa: F401,F403
from .pooling import *  # noqa: F401,F403

NAME = "reference"
SIXTEEN_BIT = ()  # types that activations may have while the parameters are float32
