"""Numba kernels for the processor: float32 matrix products and attention at the speed of its vector units."""
