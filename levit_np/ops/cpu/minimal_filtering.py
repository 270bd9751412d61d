"""Convolution of 3 × 3 with stride 2 by minimal filtering (Winograd's F(2, 2)): 25 multiplications where the definition
takes 36.

Two neighbouring outputs see five inputs, both of them x₂:

    y₀ = g₀ x₀ + g₁ x₁ + g₂ x₂ = g₀ (x₀ - x₂) + g₁ x₁ + (g₀ + g₂) x₂
    y₁ = g₀ x₂ + g₁ x₃ + g₂ x₄ = g₂ (x₄ - x₂) + g₁ x₃ + (g₀ + g₂) x₂

(g₀ + g₂) x₂ occurs twice and is computed once: five products instead of six. In two dimensions both axes are treated
so: a square of 2 × 2 outputs is four sums of nine parts. Each part is a matrix product over the channels, of the terms
that, on each of the two axes, y₀ has for itself (two terms), both share (one), or y₁ has for itself (two). The
transforms only add and subtract numbers of the input or the kernel, never multiples: rounding grows little. An infinity
becomes NaN where it is subtracted from itself, in outputs that see it.

Source: S. Winograd, Arithmetic Complexity of Computations, 1980: F(2, 2), here applied to the inputs with an even
number."""

import numpy as np

# Of the five numbers made of x (x₀ - x₂, x₁, x₂, x₄ - x₂, x₃): those that y₀ has for itself, those that y₁ has, and the
# one both share. KERNEL makes the five factors of g that multiply them.
SIDES = ((0, 1), (3, 4), (2,))
SHARED = 2  # index of the shared one in SIDES
KERNEL = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]])
# The nine parts, (side of the lines, side of the columns), and the terms that each sums. The part shared on both axes
# has a single term and comes last: where channels come in eights, the others then begin at multiples of sixteen.
NINE_PARTS = ((0, 2), (1, 2), (2, 0), (2, 1), (0, 0), (0, 1), (1, 0), (1, 1), (2, 2))
ORDER = tuple((p, q) for lines, columns in NINE_PARTS for p in SIDES[lines] for q in SIDES[columns])
SIZES = tuple(len(SIDES[lines]) * len(SIDES[columns]) for lines, columns in NINE_PARTS)
TERMS = len(ORDER)  # 25, a channel
BOTH_AXES = np.stack([np.outer(KERNEL[p], KERNEL[q]).ravel() for p, q in ORDER])  # (25, 9): which cells a term sums
# Bytes of transformed windows at a time: they stay in L2, and are enough rows for the tiles; at least so many squares.
WINDOW_BYTES, FEW_SQUARES = 224 << 10, 25


def suits(kernel: int, stride: int, out) -> bool:
    """Whether a convolution to (H', W') pixels is one of these, with outputs in pairs."""
    return kernel == 3 and stride == 2 and not any(n % 2 for n in out)


def kernel_terms(weight):
    """weight (O, C, 3, 3) -> (O, 25, C) float32, in ORDER: the factors of the 25 numbers that a window becomes."""
    outputs, channels = weight.shape[:2]
    return np.matmul(BOTH_AXES.astype(weight.dtype), weight.reshape(outputs, channels, 9).swapaxes(1, 2),
                     out=np.empty((outputs, TERMS, channels), np.float32), casting="same_kind")
