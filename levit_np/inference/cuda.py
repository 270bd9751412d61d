"""The GPU's executor: a snapshot of a model's weights, one set of buffers, and a CUDA graph for each batch size."""

import numpy as np

from ..errors import BackendError
from ..model import build
from ..ops.cuda import device, operands
from ..ops.cuda.device import call
from ..ops.cuda.geometry import ceil_div
from ..ops.cuda.kernel import ELEMENTS
from . import plan
from .cuda_lowering import THREADS, Lowering

MAX_BATCH = 1024  # images at a time; a larger batch is divided
# The most that kernels can address in a tensor: they count chunks of 16 bytes in 32 bits, whose largest value means
# "none"; and rows in 31 bits, with those missing from the last tiles.
MOST_BYTES, MOST_ROWS = (64 << 30) - 16, 2**31 - 2**16
KEPT = 8  # graphs kept, one for each batch size and kind of input


class CudaExecutor:
    """logits = executor(images), float32 (B, C, H, W), or executor(images, mean, std), bytes (B, H, W, C), normalised
    on the GPU -> (B, classes) float32: NumPy's for NumPy's images, CuPy's, on the weights' GPU, for CuPy's. apart: see
    plan.steps_of.

    precision: float32, float16 or bfloat16, of the tensors and the products; sums, softmax and logits are float32.
    tf32: products of float32 keep 10 bits of mantissa of each factor. Where memory does not suffice for a batch, it is
    divided, which gives the same logits (to rounding, where parts are so small that their products are tiled
    differently). Several threads may call it, on any CuPy stream; one is served at a time. Raises BackendError where
    the weights do not fit, or not even one image."""

    def __init__(self, model, precision="float32", apart=False, tf32=False, most=MAX_BATCH):
        self.precision, self.tf32, self.most = precision, tf32 and precision == "float32", most
        self._outputs = model.config.num_classes * (2 if apart and model.config.distillation else 1)
        try:
            with device.alone:  # another snapshot may be being evaluated
                host = build(model.config)
                host.set_state(model.numpy_state(), copy=False)
                self._lowering = Lowering(plan.steps_of(host, apart), model.config, ELEMENTS[precision], self.tf32)
        except Exception as error:
            if not device.ran_out(error):
                raise
            raise BackendError(f"backend cuda: expected memory for the weights, found {error}") from None
        self._buffers, self._programs, self._last, self._gpu = Buffers(), {}, None, device.current().here()
        self._normalization = None, None

    @property
    def memory(self) -> dict:
        """Bytes on the GPU: of weights and biases, and of the buffers, which are sized for the largest batch so far."""
        return {"weights": self._lowering.bytes, "buffers": self._buffers.bytes}

    def __call__(self, images, mean=None, std=None):
        xp, here = device.arrays(), not isinstance(images, device.arrays().ndarray)
        with device.alone, self._gpu:
            logits = (np if here else xp).empty((len(images), self._outputs), np.float32)
            self._last, first = device.current().in_turn(self._last), 0
            normalization = None if mean is None else self._scale_and_shift(tuple(mean), tuple(std))
            while first < len(images):
                size = _share(len(images) - first, self.most)
                scarce = None
                try:
                    found = self._program(size, bool(normalization)).run(images[first : first + size], normalization)
                except Exception as error:
                    if not device.ran_out(error):
                        raise
                    scarce = str(error)
                # Outside the except block: while the error lives, its traceback keeps the buffers alive.
                if scarce is not None:
                    self._smaller(size, scarce)
                    continue
                logits[first : first + size] = operands.to_host(found) if here else found
                first += size
        return logits

    def _scale_and_shift(self, mean, std):
        """For bytes v, a channel at a time: (v / 255 - mean) / std = v scale + shift."""
        if self._normalization[0] != (mean, std):  # repeated calls have the same: spares two copies to the GPU
            m, s = np.array(mean, np.float64), np.array(std, np.float64)
            self._normalization = (mean, std), [operands.asarray(a.astype(np.float32)) for a in (1 / (255 * s), -m / s)]
        return self._normalization[1]

    def _smaller(self, size, scarce):
        """Halves the number of images at a time from now on, after freeing all memory but the weights'."""
        if size == 1:
            raise BackendError(f"backend cuda: expected memory for one image, found {scarce}")
        device.current().finish()
        self.most = size // 2
        self._programs, self._buffers = {}, Buffers()
        device.current().free()

    def _program(self, batch, of_bytes):
        """The graph for a batch size. Where the buffers must grow, all graphs are dropped: they point at the old ones.
        """
        key = batch, of_bytes
        if key not in self._programs:
            device.current().finish()  # a graph that is running must not be dropped
            if batch > self._buffers.batch:
                self._programs, self._buffers = {}, Buffers(batch)
            while len(self._programs) >= KEPT:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = Program(self._lowering, self._buffers, batch, self._outputs, of_bytes)
        return self._programs[key]


def _share(left, most):
    """The size of the next part, so that all parts' sizes differ by one at most."""
    return ceil_div(left, ceil_div(left, most))


class Buffers:
    """The tensors' memory by name, for `batch` images; tensors with the same name share it."""

    def __init__(self, batch=0):
        self.batch, self._arrays = batch, {}

    @property
    def bytes(self):
        return sum(array.nbytes for array in self._arrays.values())

    def __call__(self, name, count, dtype):
        """`count` numbers for each image."""
        size = count * self.batch * np.dtype(dtype).itemsize
        if size > MOST_BYTES:
            raise device.current().OutOfMemory(size, MOST_BYTES)
        array = self._arrays.get(name)
        if array is None or array.size < count * self.batch:
            array = self._arrays[name] = operands.zeros((count * self.batch,), dtype)
        return array


class Program:
    """The launches for `batch` images: one that reads the images from wherever they are, and the others as one CUDA
    graph.

    All are emitted twice: the first time only sizes the buffers, whose addresses the launches of the second hold."""

    def __init__(self, lowering, buffers, batch, outputs, of_bytes):
        self.batch, self._buffers, self._element = batch, buffers, lowering.element
        self.logits = buffers("logits", outputs, np.float32)[: batch * outputs].reshape(batch, outputs)
        self._size, self._rows = lowering.size_of_images, lowering.blocks[0]
        self._kind, self._of = (np.uint8, "bytes") if of_bytes else (np.float32, "floats")
        self._read = lowering.kernel("image", f"image_of_{self._of}",
                                     ("SIDE", lowering.side), ("CHANNELS", lowering.channels))
        blocks, width = lowering.blocks[0] * lowering.blocks[1], len(lowering.columns["map 0"])
        for _ in "12":
            self._tensors, self._names = {}, {}
            self._first = self.tensor("map 0", blocks, width)
            calls = [launch for step in lowering.steps for launch in step.emit(self)]
        self.calls, self._run = calls, device.current().recorded(calls)

    def run(self, images, normalization=None):
        """The logits (B, classes) on the GPU, which the next run overwrites.  images: on the host or the GPU."""
        device.current().launch(self.reading(self._on_gpu(images), normalization))
        self._run()
        return self.logits

    def reading(self, images, normalization=None):
        """The launch that brings images on the GPU into the first convolution's layout."""
        return call(self._read, (self.batch * self._rows,), (THREADS,),
                    (images, *(normalization or ()), self._first, *self._size))

    def _on_gpu(self, images):
        if isinstance(images, device.arrays().ndarray):
            return operands.contiguous(operands.asarray(images), self._kind)
        copy = self._buffers(self._of, images[0].size, self._kind)[: images.size]
        device.current().copy(copy, images.reshape(-1))
        return copy

    def tensor(self, name, tokens, width):
        """A new tensor (B · tokens, width)."""
        count = tokens * width
        if self.batch * tokens > MOST_ROWS:
            raise device.current().OutOfMemory(self.batch * count, MOST_ROWS * width)
        memory = self._buffers(name, count, np.float32 if self._element == "float" else np.uint16)
        self._tensors[name], self._names[name] = memory[: self.batch * count].reshape(-1, width), name
        return self._tensors[name]

    def alias(self, name, other):
        """From now on `name` means the tensor `other`."""
        self._names[name] = other

    def read(self, name):
        return self._tensors[self._names[name]]
