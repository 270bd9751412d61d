"""A program for the cpu kernels: a batch's buffers, and the table of steps that reads and writes them. Here are the
memory layouts and the blocking: how many rows, panels and terms a product takes at a time, so that each level of cache
holds what is used again. The steps of lowering.py fill it in."""

from typing import NamedTuple

import numpy as np

from ..ops.cpu import step as table
from ..ops.cpu.memory import Arena
from ..ops.cpu.step import AMX_JOB, PARTS, TILE_SUMS
from ..ops.cpu.threads import MAX_THREADS
from .packing import HALF_GRAIN

# Bytes of rows, for each column of a panel, that go through all panels before the next rows: they stay in L2, which is
# larger where vectors are wider.
BLOCK_BYTES_A_COLUMN = 16 << 10
# Terms of a group, whose sum leaves the registers only when it is complete: rounding grows with the square root of
# their number, and with 288 it too often exceeds twice PyTorch's. A group's part of a panel, at most 18 KiB, stays in
# L1 beside the rows that it multiplies, in three bfloat16 parts too. FEW_TILES_GROUP: the same where an image has few
# tiles, see product.
GROUP, FEW_TILES_GROUP = 144, 64
# The same block for rows in parts, and tiles of it at most: wherever there are AMX tiles, L2 has 2 MiB.
SPLIT_BLOCK, MOST_TILES = 1 << 20, 16
# A thread's scratch for them: the Job, the tiles' sums, two buffers of split weights.
SPLIT_SCRATCH = AMX_JOB + (1 + MOST_TILES) * TILE_SUMS + 2 * GROUP * 64 * PARTS


class Tensor(NamedTuple):
    """Tokens in memory: `row` bytes from one to the next, `panel` bytes from one panel of columns to the next.

    half: address of the same rounded to bfloat16, all distances halved. Either address may be 0. part: bytes between
    the three bfloat16 numbers that add up to a float32, 0 if there is only one."""

    address: int
    half: int
    tokens: int  # of an image
    row: int
    panel: int
    part: int = 0

    def image(self, number):
        offset = number * self.tokens * self.row
        return self._replace(address=self.address and self.address + offset, half=self.half and self.half + offset // 2)


class Map(NamedTuple):
    """Pixels in memory with a border of zeros: bytes to the next pixel, line, image if they are float32; for bfloat16
    half of that, and perhaps several parts, `part` bytes apart."""

    address: int
    pixel: int
    line: int
    image: int
    part: int


class Product(NamedTuple):
    """The left operand of a product: each row is `length` terms at each of the segments (byte offsets), from `address`
    on; `row` bytes to the next. parts: how many bfloat16 numbers represent one, 0 for float32; part: bytes between
    them."""

    address: int
    row: int
    segments: tuple
    length: int
    weight: object
    parts: int
    part: int


class Program:
    """The table for `batch` images, and the memory it needs.

    It is emitted section by section, a few images at a time: `first` and `images` are the present ones. Buffers have
    names, and what one part of the batch leaves in them the next overwrites; only "x", the residual stream, holds the
    whole batch."""

    def __init__(self, sections, batch, width, rows_a_tile, group_rows):
        self.batch, self.width, self.rows_a_tile = batch, width, rows_a_tile
        self.arena, self.names, self._steps, self._buffers = Arena(), [], [], {}
        self._tables = {}
        self.inputs = []  # (step, first image): where each evaluation sets its images' addresses
        self.stage, self.tensors = None, {}  # the present tensors, by name
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
        # A later section may take more images at a time; what came before keeps the smaller buffer.
        if key not in self._buffers or self._buffers[key].size < count:
            self._buffers[key] = self.arena.numbers(count)
        return self._buffers[key].ctypes.data

    def new(self, name, tokens, columns, exact=True, parts=0, images=None):
        """A new tensor in rows, for the present images: in float32 (exact), `parts` parts of bfloat16, or both."""
        row, images = row_bytes(columns), images or self.images
        count = images * tokens * row // 4
        address = self._memory((name, tokens, row), count) if exact else 0
        halved = self._memory((f"{name} half", tokens, row), count // 2 * parts) if parts else 0
        return Tensor(address, halved, tokens, row, self.width * 4, count * 2 if parts > 1 else 0)

    def new_panels(self, name, tokens, columns, half):
        """A new tensor in panels, which attention reads: (panel, images · tokens, width), in float32 or bfloat16."""
        count = self.images * tokens
        panels = -(-columns // self.width)
        # Attention reads whole blocks of queries: up to `width` rows beyond the last.
        numbers = (count * panels + self.width) * self.width
        address = self._memory((name, tokens, columns), numbers // 2 if half else numbers)
        return Tensor(*((0, address) if half else (address, 0)), tokens, self.width * 4, count * self.width * 4)

    def scratch(self, size):
        """`size` bytes for each thread, shared by all steps that ask for the same size."""
        return self._memory(("scratch", size), size // 4 * MAX_THREADS)

    def new_x(self, tokens, columns, parts):
        """The residual stream of a stage for the whole batch.  -> the present images' part of it."""
        self.stage = self.new("x", tokens, columns, True, parts, self.batch)
        self.tensors["x"] = self.x
        return self.x

    @property
    def x(self):
        return self.stage.image(self.first)

    def new_map(self, name, height, width, channels, planes, parts):
        """A map of (height, width) pixels, border included, with `channels` numbers side by side, in `planes`; in
        float32, or `parts` parts of bfloat16."""
        pixel, line = channels * 4, channels * width * 4
        image = line * height * planes
        count = self.images * image // 4
        address = self._memory((name, image), (count + 1) // 2 * parts if parts else count)
        return Map(address, pixel, line, image, count * 2 if parts > 1 else 0)

    def rows(self, count, row_in, row_out, most):
        """A table of tiles for `count` rows, as few as possible.  -> (address, number of tiles)."""
        sizes, start = _divided(count, most)
        return self._numbers(np.stack([sizes, start * row_in, start * row_out], 1))

    def pixels(self, images, height, width, source, target, most):
        """The same for a map's output pixels: a tile keeps within a line.  source, target: bytes to the next pixel,
        line, image."""
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
        """Adds the step that rounds a tensor's rows from float32 to bfloat16."""
        r = table.Round
        self.add(name, table.Kind.ROUND, {
            r.ROWS: self.images * tensor.tokens, r.SOURCE: tensor.address, r.SOURCE_ROW: tensor.row,
            r.TARGET: tensor.half, r.TARGET_ROW: tensor.row // 2, r.VECTORS: vectors, r.PART: tensor.part})

    def logits(self, classes):
        """(batch, classes), of the last evaluation."""
        (numbers,) = (n for key, n in self._buffers.items() if key[0] == "logits")
        return numbers.reshape(self.batch, -1)[:, :classes]

    def _numbers(self, array):
        """(address, rows) of an int64 table that lives as long as the program; equal tables are stored once."""
        key = len(array), array.tobytes()
        if key not in self._tables:
            kept = self.arena.numbers(array.size, np.int64)
            kept[...] = array.ravel()
            self._tables[key] = kept.ctypes.data, len(array)
        return self._tables[key]

    def product(self, name, tiles, operand, target, finish):
        """Adds the step target = finish(operand · weight + bias), and decides its blocking."""
        p, weight, length, split = table.Product, operand.weight, operand.length, operand.parts == PARTS
        segments, groups = operand.segments, 1
        terms = len(segments) * length
        if split or not operand.parts and target.address:  # bfloat16's own rounding exceeds that of a long sum
            # Where an image has few tiles, splitting the weights takes longest: then these weights and the next fit
            # into L1.
            few = split and tiles[1] <= 2 * self.images
            longest = FEW_TILES_GROUP if few else GROUP * (1 + weight.pairs)
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
    """(sizes, starts): `count` divided into as few parts of at most `most` as possible, equal to within one. Larger
    ones come first: each change of size costs the processor a branch misprediction."""
    parts = max(1, -(-count // most))
    sizes = count // parts + (np.arange(parts) < count % parts)
    return sizes, np.cumsum(sizes) - sizes


def _groups(segments, length, longest, size, grain):
    """(segments, their length, number of groups): cuts every segment into equal pieces of whole grains where a sum
    would be too long; size: bytes of a number."""
    if len(segments) * length <= longest:
        return segments, length, 1
    parts = next(n for n in range(-(-length // longest), length + 1) if length % (n * grain) == 0)
    length //= parts
    segments = tuple(start + size * length * part for start in segments for part in range(parts))
    return segments, length, len(segments)


def row_bytes(columns):
    """Bytes of a row: an odd number of cache lines in bfloat16, of pairs of lines in float32, since a power of two
    would map the rows of a tile to few sets of L1."""
    return 4 * (columns + 32 if columns % 64 == 0 else columns)
