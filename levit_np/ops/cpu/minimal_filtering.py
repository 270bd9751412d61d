"""A convolution of 3 × 3 with a stride of 2 in 25 products where its definition takes 36: minimal filtering.

Two outputs in a row see five inputs, x₂ both of them:

    y₀ = g₀ x₀ + g₁ x₁ + g₂ x₂ = g₀ (x₀ - x₂) + g₁ x₁ + (g₀ + g₂) x₂
    y₁ = g₀ x₂ + g₁ x₃ + g₂ x₄ = g₂ (x₄ - x₂) + g₁ x₃ + (g₀ + g₂) x₂

On the right (g₀ + g₂) x₂ stands twice and is computed once: five products for six.  In two dimensions both axes are
treated so, one after the other: four outputs are four sums of nine parts, each part a product of matrices over the
channels, for each of the two axes what y₀ has for itself (two terms), what both share (one) or what y₁ has for itself
(two).  What is added or subtracted beforehand is a number of the input or of the kernel, never a multiple: rounding
grows little.

Source: S. Winograd, Arithmetic Complexity of Computations, 1980: F(2, 2), here for the inputs with an even number.
"""

from functools import lru_cache

import numpy as np

# Of the five numbers made of x (x₀ - x₂, x₁, x₂, x₄ - x₂, x₃), those that y₀ has for itself, that y₁ has, and that both
# share; and the five that multiply them, made of g.
SIDES = ((0, 1), (3, 4), (2,))
SHARED = 2  # of the sides
KERNEL = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]])
# The nine parts, (side of the lines, side of the columns), and of which of the numbers each is the sum.  What is shared
# twice, one number alone, comes last: where channels come in eights, the others then begin at sixteens.
NINE_PARTS = ((0, 2), (1, 2), (2, 0), (2, 1), (0, 0), (0, 1), (1, 0), (1, 1), (2, 2))
ORDER = tuple((p, q) for lines, columns in NINE_PARTS for p in SIDES[lines] for q in SIDES[columns])
SIZES = tuple(len(SIDES[lines]) * len(SIDES[columns]) for lines, columns in NINE_PARTS)
TERMS = len(ORDER)  # 25, a channel
# Of the rows of terms that windows become, at a time: they stay in the L2 cache, and are enough for the tiles.
WINDOW_BYTES, FEW_SQUARES = 224 << 10, 25


def suits(kernel: int, stride: int, out) -> bool:
    """Whether a convolution to (H', W') pixels is one of these, its outputs in pairs."""
    return kernel == 3 and stride == 2 and not any(n % 2 for n in out)


def kernel_terms(weight):
    """weight (O, C, 3, 3) -> (O, 25, C) float32, in ORDER: what multiplies the numbers that a window becomes."""
    outputs, channels = weight.shape[:2]
    return np.matmul(_both_axes(weight.dtype), weight.reshape(outputs, channels, 9).swapaxes(1, 2),
                     out=np.empty((outputs, TERMS, channels), np.float32), casting="same_kind")


@lru_cache(16)
def kernel_places(channels):
    """The same as places in w[o], and the places in terms[o] that each is added to: two arrays, int64.  Those of a term
    do not follow each other, so that no sum waits for the last."""
    term, cell = np.nonzero(_both_axes(np.int64))
    order = np.lexsort((term, [np.sum(term[:n] == t) for n, t in enumerate(term)]))
    channel = np.arange(channels)[:, None]
    return channel * 9 + cell[order], term[order] * channels + channel


def _both_axes(dtype):
    """(25, 9): KERNEL on lines and columns."""
    return np.stack([np.outer(KERNEL[p], KERNEL[q]).ravel() for p, q in ORDER]).astype(dtype)
