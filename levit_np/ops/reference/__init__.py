"""The textbook: every operation of the network in plain NumPy, each forward with its backward beside it."""

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
SIXTEEN_BIT = ()  # what activations may be while the parameters are float32
