"""A program for the kernels: a batch's buffers, and the table of steps that reads and writes them."""

from typing import NamedTuple

import numpy as np

from ..ops.cpu import step as table
from ..ops.cpu.memory import Arena
from ..ops.cpu.step import AMX_JOB, PARTS, TILE_SUMS
from ..ops.cpu.threads import MOST
from .packing import HALF_GRAIN

# Bytes of a product's rows, for each column of a panel, that go through all panels before the next rows: they stay in
# the L2 cache, which is larger where vectors are wider.
BLOCK_BYTES_A_COLUMN = 16 << 10
# Bytes of a panel whose products are added up before the sum leaves the registers: 144 terms of 32 columns, 288 of 16,
# for rounding grows with the square root of their number.  So much stays in the L1 cache beside the rows that it
# multiplies, in parts too.  And terms of such a sum where an image has few tiles: see product.
PANEL_BYTES, FEW_TILES_SUM = 18 << 10, 64
# Bytes of rows in parts that go through all panels, and tiles of them at most: wherever there are tiles, the L2 cache
# has 2 MiB.
SPLIT_BLOCK, MOST_TILES = 1 << 20, 16
# Their sums; the weights at hand, and the next.
SPLIT_SCRATCH = AMX_JOB + (1 + MOST_TILES) * TILE_SUMS + PANEL_BYTES * PARTS


class Tensor(NamedTuple):
    """Tokens in memory: `row` bytes from one to the next, `panel` bytes from a panel of columns to the next.

    half: the same rounded to bfloat16, everything half as far apart.  Either address may be 0.  part: bytes between the
    three bfloat16 numbers that add up to a float32, 0 if there is but one."""

    address: int
    half: int
    tokens: int  # an image
    row: int
    panel: int
    part: int = 0

    def image(self, number):
        offset = number * self.tokens * self.row
        return self._replace(address=self.address and self.address + offset, half=self.half and self.half + offset // 2)


class Map(NamedTuple):
    """Pixels in memory with a border of zeros: bytes from a pixel, a line, an image to the next, were they float32;
    in bfloat16 half as many, and perhaps several parts."""

    address: int
    pixel: int
    line: int
    image: int
    part: int


class Product(NamedTuple):
    """What a product reads: a tile's row is `length` numbers at each of the segments (bytes), from `address` on.
    parts: how many bfloat16 numbers stand for one, 0 for float32; part: bytes between them."""

    address: int
    row: int
    segments: tuple
    length: int
    weight: object
    parts: int
    part: int


class Program:
    """The table for `batch` images, and the memory it needs.

    Emitted section by section, a few images at a time: `first` and `images` are those at hand.  Buffers have names,
    and what one part of the batch leaves in them is overwritten by the next; only "x", the residual stream, holds the
    whole batch."""

    def __init__(self, sections, batch, width, rows_a_tile, group_rows):
        self.batch, self.width, self.rows_a_tile = batch, width, rows_a_tile
        self.arena, self.names, self._steps, self._buffers = Arena(), [], [], {}
        self._tables = {}
        self.inputs = []  # (step, its first image): where an evaluation's images are read
        self.stage, self.tensors = None, {}  # what the step before left, by name
        for section in sections:
            stage = self.stage
            size = max(1, group_rows // stage.tokens) if stage else 1
            for self.first in range(0, batch, size):
                self.stage, self.images = stage, min(size, batch - self.first)
                if stage:
                    self.tensors["x"] = self.x
                for step in section:
                    step.emit(self)
        self.table = np.array(self._steps, np.int64)

    def add(self, name, kind, columns):
        row = np.zeros(table.COLUMNS, np.int64)
        row[0] = kind
        for column, value in columns.items():
            row[column] = value
        self._steps.append(row)
        self.names.append(name)

    def _memory(self, key, count):
        # A later section may have more images at hand; what came before keeps the smaller one.
        if key not in self._buffers or self._buffers[key].size < count:
            self._buffers[key] = self.arena.numbers(count)
        return self._buffers[key].ctypes.data

    def new(self, name, tokens, columns, exact=True, parts=0, images=None):
        """A tensor of rows for the images at hand, in float32 (exact), so many parts of bfloat16, or both."""
        row, images = row_bytes(columns), images or self.images
        count = images * tokens * row // 4
        address = self._memory((name, tokens, row), count) if exact else 0
        halved = self._memory((f"{name} half", tokens, row), count // 2 * parts) if parts else 0
        return Tensor(address, halved, tokens, row, self.width * 4, count * 2 if parts > 1 else 0)

    def new_panels(self, name, tokens, columns, half):
        """A tensor of panels, which attention reads: (panel, images · tokens, width), in float32 or bfloat16."""
        count = self.images * tokens
        panels = -(-columns // self.width)
        # Attention reads whole blocks of queries: up to a panel's width of rows behind the last.
        numbers = (count * panels + self.width) * self.width
        address = self._memory((name, tokens, columns), numbers // 2 if half else numbers)
        return Tensor(*((0, address) if half else (address, 0)), tokens, self.width * 4, count * self.width * 4)

    def scratch(self, size):
        """`size` bytes for each thread, shared by all steps."""
        return self._memory(("scratch", size), size // 4 * MOST)

    def new_x(self, tokens, columns, parts):
        """The residual stream of a stage, whole, of which the images at hand are a part."""
        self.stage = self.new("x", tokens, columns, True, parts, self.batch)
        self.tensors["x"] = self.x
        return self.x

    @property
    def x(self):
        return self.stage.image(self.first)

    def new_map(self, name, height, width, channels, planes, parts):
        """A bordered map of (height, width) pixels, of `channels` numbers side by side, in `planes`; in float32, or
        so many parts of bfloat16."""
        pixel, line = channels * 4, channels * width * 4
        image = line * height * planes
        count = self.images * image // 4
        address = self._memory((name, image), count // 2 * parts if parts else count)
        return Map(address, pixel, line, image, count * 2 if parts > 1 else 0)

    def rows(self, count, row_in, row_out, most):
        """`count` rows in as few tiles as there can be."""
        sizes, start = _divided(count, most)
        return self._numbers(np.stack([sizes, start * row_in, start * row_out], 1))

    def pixels(self, images, height, width, source, target, most):
        """The same for a map's output pixels: a tile keeps within a line.  source, target: bytes from a pixel, a
        line, an image to the next."""
        sizes, start = _divided(width, most)
        image, line, piece = (i.ravel() for i in np.indices((images, height, len(sizes))))
        offsets = [start[piece] * pixel + line * a_line + image * a_image
                   for pixel, a_line, a_image in (source, target)]
        return self._numbers(np.stack([sizes[piece], *offsets], 1))

    def segments(self, *offsets):
        return self._numbers(np.array(offsets)[:, None])[0]

    def offsets(self, source, target):
        """A table of rows to copy, from byte offsets to byte offsets."""
        return self._numbers(np.stack([source, target], 1))

    def round(self, name, tensor, vectors):
        """The bfloat16 of a tensor's rows, from its float32."""
        r = table.Round
        self.add(name, table.Kind.ROUND, {
            r.ROWS: self.images * tensor.tokens, r.SOURCE: tensor.address, r.SOURCE_ROW: tensor.row,
            r.TARGET: tensor.half, r.TARGET_ROW: tensor.row // 2, r.VECTORS: vectors, r.PART: tensor.part})

    def logits(self, classes):
        """(batch, classes), as the last evaluation left them."""
        (numbers,) = (n for key, n in self._buffers.items() if key[0] == "logits")
        return numbers.reshape(self.batch, -1)[:, :classes]

    def _numbers(self, array):
        """(address, rows) of a table of int64 that lives as long as the program; of equal ones there is one."""
        key = len(array), array.tobytes()
        if key not in self._tables:
            kept = self.arena.numbers(array.size, np.int64)
            kept[...] = array.ravel()
            self._tables[key] = kept.ctypes.data, len(array)
        return self._tables[key]

    def product(self, name, tiles, operand, target, finish):
        """target = finish(operand · weight + bias)."""
        p, weight, length, split = table.Product, operand.weight, operand.length, operand.parts == PARTS
        segments, groups = operand.segments, 1
        terms = len(segments) * length
        if split or not operand.parts and target.address:  # bfloat16 itself is much less exact than a long sum
            # Where an image has few tiles, splitting the weights takes longest: those at hand and the next fit in L1.
            few = split and tiles[1] <= 2 * self.images
            longest = FEW_TILES_SUM if few else PANEL_BYTES // ((2 if weight.pairs else 4) * self.width)
            grain = HALF_GRAIN if split else 1 + weight.pairs
            segments, length, groups = _groups(segments, length, longest, 2 if split else 4, grain)
        if split:
            block, scratch = min(MOST_TILES, SPLIT_BLOCK // (32 * terms * 2 * PARTS)), SPLIT_SCRATCH
        else:
            most = BLOCK_BYTES_A_COLUMN * self.width
            block, scratch = most // (self.rows_a_tile * terms * (2 if operand.parts else 4)), AMX_JOB + TILE_SUMS
        words = length // 2 if operand.parts or weight.pairs else length
        self.add(name, table.Kind.PRODUCT, {
            p.TILES: tiles[0], p.TILE_COUNT: tiles[1], p.A: operand.address, p.LDA: operand.row,
            p.SEGMENTS: self.segments(*segments), p.GROUPS: groups, p.COUNT: len(segments) // groups,
            p.LENGTH: words, p.B: weight.address, p.B_PANEL: weight.panel,
            p.PANELS: weight.full, p.TAIL: weight.tail, p.C: target.address, p.HALF: target.half,
            p.HALF_PART: target.part, p.LDC: target.row, p.C_PANEL: target.panel, p.BIAS: weight.bias,
            p.FINISH: finish, p.PARTS: operand.parts, p.A_PART: operand.part, p.SCRATCH: self.scratch(scratch),
            p.SCRATCH_SIZE: scratch, p.BLOCK: max(1, block), p.PAIRS: weight.pairs})


def _divided(count, most):
    """(sizes, where each begins) of `count` in as few parts as there can be, which differ by one at most: the larger
    ones first, for a change of size costs the processor a wrong guess."""
    parts = max(1, -(-count // most))
    sizes = count // parts + (np.arange(parts) < count % parts)
    return sizes, np.cumsum(sizes) - sizes


def _groups(segments, length, longest, size, grain):
    """(segments, their length, how many groups they are): a longer sum is cut, every segment into even parts of whole
    grains; size: bytes of a number."""
    if len(segments) * length <= longest:
        return segments, length, 1
    parts = next(n for n in range(-(-length // longest), length + 1) if length % (n * grain) == 0)
    length //= parts
    segments = tuple(start + size * length * part for start in segments for part in range(parts))
    return segments, length, len(segments)


def row_bytes(columns):
    """An odd number of cache lines in bfloat16, of pairs of them in float32: a power of two would put the rows of a
    tile into few sets of the L1 cache."""
    return 4 * (columns + 32 if columns % 64 == 0 else columns)
