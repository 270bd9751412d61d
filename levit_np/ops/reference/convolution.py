"""Two-dimensional convolution (cross-correlation, as in every deep-learning library).

For a fixed cell (i, j) of the kernel, the sum over input channels is a matrix product, w[:, :, i, j] with a strided
view of the input.  Forward and backward add up these K² products, which needs no im2col buffer.
"""

import numpy as np


def convolution_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """pixels = ⌊(size + 2 padding - kernel) / stride⌋ + 1: how many windows fit along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def _windows(padded, i, j, stride, height, width):
    """The input pixel under kernel cell (i, j) for every output pixel (u, v): a view (B, C, height, width)."""
    return padded[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]


def convolution(x, w, stride, padding):
    """y[b,o,u,v] = Σ_{c,i,j} w[o,c,i,j] · x[b,c, u·s+i-p, v·s+j-p].

    x (B, C, H, W), w (O, C, K, K) -> y (B, O, H', W').  s is the stride, p the padding with zeros.
    """
    kernel = w.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = (convolution_size(size, kernel, stride, padding) for size in x.shape[2:])
    y = np.zeros((len(x), height * width, len(w)), x.dtype)
    for i in range(kernel):
        for j in range(kernel):
            pixels = _windows(padded, i, j, stride, height, width).transpose(0, 2, 3, 1)  # (B, H', W', C)
            y += pixels.reshape(len(x), height * width, x.shape[1]) @ w[:, :, i, j].T
    return y.transpose(0, 2, 1).reshape(len(x), len(w), height, width)


def convolution_backward(dy, x, w, stride, padding, input_gradient=True):
    """dx[b,c,·] += Σ_o w[o,c,i,j] dy[b,o,u,v], dw[o,c,i,j] = Σ_{b,u,v} dy[b,o,u,v] x[b,c,·], · = u·s+i-p, v·s+j-p.

    dy (B, O, H', W') -> dx (B, C, H, W), dw (O, C, K, K).  Each product w · x of the forward passes w · dy to its pixel
    and x · dy to its weight; pixels under several windows add up. With input_gradient=False dx is None: training needs
    no gradient of the images."""
    kernel, (height, width) = w.shape[2], dy.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    dpadded, dw = np.zeros_like(padded), np.empty_like(w)
    rows = dy.transpose(0, 2, 3, 1).reshape(-1, len(w))  # (B·H'·W', O)
    for i in range(kernel):
        for j in range(kernel):
            pixels = _windows(padded, i, j, stride, height, width).transpose(0, 2, 3, 1)
            dw[:, :, i, j] = rows.T @ pixels.reshape(-1, x.shape[1])
            if input_gradient:
                dpixels = (rows @ w[:, :, i, j]).reshape(len(x), height, width, x.shape[1])
                _windows(dpadded, i, j, stride, height, width)[...] += dpixels.transpose(0, 3, 1, 2)
    dx = dpadded[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
    return dx if input_gradient else None, dw
