"""A plan's steps for the cpu kernels: each packs its weights once, and then emits itself into the program of a batch:
`emit` adds a row to the table of steps (ops/cpu/step.py). The steps' order, and so the program's, is the plan's."""

import numpy as np

from ..ops.cpu import minimal_filtering
from ..ops.cpu import step as table
from ..ops.cpu.memory import Arena
from ..ops.cpu.minimal_filtering import FEW_SQUARES, WINDOW_BYTES
from ..ops.cpu.step import AMX_JOB, HARDSWISH_SIX, LOG2_E, PARTS, PLAIN, RESIDUAL, SILU, TILE, TILE_SUMS
from ..ops.reference import convolution_size
from . import plan
from .packing import (
    GRAIN, HALF_GRAIN, head_columns, key_size, nested, pack, plain_columns, round_up, spread, to_bfloat16)
from .program import GROUP, Product, Tensor

FINISH = {"identity": PLAIN, "hardswish": HARDSWISH_SIX, "silu": SILU}
SCRATCH_BYTES = 512 << 10  # of a convolution by minimal filtering, at least, so that all of them share one buffer


class Lowering:
    """The steps of a plan, packed, in `sections`: the stem, then each stage up to and including the shrinking block
    that ends it.

    State while they are made: `columns` of each tensor (see packing.py) and its `scale`, the factor from a number in
    memory to the true one (1/6 after the kernels' 6 · hardswish); `tokens` of the residual stream, `size` of the map.
    """

    def __init__(self, steps, config, instructions, half=False):
        self.arena, self.width, self.lanes = Arena(), instructions.width, instructions.lanes
        self.instructions, tiles = instructions, instructions.bfloat16 == "tiles"
        # How many bfloat16 numbers represent one in products (not the head's; the image's: see pixels): 1, rounded;
        # PARTS, whose sum it is exactly, where AMX multiplies float32 fastest that way; 0: it stays float32.
        self.parts = 1 if half and instructions.bfloat16_inputs else PARTS if tiles else 0
        # How two weights of a linear map are packed into 32 bits, if they are.
        self.pairs = (to_bfloat16 if instructions.bfloat16_inputs else nested) if half else None
        self.grain = HALF_GRAIN if self.parts else GRAIN
        self.map_grain = HALF_GRAIN if self.parts and tiles else GRAIN  # of the maps between convolutions
        self.half_attention = half and instructions.bfloat16_inputs  # q, k and v are bfloat16 too
        self.amx_attention = half and tiles
        self.columns, self.scale, self.tokens, self.size = {}, {}, None, config.image_size
        self.convolutions, self.sections, self.stem = [], [[]], len(config.stem)
        for step in steps:
            self.sections[-1].append(KINDS[type(step)](step, self))
            stem_ends = isinstance(step, plan.Convolution) and len(self.convolutions) == self.stem
            if stem_ends or isinstance(step, plan.Linear) and step.target == "x" and not step.residual:
                self.sections.append([])
            del step  # free it before the next is made: both are float64

    def pack(self, weight, bias, rows, columns, pairs):
        return pack(self.arena, weight, bias, self.width, rows, columns, pairs)

    def pixels(self, channels):
        """Whether an image is rounded to pairs, its three channels side by side; the kernel takes a vector's pixels at
        a time."""
        return self.parts == 1 and self.instructions.bfloat16 == "dot" and channels == 3 and self.size[1] >= self.lanes

    def tile_rows(self, parts, pairs, outputs):
        """Rows of a product's largest tile: one of bfloat16, one that spans two panels, or one of a single panel."""
        if parts or pairs:
            return 32 if parts == PARTS else self.instructions.pair_rows
        doubled = outputs >= 2 * self.width and self.instructions.double_rows
        return self.instructions.double_rows if doubled else self.instructions.rows

    def key_size(self, key):
        """Columns of a head in q and k: whole panels for AMX, else what fits evenly into a panel."""
        return round_up(key, self.width) if self.amx_attention else key_size(key, self.width)

    def finish(self, target, activation):
        """The kernels' code of an activation whose result goes to `target`."""
        self.scale[target] = 1 / 6 if activation == "hardswish" else 1
        return FINISH[activation]

    def keep(self, array):
        """The address of a float32 copy."""
        copy = self.arena.numbers(array.size)
        copy[...] = array.ravel()
        return copy.ctypes.data


class Convolution:
    """An implicit im2col: where a pixel's channels lie side by side, an output pixel's window is one contiguous segment
    for each line of the kernel; in the image itself, (C, H, W), one for each channel and line. An image that is rounded
    to bfloat16 pairs (see Lowering.pixels) becomes such a map of pixels meanwhile."""

    def __init__(self, step, lowering):
        outputs, channels, self.kernel, _ = step.weight.shape
        self.name, self.stride, self.padding = step.name, step.stride, step.padding
        self.size, scale = lowering.size, lowering.scale.get("map", 1)
        self.out = tuple(convolution_size(n, self.kernel, self.stride, self.padding) for n in self.size)
        self.finish = lowering.finish("map", step.activation)
        self.planes, self.channels, self.next = 1, channels, None
        self.number = len(lowering.convolutions)
        self.parts = lowering.parts
        self.pixels = self.number == 0 and lowering.pixels(channels)
        self.parts_read = self.parts if self.number or self.pixels else 0
        # With fewer channels the sums are too short to pay for the transforms around them.
        self.filtering = (self.number > 0 and channels > 16 and not self.parts_read
                          and minimal_filtering.suits(self.kernel, self.stride, self.out))
        weight = step.weight * scale
        if self.pixels:
            line = self.kernel * channels
            self.length = round_up(line, 2)
            weight = weight.transpose(0, 2, 3, 1).reshape(outputs, -1)
            cell = plain_columns(line, 2)
            rows = np.concatenate([np.where(cell < 0, -1, cell + i * line) for i in range(self.kernel)])
        elif self.number == 0:
            self.planes, self.channels = channels, 1
            weight, rows = weight.reshape(outputs, -1), np.arange(channels * self.kernel**2)
            self.length = self.kernel
        else:
            cells = minimal_filtering.TERMS if self.filtering else self.kernel**2
            weight = (minimal_filtering.kernel_terms(weight) if self.filtering
                      else weight.transpose(0, 2, 3, 1)).reshape(outputs, -1)  # (O, cells·C)
            cell = plain_columns(channels, lowering.lanes if self.filtering else lowering.map_grain)
            self.channels, self.length = round_up(channels, lowering.map_grain), self.kernel * len(cell)
            self.terms = len(cell)
            rows = np.concatenate([np.where(cell < 0, -1, cell + i * channels) for i in range(cells)])
        if self.number:
            lowering.convolutions[-1].next = self
        lowering.convolutions.append(self)
        grain = lowering.grain if len(lowering.convolutions) == lowering.stem else lowering.map_grain
        columns = lowering.columns["x"] = plain_columns(outputs, grain)
        pairs = lowering.pairs if self.parts_read == 1 else None
        self.outputs, self.tile_rows = len(columns), lowering.tile_rows(self.parts_read, pairs, len(columns))
        lowering.size, lowering.tokens = self.out, self.out[0] * self.out[1]
        self.weight = lowering.pack(weight, step.bias, rows, columns, pairs)

    def input(self, program):
        """The map it reads, with its border of zeros, and that map's height."""
        height, width = (max(self.padding + n, (m - 1) * self.stride + self.kernel)
                         for n, m in zip(self.size, self.out))
        if self.pixels:
            width += self.length - self.kernel * self.channels  # a line's last pair has a number of the next pixel
        return program.new_map(f"map {self.number}", height, width, self.channels, self.planes, self.parts_read), height

    def emit(self, program):
        source, height = self.input(program)
        if self.number == 0:
            self._emit_image(program, source, height)
        if self.next:
            there, _ = self.next.input(program)
            border = self.next.padding * (there.line + there.pixel)
            address, half = (0, there.address + border // 2) if self.parts else (there.address + border, 0)
            to = Tensor(address, half, 0, there.pixel, program.width * 4, there.part)
            target = (there.pixel, there.line, there.image)
        else:
            to = program.new_x(self.out[0] * self.out[1], self.outputs, self.parts)
            target = (to.row, to.row * self.out[1], to.row * to.tokens)
        if self.filtering:
            self._emit_filtering(program, source, to.address, target)
            return
        ratio = 2 if self.parts_read else 1  # the map's strides are as of float32
        pixel, line, image = (n // ratio for n in (source.pixel, source.line, source.image))
        segments = tuple((plane * height + i) * line for plane in range(self.planes) for i in range(self.kernel))
        tiles = program.pixels(program.images, *self.out, (self.stride * pixel, self.stride * line, image), target,
                               self.tile_rows)
        operand = Product(source.address, self.stride * pixel, segments, self.length, self.weight, self.parts_read,
                          source.part)
        program.product(self.name, tiles, operand, to, self.finish)

    def _emit_filtering(self, program, source, address, target):
        f, weight, panel = table.Filtering, self.weight, program.width * 4  # bytes of a row of it
        window = minimal_filtering.TERMS * self.terms * 4
        rows = max(FEW_SQUARES, WINDOW_BYTES // window)
        size = max(SCRATCH_BYTES, panel + rows * (len(minimal_filtering.NINE_PARTS) * panel + window + TILE))
        program.add(self.name, table.Kind.FILTERING, {
            f.IMAGES: program.images, f.LINES: self.out[0] // 2, f.COLUMNS: self.out[1] // 2, f.CHANNELS: self.terms,
            f.SOURCE: source.address, f.SOURCE_PIXEL: source.pixel, f.SOURCE_LINE: source.line,
            f.SOURCE_IMAGE: source.image, f.B: weight.address, f.B_PANEL: weight.panel, f.PANELS: weight.full,
            f.TAIL: weight.tail, f.TARGET: address, f.TARGET_PIXEL: target[0], f.TARGET_LINE: target[1],
            f.TARGET_IMAGE: target[2], f.BIAS: weight.bias, f.FINISH: self.finish, f.ROWS: rows,
            f.SIZES: program.segments(*minimal_filtering.SIZES), f.LONGEST: GROUP,
            f.SCRATCH: program.scratch(size), f.SCRATCH_SIZE: size})

    def _emit_image(self, program, source, height):
        i, ratio = table.Pad, 2 if self.pixels else 1
        program.inputs.append((len(program.names), program.first))
        program.add("image", table.Kind.PAD, {
            i.IMAGES: program.images, i.CHANNELS: self.planes, i.HEIGHT: self.size[0], i.WIDTH: self.size[1],
            i.TARGET: source.address + self.padding * (source.line + source.pixel) // ratio,
            i.TARGET_ROW: source.line // ratio, i.TARGET_CHANNEL: height * source.line // ratio,
            i.PIXELS: self.pixels})


class Linear:
    """A product of rows; what attention reads is written in panels of columns (see packing.py)."""

    def __init__(self, step, lowering):
        self.name, self.source, self.target = step.name, step.source, step.target
        scale = lowering.scale.get(step.source, 1)
        self.finish = RESIDUAL if step.residual else lowering.finish(step.target, step.activation)
        self.residual, self.tokens, self.panels = step.residual, lowering.tokens, bool(step.groups)
        self.half_panels = lowering.half_attention
        if step.source in ("kept", "context"):
            self.tokens = lowering.kept
        # What the head reads, a single token an image, stays float32, and so does what the pool reads.
        pooled = step.target in ("pooled", "logits")
        self.parts, self.exact = 0 if pooled else lowering.parts, step.target == "last_hidden" or not lowering.parts
        self.rows, columns = lowering.columns[step.source], self._columns(step, lowering)
        pairs = None if pooled else lowering.pairs
        self.tile_rows = lowering.tile_rows(self.parts, pairs, len(columns))
        lowering.columns[step.target] = columns
        base = np.ones(len(step.weight))
        if step.groups and step.target != "kv":  # the queries, which come first: softmax is to base 2
            base[: step.groups[0][0] * step.groups[0][1]] = LOG2_E
        if pooled:
            self.tokens = 1
        if step.target == "logits" and step.source == "pooled":
            scale /= lowering.pooled
        shift = step.bias * base * (lowering.pooled if step.target == "pooled" else 1)
        if step.target == "x":
            lowering.tokens = self.tokens
        # Rounded as it is multiplied: a float64 copy would be the largest array of a start.
        weight = np.multiply(step.weight, scale * base[:, None], out=np.empty(step.weight.shape, np.float32),
                             casting="same_kind")
        self.outputs = len(columns)
        self.weight = lowering.pack(weight, shift, self.rows, columns, pairs)

    @staticmethod
    def _columns(step, lowering):
        if not step.groups:
            return plain_columns(len(step.weight), lowering.grain)
        width, parts, start = lowering.width, [], 0
        for i, (heads, size) in enumerate(step.groups):
            # The last of several groups is v; a single group is q.
            value = i > 0 and i + 1 == len(step.groups)
            parts.append(head_columns(heads, size, round_up(size, width) if value else lowering.key_size(size), width,
                                      start))
            start += heads * size
        return np.concatenate(parts)

    def emit(self, program):
        source = program.tensors[self.source]
        if self.residual:
            target = program.tensors[self.target]
        elif self.target == "x":
            target = program.new_x(self.tokens, self.outputs, self.parts)
        elif self.target == "logits":
            target = program.new("logits", 1, self.outputs, images=program.batch).image(program.first)
        elif self.panels:
            target = program.new_panels(self.target, self.tokens, self.outputs, self.half_panels)
        else:
            target = program.new(self.target, self.tokens, self.outputs, self.exact, 0 if self.exact else self.parts)
        program.tensors[self.target] = target
        address, row = (source.half, source.row // 2) if self.parts else (source.address, source.row)
        tiles = program.rows(program.images * self.tokens, row, target.row, self.tile_rows)
        operand = Product(address, row, (0,), len(self.rows), self.weight, self.parts, source.part)
        program.product(self.name, tiles, operand, target, self.finish)


class Attention:
    """Both products and the softmax between them, to base 2: q and the bias carry the factor log₂ e."""

    def __init__(self, step, lowering):
        self.name, self.source, self.queries, self.heads = step.name, step.source, step.queries, step.heads
        queries = lowering.tokens if step.queries == step.source else lowering.kept
        self.tokens, width = (queries, lowering.tokens), lowering.width
        self.half, self.amx = lowering.half_attention, lowering.amx_attention
        self.key, self.value = lowering.key_size(step.key), round_up(step.value, width)
        self.finish, self.parts = lowering.finish("context", step.activation), lowering.parts
        columns = lowering.columns["context"] = head_columns(step.heads, step.value, self.value,
                                                                    lowering.grain)
        self.outputs, lowering.kept = len(columns), queries
        self.bias = lowering.keep(self._transposed_bias(step, width))

    def _transposed_bias(self, step, width):
        """(heads, Nq, Nk) -> (heads, blocks, Nk, width), times log₂ e like the scores; zeros for missing queries."""
        queries, keys = self.tokens
        blocks = -(-queries // width)
        bias = np.zeros((step.heads, blocks * width, keys), np.float32)
        if step.bias is not None:
            bias[:, :queries] = step.bias * LOG2_E
        return bias.reshape(step.heads, blocks, width, keys).swapaxes(2, 3)

    def emit(self, program):
        a, (queries, keys), width = table.Attention, self.tokens, program.width
        both, q = program.tensors[self.source], program.tensors[self.queries]
        out = program.new("context", queries, self.outputs, not self.parts, self.parts)
        program.tensors["context"] = out
        panels = round_up(self.heads * self.key, width) // width  # of q, and of k
        panel, q_panel = (t.panel // 2 if self.half else t.panel for t in (both, q))
        address = both.half if self.half else both.address
        k = address + (panels * panel if self.source == self.queries else 0)
        size, tile_rows, row = self._scratch(program), program.rows_a_tile, width * 4
        key_tiles, block_tiles, last_tiles = (program.rows(*tiles, tile_rows) for tiles in (
            (keys, row // 2 if self.half else row, row), (width, 4, out.row), (queries % width, 4, out.row)))
        # A row of k may span several panels.
        pieces = tuple(i * panel for i in range(max(1, self.key // width)))
        program.add(self.name, table.Kind.ATTENTION, {
            a.IMAGES: program.images, a.HEADS: self.heads, a.QUERIES: queries, a.KEYS: keys, a.KEY: self.key,
            a.VALUE: self.value, a.Q: q.half if self.half else q.address, a.Q_PANEL: q_panel, a.K: k, a.K_PANEL: panel,
            a.V: k + panels * panel, a.V_PANEL: panel, a.SEGMENTS: program.segments(*pieces),
            a.BIAS: self.bias, a.OUT: out.address, a.HALF: out.half, a.HALF_PART: out.part, a.LDO: out.row,
            a.SCRATCH: program.scratch(size), a.SCRATCH_SIZE: size, a.FINISH: self.finish, a.BFLOAT16: self.half,
            a.KEY_TILES: key_tiles[0], a.KEY_COUNT: key_tiles[1], a.BLOCK_TILES: block_tiles[0],
            a.BLOCK_COUNT: block_tiles[1], a.LAST_TILES: last_tiles[0], a.LAST_COUNT: last_tiles[1]})

    def _scratch(self, program):
        """Bytes for a thread: a tile's sums, the softmax's sums, transposed queries, scores; for bfloat16 also pairs of
        v; for AMX also the powers 2^score, everything padded to whole tiles."""
        keys, row = self.tokens[1], program.width * 4
        if not self.amx:
            pairs = round_up(keys, 2) * self.value * 2 if self.half else 0
            return 64 + row * (program.rows_a_tile + 1 + self.key + keys) + pairs
        keys = round_up(keys, program.width)
        return AMX_JOB + TILE_SUMS + 64 + row * (1 + self.key // 2 + keys) + 2 * keys * (program.width + self.value)


class Subsample:
    """Copies the rows that are kept."""

    def __init__(self, step, lowering):
        self.name, self.source, self.target = step.name, step.source, step.target
        self.grid, self.stride = step.grid, step.stride
        self.tokens = -(-step.grid[0] // step.stride) * -(-step.grid[1] // step.stride)
        lowering.kept = self.tokens
        lowering.columns[step.target] = lowering.columns[step.source]
        self.columns, self.parts = len(lowering.columns[step.target]), lowering.parts
        self.vectors = self.columns // lowering.lanes // (2 if self.parts else 1)

    def emit(self, program):
        r, source = table.Rows, program.tensors[self.source]
        target = program.new(self.target, self.tokens, self.columns, not self.parts, self.parts)
        program.tensors[self.target] = target
        image, y, x = (i.ravel() for i in np.indices((program.images, *(-(-n // self.stride) for n in self.grid))))
        kept = (image * self.grid[0] + y * self.stride) * self.grid[1] + x * self.stride
        ratio, parts = 2 if self.parts else 1, np.arange(max(1, self.parts))[:, None]
        offsets, count = program.offsets((kept * source.row // ratio + parts * source.part).ravel(),
                                         (np.arange(len(kept)) * target.row // ratio + parts * target.part).ravel())
        program.add(self.name, table.Kind.ROWS, {
            r.OFFSETS: offsets, r.COUNT: count, r.SOURCE: source.half if self.parts else source.address,
            r.TARGET: target.half if self.parts else target.address, r.VECTORS: self.vectors})


class Token:
    """Copies the stream into a longer one, after the token."""

    def __init__(self, step, lowering):
        columns = lowering.columns["x"]
        self.name, self.tokens, self.columns = step.name, lowering.tokens, len(columns)
        self.address, self.vectors = lowering.keep(spread(step.token, columns)), len(columns) // lowering.lanes
        self.parts = lowering.parts
        lowering.tokens += 1

    def emit(self, program):
        r, source = table.Rows, program.x
        target = program.new_x(self.tokens + 1, self.columns, self.parts)
        image, row = (i.ravel() for i in np.indices((program.images, self.tokens)))
        rows = (image * self.tokens + row) * source.row, (image * (self.tokens + 1) + row + 1) * target.row
        first = np.zeros(program.images, int), np.arange(program.images) * (self.tokens + 1) * target.row
        for address, places in ((source.address, rows), (self.address, first)):
            offsets, count = program.offsets(*places)
            program.add(self.name, table.Kind.ROWS, {r.OFFSETS: offsets, r.COUNT: count, r.SOURCE: address,
                                                     r.TARGET: target.address, r.VECTORS: self.vectors})
        if self.parts:
            program.round(self.name, target, self.vectors)


class Pool:
    """Sums the tokens; the mean's 1/N is in the weights of the head. Pooling by the first token is a sum of one."""

    def __init__(self, step, lowering):
        self.name, self.source, self.target, self.tokens = step.name, step.source, step.target, lowering.tokens
        self.summed = lowering.pooled = 1 if step.first else lowering.tokens
        self.columns, self.lanes = lowering.columns[step.source], lowering.lanes
        lowering.columns[step.target], lowering.scale[step.target] = self.columns, lowering.scale.get(step.source, 1)

    def emit(self, program):
        s, source = table.Sum, program.tensors[self.source]
        target = program.tensors[self.target] = program.new(self.target, 1, len(self.columns))
        program.add(self.name, table.Kind.SUM, {
            s.IMAGES: program.images, s.TOKENS: self.summed, s.SOURCE: source.address, s.SOURCE_ROW: source.row,
            s.SOURCE_IMAGE: self.tokens * source.row, s.TARGET: target.address, s.TARGET_ROW: target.row,
            s.VECTORS: len(self.columns) // self.lanes})


class LayerNorm:
    """Row by row, over the true columns only."""

    def __init__(self, step, lowering):
        self.name, self.source = step.name, step.source
        columns = lowering.columns["normalized"] = lowering.columns[step.source]
        # The pool's result is the sum of N tokens: N times the mean, with N² times its variance.
        pooled = step.source == "pooled"
        self.tokens, self.eps = (1, step.eps * lowering.pooled**2) if pooled else (lowering.tokens, step.eps)
        self.channels, self.columns, self.parts = len(step.gamma), len(columns), 0 if pooled else lowering.parts
        self.vectors = len(columns) // lowering.lanes
        self.gamma, self.beta = (lowering.keep(spread(a, columns)) for a in (step.gamma, step.beta))

    def emit(self, program):
        n, source = table.LayerNorm, program.tensors[self.source]
        target = program.new("normalized", self.tokens, self.columns, True, self.parts)
        program.tensors["normalized"] = target
        program.add(self.name, table.Kind.LAYER_NORM, {
            n.ROWS: program.images * self.tokens, n.CHANNELS: self.channels, n.SOURCE: source.address,
            n.TARGET: target.address, n.ROW: source.row, n.GAMMA: self.gamma, n.BETA: self.beta,
            n.EPS: np.float64(self.eps).view(np.int64),
            n.VECTORS: self.vectors})
        if self.parts:
            program.round(self.name, target, self.vectors)


class Embedding:
    """Adds the embedding to the stream in place."""

    def __init__(self, step, lowering):
        columns = lowering.columns["x"]
        self.name, self.tokens, self.row = step.name, len(step.embedding), 4 * len(columns)
        self.address, self.vectors = lowering.keep(spread(step.embedding, columns)), len(columns) // lowering.lanes
        self.parts = lowering.parts

    def emit(self, program):
        a, target = table.Add, program.x
        program.add(self.name, table.Kind.ADD, {
            a.IMAGES: program.images, a.TOKENS: self.tokens, a.SOURCE: self.address, a.SOURCE_ROW: self.row,
            a.TARGET: target.address, a.TARGET_ROW: target.row, a.VECTORS: self.vectors})
        if self.parts:
            program.round(self.name, target, self.vectors)


KINDS = {plan.Convolution: Convolution, plan.Linear: Linear, plan.Attention: Attention, plan.Subsample: Subsample,
         plan.LayerNorm: LayerNorm, plan.Embedding: Embedding, plan.Token: Token, plan.Pool: Pool}
