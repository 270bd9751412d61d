"""A plan's steps for the GPU: each packs its weights once, and then emits the kernel launches for a batch.

Rows of a tensor are padded with zeros to whole chunks of 16 bytes, and heads to the sizes that the attention kernels
support; weights have zeros there, so that padding stays zero. Steps that only move numbers launch nothing where the
next step can read in place: a subsampling is a 1×1 convolution with a stride."""

import numpy as np

from ..ops.cuda import device, operands
from ..ops.cuda.activation import NUMBERS
from ..ops.cuda.attention import LOG2_E, arranged
from ..ops.cuda.convolution import over_blocks, require_countable
from ..ops.cuda.device import call
from ..ops.cuda.geometry import attention_for, ceil_div, chunk_of, cut_for, head_size, tile_for
from ..ops.cuda.kernel import Kernel, View
from ..ops.reference import convolution_size
from . import plan
from .packing import head_columns, plain_columns, spread, to_bfloat16

THREADS = 128


class Lowering:
    """The steps of a plan, packed, in `steps`.

    The images are a map of `blocks`, squares of `side` pixels. State while the steps are made: `columns` of each tensor
    (see packing.py), `tokens` of the residual stream, `size` of the map in pixels, `kept`, the subsampling that the
    next linear map reads through."""

    def __init__(self, steps, config, element, tf32=False):
        self.element, self.part, self.classes = element, chunk_of(element), config.num_classes
        self.defines = (("TF32", 1),) if tf32 else ()
        self.size, self.tokens, self.kept, self.maps = config.image_size, None, None, 0
        self.channels, self.size_of_images, self.bytes = config.in_channels, config.image_size, 0
        first = config.stem[0]
        self.side = 2 if (first.kernel, first.stride, first.padding) == (3, 2, 1) else 1
        self.blocks = tuple(ceil_div(n, self.side) for n in config.image_size)
        self.columns = {"map 0": self.plain(self.side**2 * self.channels)}
        self.steps = [KINDS[type(step)](step, self) for step in steps]

    def plain(self, count):
        return plain_columns(count, self.part)

    def heads(self, groups):
        """The columns of heads [(heads, size), …] side by side, each head padded."""
        starts = np.cumsum([0, *(heads * size for heads, size in groups)])
        return np.concatenate([head_columns(heads, size, head_size(size), 1, start)
                               for (heads, size), start in zip(groups, starts)])

    def weight(self, weight, rows, columns):
        """weight (O, …, C) on the GPU, with zeros in the padding."""
        return self.put(spread(spread(weight, rows, 0), columns))

    def put(self, array):
        """On the GPU, rounded to the elements' type, as bits: NumPy need not know the type."""
        bits = rounded(array, self.element)
        self.bytes += bits.nbytes
        return operands.asarray(bits)

    def floats(self, values, columns):
        padded = spread(values, columns).astype(np.float32)
        self.bytes += padded.nbytes
        return operands.asarray(padded)

    def tile_for(self, rows, outputs):
        return tile_for(rows, outputs, device.tiles(self.element))

    def kernel(self, source, name, *defines):
        return Kernel(source, name, self.element, (*defines, *self.defines))


def rounded(array, element):
    """float32, or as uint16 the bits of the nearest float16 or bfloat16 (ties to even)."""
    array = np.ascontiguousarray(array, np.float32)
    if element == "float":
        return array
    if element == "float16":
        return array.astype(np.float16).view(np.uint16)
    return to_bfloat16(array)


class Convolution:
    def __init__(self, step, lowering):
        weight, self.stride, self.padding = step.weight.transpose(0, 2, 3, 1), step.stride, step.padding
        self.out = tuple(convolution_size(n, weight.shape[1], self.stride, self.padding) for n in lowering.size)
        self.size = lowering.size
        if lowering.maps == 0 and lowering.side == 2:
            weight, self.stride, self.size = over_blocks(weight), 1, lowering.blocks
        self.kernel, self.source, self.activation = weight.shape[1], f"map {lowering.maps}", NUMBERS[step.activation]
        inputs, outputs = lowering.columns[self.source], lowering.plain(len(step.weight))
        lowering.maps += 1
        self.target, self.lowering = f"map {lowering.maps}", lowering
        self.channels, self.outputs = len(inputs), len(outputs)
        require_countable(self.size, self.kernel**2 * self.channels)
        # The last map is the residual stream.
        lowering.columns[self.target] = lowering.columns["x"] = outputs
        self.weight, self.bias = lowering.weight(weight, outputs, inputs), lowering.floats(step.bias, outputs)
        lowering.size, lowering.tokens = self.out, self.out[0] * self.out[1]

    def emit(self, program):
        rows = program.batch * self.out[0] * self.out[1]
        x = program.read(self.source)
        y = program.tensor(self.target, self.out[0] * self.out[1], self.outputs)
        program.alias("x", self.target)
        tile = self.lowering.tile_for(rows, self.outputs)
        yield call(self.lowering.kernel("convolution", "convolution", *tile.defines),
                   (ceil_div(rows, tile.rows), ceil_div(self.outputs, tile.columns)), (tile.threads,),
                   (x, self.weight, self.bias, y, program.batch, *self.size, self.channels, *self.out, self.outputs,
                    self.kernel, self.stride, self.padding, self.activation), tile.shared)


class Linear:
    def __init__(self, step, lowering):
        self.lowering, self.source, self.target, self.residual = lowering, step.source, step.target, step.residual
        self.activation, self.kept = NUMBERS[step.activation], None
        self.tokens = 1 if step.target == "logits" else lowering.tokens
        if step.source == "kept":
            self.kept = lowering.kept
            self.source, self.tokens = self.kept.source, self.kept.tokens
        elif step.source == "context":
            self.tokens = lowering.queries
        inputs = lowering.columns[self.source]
        outputs = lowering.heads(step.groups) if step.groups else lowering.plain(len(step.weight))
        lowering.columns[step.target] = outputs
        self.inputs, self.outputs, self.classes = len(inputs), len(outputs), len(step.weight)
        self.weight, self.bias = lowering.weight(step.weight, outputs, inputs), lowering.floats(step.bias, outputs)
        if step.target == "x":
            lowering.tokens = self.tokens

    def emit(self, program):
        rows, x = program.batch * self.tokens, program.read(self.source)
        tile, kernel = self.lowering.tile_for(rows, self.outputs), self.lowering.kernel
        grid = ceil_div(rows, tile.rows), ceil_div(self.outputs, tile.columns)
        if self.target == "logits":
            yield call(kernel("linear", "linear_floats", *tile.defines), grid, (tile.threads,),
                       (x, self.weight, self.bias, program.logits, rows, self.classes, self.inputs), tile.shared)
            return
        y = program.read(self.target) if self.residual else program.tensor(self.target, self.tokens, self.outputs)
        if self.kept:
            height, width = self.kept.grid
            yield call(kernel("convolution", "convolution", *tile.defines), grid, (tile.threads,),
                       (x, self.weight, self.bias, y, program.batch, height, width, self.inputs,
                        ceil_div(height, self.kept.stride), ceil_div(width, self.kept.stride), self.outputs, 1,
                        self.kept.stride, 0, self.activation), tile.shared)
        else:
            cut = cut_for(tile, rows, self.outputs, self.inputs, self.lowering.element, self.residual)
            residual = () if cut.resident else (y if self.residual else None,)
            yield call(kernel(*cut.kernel("linear"), *cut.tile.defines), cut.grid, (cut.tile.threads,),
                       (x, self.weight, self.bias, *residual, y, rows, self.outputs, self.inputs, self.outputs,
                        self.activation, *cut.tiles), cut.shared)


class Subsample:
    """Launches nothing: the linear map after it reads the kept tokens in place."""

    def __init__(self, step, lowering):
        self.source, self.grid, self.stride = step.source, step.grid, step.stride
        self.tokens = ceil_div(step.grid[0], step.stride) * ceil_div(step.grid[1], step.stride)
        lowering.kept = self

    def emit(self, program):
        return ()


class Attention:
    def __init__(self, step, lowering):
        self.lowering, self.heads, self.source, self.queries = lowering, step.heads, step.source, step.queries
        self.sizes, self.activation = (head_size(step.key), head_size(step.value)), NUMBERS[step.activation]
        self.keys = lowering.tokens
        self.count = lowering.queries = self.keys if step.queries == step.source else lowering.kept.tokens
        bias = None if step.bias is None else operands.asarray(np.ascontiguousarray(step.bias, np.float32))
        kind = np.float32 if lowering.element == "float" else np.uint16
        self.bias = arranged(bias, self.count, self.keys, False, lowering.element, kind, 1)
        lowering.bytes += self.bias[0].nbytes
        self.widths = [len(lowering.columns[name]) for name in (step.queries, step.source)]
        lowering.columns["context"] = lowering.heads([(step.heads, step.value)])

    def emit(self, program):
        key, value = self.sizes
        q, both = program.read(self.queries), program.read(self.source)
        first = self.heads * key if self.queries == self.source else 0  # where the keys begin
        y = program.tensor("context", self.count, self.heads * value)
        name, shape = attention_for(self.count, self.keys, program.batch * self.heads, key, value,
                                    self.lowering.element, device.on_hopper())
        strides = [np.int64(n) for n in (
            self.count * self.widths[0], self.widths[0], key, self.keys * self.widths[1], self.widths[1], key,
            self.keys * self.widths[1], self.widths[1], value)]
        values = both.reshape(-1)[first + self.heads * key :]
        kernel = self.lowering.kernel(name, name, ("KEY_SIZE", key), ("VALUE_SIZE", value))
        yield call(kernel, shape.grid, shape.block,
                   (View(q), View(both.reshape(-1)[first:]), View(values), self.bias[0], y, None, program.batch,
                    self.heads, self.count, self.keys, *strides, *self.bias[1:], LOG2_E, self.activation), shape.shared)


class LayerNorm:
    def __init__(self, step, lowering):
        self.lowering, self.source, self.eps = lowering, step.source, float(step.eps)
        self.tokens = 1 if step.source == "pooled" else lowering.tokens
        columns = lowering.columns[step.target] = lowering.columns[step.source]
        self.gamma, self.beta = lowering.floats(step.gamma, columns), lowering.floats(step.beta, columns)
        self.channels, self.width = len(step.gamma), len(columns)

    def emit(self, program):
        rows = program.batch * self.tokens
        y = program.tensor("normalized", self.tokens, self.width)
        yield call(self.lowering.kernel("normalization", "layer_norm"), (ceil_div(rows, 4),), (32, 4),
                   (program.read(self.source), self.gamma, self.beta, y, rows, self.channels, self.width, self.eps))


class Embedding:
    def __init__(self, step, lowering):
        self.lowering = lowering
        self.embedding = lowering.put(spread(step.embedding, lowering.columns["x"]))

    def emit(self, program):
        x = program.read("x")
        yield call(self.lowering.kernel("pointwise", "add_repeated"), (ceil_div(x.size, THREADS),), (THREADS,),
                   (x, self.embedding, np.int64(x.size), self.embedding.size))


class Token:
    def __init__(self, step, lowering):
        self.lowering, columns = lowering, lowering.columns["x"]
        self.tokens, self.width = lowering.tokens, len(columns)
        self.token = lowering.put(spread(step.token, columns))
        lowering.tokens += 1

    def emit(self, program):
        x = program.read("x")
        y = program.tensor("x and token", self.tokens + 1, self.width)
        program.alias("x", "x and token")
        yield call(self.lowering.kernel("pointwise", "prepend"), (ceil_div(y.size, THREADS),), (THREADS,),
                   (x, self.token, y, np.int64(y.size), self.tokens, self.width))


class Pool:
    def __init__(self, step, lowering):
        self.lowering, self.all, self.tokens = lowering, lowering.tokens, 1 if step.first else lowering.tokens
        self.source, self.target = step.source, step.target
        columns = lowering.columns[step.target] = lowering.columns[step.source]
        self.width = len(columns)

    def emit(self, program):
        y = program.tensor(self.target, 1, self.width)
        yield call(self.lowering.kernel("reduction", "average_tokens"), (ceil_div(y.size, THREADS),), (THREADS,),
                   (program.read(self.source), y, program.batch, self.tokens, self.all, self.width))


KINDS = {plan.Convolution: Convolution, plan.Linear: Linear, plan.Subsample: Subsample, plan.Attention: Attention,
         plan.LayerNorm: LayerNorm, plan.Embedding: Embedding, plan.Token: Token, plan.Pool: Pool}
