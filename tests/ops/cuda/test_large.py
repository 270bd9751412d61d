"""Batches as large as a GPU's memory and images of 1024²: every launch of evaluation and training stays within the
GPU's limits, and within the integers that its kernel counts with. Nothing is computed."""

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from levit_np.config import FAMILY, Convolution
from levit_np.errors import BackendError
from levit_np.inference import cuda_lowering, plan
from levit_np.inference.cuda import Buffers, Program
from levit_np.inference.cuda_lowering import Lowering
from levit_np.model import build
from levit_np.ops.cuda import device
from levit_np.ops.cuda.attention import arranged
from levit_np.ops.cuda.convolution import _Shape
from levit_np.ops.cuda.geometry import SHARED_AT_MOST, SHARED_OF_HOPPER
from levit_np.ops.cuda.kernel import View, source

from ...random_model import FIVE
from .emulator import Arrays, on_device

MOST = 2**31 - 1  # the largest int, in which kernels count rows
TILE = 192  # the most rows that a block counts beyond the last
# The largest number that a kernel counts in an int, from its arguments. For kernels that are not listed the arguments
# themselves are the largest.
COUNTED = {
    "convolution": lambda of: of["images"] * of["out_height"] * of["out_width"] + TILE,
    "linear": lambda of: of["rows"] + TILE, "linear_resident": lambda of: of["rows"] + 2 * TILE * 132,
    "linear_floats": lambda of: of["rows"] + TILE, "linear_data": lambda of: of["rows"] + TILE,
    "linear_data_resident": lambda of: of["rows"] + 2 * TILE * 132,
    "linear_weight": lambda of: of["rows"] + of["length"],
    "convolution_data": lambda of: of["images"] * of["height"] * of["width"] + TILE,
    "convolution_weight": lambda of: of["images"] * of["out_height"] * of["out_width"] + of["length"],
    "attention": lambda of: (of["images"] * of["heads"] + 8) * (of["queries"] // 16 + 1),
    "attention_pairs": lambda of: (of["images"] * of["heads"] + 132) * of["row_tiles"],
    "average_tokens": lambda of: of["images"] * of["channels"] + 128}
BY_CHUNKS = "convolution", "linear", "resident"  # these count chunks of 16 bytes in 32 bits


class Extent:
    """The shape and type of an array, without its memory."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(np.atleast_1d(shape).tolist()), np.dtype(dtype)
        self.size = int(np.prod(self.shape, dtype=object))
        self.nbytes = self.size * self.dtype.itemsize
        self.flags = type("Flags", (), {"c_contiguous": True})

    def __len__(self):
        return self.shape[0]

    def reshape(self, *shape):
        known = int(np.prod([n for n in shape if n >= 0], dtype=object))
        return Extent([self.size // known if n < 0 else n for n in shape], self.dtype)

    def __getitem__(self, part):
        return Extent([len(range(*part.indices(self.size)))], self.dtype)


class Paper:
    """A GPU that consists of its limits."""

    OutOfMemory = MemoryError

    def __init__(self, capability):
        self.capability, self.arrays, self.seen = capability, self, set()

    def empty(self, shape, dtype):
        return Extent(shape, dtype)

    zeros = empty

    def asarray(self, x):
        return Extent(x.shape, x.dtype)

    def here(self):
        return nullcontext()

    def recorded(self, calls):
        for call in calls:
            self.launch(call)

    def launch(self, call):
        name, (x, y, z), threads = call.kernel.name, call.grid, int(np.prod(call.block))
        assert 0 < x <= MOST and 0 < y < 65536 and 0 < z < 65536, (name, call.grid)
        assert threads % 32 == 0 and threads <= 1024, (name, call.block)
        assert call.shared <= (SHARED_OF_HOPPER if self.capability == device.HOPPER else SHARED_AT_MOST), name
        of = dict(zip(parameters(call.kernel.source, name), call.arguments, strict=True))
        counted = COUNTED.get(name, lambda of: 0)({key: int(n) for key, n in of.items() if isinstance(n, np.generic)})
        assert counted <= MOST, (name, counted)
        arrays = [a for a in call.arguments if not isinstance(a, (np.generic, View, type(None)))]
        assert call.kernel.source not in BY_CHUNKS or all(a.nbytes < 2**32 * 16 for a in arrays), name
        self.seen.add(name)


class Unwritten(Arrays):
    """Arrays of the host that are never written to, so the system gives them no memory."""

    @staticmethod
    def empty(shape, dtype):
        return on_device(np.empty(shape, dtype))


class Training(Paper):
    """The same for training's operations, which need arrays that look real."""

    def __init__(self, capability):
        super().__init__(capability)
        self.arrays = Unwritten()

    def asarray(self, x):
        return x if isinstance(x, self.arrays.ndarray) else self.arrays.asarray(x)

    def address(self, x):
        return x.ctypes.data


@cache
def parameters(kernel_source, name):
    found = re.search(rf"\b{name}\((.*?)\)\s*\{{", source(kernel_source), re.S)
    return [parameter.split()[-1].lstrip("*") for parameter in found[1].split(",")]


@pytest.fixture
def paper():
    yield lambda capability, kind=Paper: device.use(found := kind(capability)) or found
    device.use(None)


@cache
def steps(name, **changes):
    """A configuration with one block in each stage, and its plan."""
    config = short(name, **changes)
    return config, list(plan.steps_of(ones(build(config))))


def short(name, **changes):
    config = FAMILY[name]
    return replace(config, stages=tuple(stage._replace(depth=1) for stage in config.stages), **changes)


def ones(model):
    """The model with all weights 1."""
    model.set_state({key: model.ops.asarray(np.ones(spec.shape, np.float32))
                     for key, spec in model.specs_by_name().items()})
    return model


def walk(config, of, element, *batches):
    """The launches for each batch, or for half of it if it does not fit, as in the executor."""
    lowering = Lowering(of, config, element)
    for batch in batches:
        try:
            program = Program(lowering, Buffers(batch), batch, config.num_classes, False)
        except MemoryError:
            batch //= 2
            program = Program(lowering, Buffers(batch), batch, config.num_classes, False)
        device.current().launch(program.reading(Extent((batch, config.in_channels, *config.image_size), np.float32)))


@pytest.mark.parametrize("name", [*FIVE[:-1], pytest.param(FIVE[-1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("capability", [80, 90])
def test_launches_of_large_batches(name, capability, paper):
    """1024 images, and as many as 139 GB may hold."""
    gpu = paper(capability)
    config, of = steps(name)
    for element in ("float", "float16"):
        walk(config, of, element, 1024, 30_000)
    assert {"convolution", "linear", "linear_floats", "attention", "average_tokens", "image_of_floats"} <= gpu.seen
    assert ({"linear_resident", "attention_pairs"} <= gpu.seen) == (capability == 90), gpu.seen


@pytest.mark.parametrize("capability", [80, 90])
def test_launches_of_large_images(capability, paper):
    """Without an attention bias, which would have 4096² numbers a head."""
    gpu = paper(capability)
    config, of = steps("levit_128s", image_size=(1024, 1024), position="embedding")
    for element in ("float", "float16"):
        walk(config, of, element, 256, 1024)
    assert {"attention", "add_repeated"} <= gpu.seen


@pytest.mark.parametrize("name", [FIVE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in FIVE[1:4])])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_launches_of_training(name, precision, capability, paper):
    """2048 images, forward and backward; NumPy computes what is between the kernels, on unwritten memory."""
    gpu = paper(capability, Training)
    model = ones(build(short(name), "cuda"))
    with np.errstate(all="ignore"):
        outputs, saved = model.forward(gpu.arrays.empty((2048, 3, 224, 224), precision), training=True)
        model.backward([gpu.arrays.empty(y.shape, y.dtype) for y in outputs], saved)
    assert {"convolution_weight", "convolution_data", "linear_weight", "attention_queries", "attention_keys",
            "attention_values", "sum_over_images", "batch_statistics", "normalize_backward"} <= gpu.seen
    assert ("linear_data_resident" in gpu.seen) == (capability == 90 and precision == "float16")


def test_rows_are_counted_in_31_bits(paper):
    """With 8 channels a map may have more pixels than an int can count before it has 64 GiB: then fewer images are
    taken at a time."""
    paper(80)
    stem = tuple(Convolution(channels, 3, 2) for channels in (8, 16, 64, 128))
    config, of = steps("levit_128s", stem=stem, in_channels=1)
    for batch in 2**31 // 112**2, 2**31 // 112**2 + 1:
        walk(config, of, "float16", batch)


def test_an_array_of_2_to_the_32_chunks_is_refused(paper):
    """The number of the last chunk means "none": the end of an array of exactly 64 GiB would never be written."""
    paper(80)
    Buffers(1)("x", 2**35 - 8, np.uint16)
    with pytest.raises(MemoryError):
        Buffers(1)("x", 2**35, np.uint16)


def test_a_bias_that_the_kernels_cannot_count_is_refused(paper):
    """For an image of 4096²: the kernel's count would overflow before anything was written."""
    paper(80)
    arranged(None, 2**14, 2**14, False, "float16", np.uint16, 1)
    with pytest.raises(BackendError, match="at most 2,147,483,647 numbers of an attention's bias, found 4,294"):
        arranged(None, 2**16, 2**16, False, "float16", np.uint16, 1)


def test_sides_and_windows_that_the_kernels_cannot_count_are_refused(paper):
    """A window's start is kept in 16 bits and its cells are found with floats: wrong pixels would be read, or none."""
    gpu = paper(80)

    def shape(x, w):
        return _Shape(*(gpu.arrays.empty(sizes, np.float16) for sizes in (x, w)), 1, 1)

    shape((1, 8, 2**15 - 1, 2), (8, 8, 3, 3))
    shape((1, 8, 300, 300), (8, 8, 256, 256))
    with pytest.raises(BackendError, match="at most 32,767 pixels, or blocks of 2×2, a side, found 32,768 by 2"):
        shape((1, 8, 2**15, 2), (8, 8, 3, 3))
    with pytest.raises(BackendError, match="at most 524,288 terms, found 528,392"):
        shape((1, 8, 300, 300), (8, 8, 257, 257))
    config, of = steps("levit_128s")
    lowering = Lowering([], config, "float16")
    lowering.size = lowering.blocks = 2**15, 8
    with pytest.raises(BackendError, match="found 32,768 by 8"):
        cuda_lowering.Convolution(of[0], lowering)
