"""How a kernel's work is cut into blocks of threads: plain numbers, decided without a GPU.

The weights below are from an H200, where each tile was timed for the shapes of LeViT-128S and 256
(bench/results/notes.md).
"""

from typing import NamedTuple

WARP, CHUNK_BYTES, K_BYTES = 32, 16, 128  # as in machine.cuh and product.cuh
PROCESSORS = 132  # of an H100 or H200; blocks that run at the same time are at least so many
SHARED_WITHOUT_ASKING = 48 << 10  # bytes a block may have; more must be asked for
SHARED_OF_HOPPER = 227 << 10
SHARED_AT_MOST = 99 << 10  # of compute capabilities 8.6, 8.9 and 12.0; 8.0 has 163 KiB, 9.0 has 227

MOST_TERMS = 1 << 19  # of a part: a convolution finds cells and pixels by floats, which is exact far below 2^20
SIZES = {"float": 4, "float16": 2, "bfloat16": 2}


def chunk_of(element: str) -> int:
    """Numbers in 16 bytes."""
    return CHUNK_BYTES // SIZES[element]


class Tile(NamedTuple):
    """What a block of product.cuh computes: rows × columns, by `down` × `across` warps."""

    rows: int
    columns: int
    down: int
    across: int
    stages: int
    cost: float  # of a result, relative to WIDE: a smaller tile reads each operand more often
    # WARPGROUPS: with the tensor cores' instructions that Hopper alone has, for 16-bit numbers.  RESIDENT: resident.cu,
    # with a warpgroup more.  SPLIT: each of four warps has a quarter of the terms.
    features: tuple = ()
    k_bytes: int = K_BYTES  # of a step

    @property
    def threads(self) -> int:
        return (self.down * self.across + 4 * ("RESIDENT" in self.features)) * WARP

    @property
    def shared(self) -> int:
        """Bytes for the stages; what a result passes through on its way to memory is less."""
        return self.stages * (self.rows + self.columns) * self.k_bytes

    @property
    def defines(self) -> tuple:
        return (("TILE_ROWS", self.rows), ("TILE_COLUMNS", self.columns), ("WARPS_DOWN", self.down),
                ("WARPS_ACROSS", self.across), ("STAGES", self.stages), ("K_BYTES", self.k_bytes),
                *((name, 1) for name in self.features))


WIDE = Tile(128, 128, 2, 4, 3, 1.0)
TALL = Tile(128, 64, 4, 2, 3, 1.15)
THIN = Tile(128, 32, 4, 2, 3, 1.4)  # the stem's first convolutions have 16 and 32 channels
SQUARE = Tile(64, 64, 2, 2, 3, 1.4)
# One image: its few rows are cut finely, so that every processor has some.
SMALL = Tile(32, 32, 2, 2, 4, 2.5, ("SPLIT",), 256)
TILES = (WIDE, TALL, THIN, SQUARE, SMALL)
BROAD, *_ = WARPGROUP_TILES = tuple(Tile(128, columns, 8, 1, stages, cost, ("WARPGROUPS",))
                                   for columns, stages, cost in ((128, 3, 0.7), (64, 3, 0.8), (32, 2, 1.3)))


# For sums of many terms: the outputs of a convolution can be few.
FLAT = Tile(64, 128, 4, 1, 3, 0.8, ("WARPGROUPS",))


def tiles_of(element: str, hopper: bool, across: bool = False) -> tuple:
    """The tiles for products of a type.  Floats, three products each and sums apart, leave no registers for WIDE.
    across: of products whose terms run across the second operand, of which Hopper's instructions take 64 columns."""
    if element == "float":
        return TILES[1:]
    return tuple(tile for tile in WARPGROUP_TILES if not across or tile.columns % 64 == 0) * hopper + TILES


def tile_for(rows: int, columns: int, tiles: tuple, parts: int = 1) -> Tile:
    """The tile with which the last block is done first, were each result as dear as its tile's cost says."""
    def time(tile):
        blocks = parts * cover(rows, tile.rows) * cover(columns, tile.columns)
        return cover(blocks, PROCESSORS) * tile.rows * tile.columns * tile.cost

    return min(tiles, key=time)


class Cut(NamedTuple):
    """How a linear map is cut into blocks."""

    tile: Tile
    grid: tuple
    shared: int
    across: int = 1  # tiles of columns a block

    @property
    def resident(self) -> bool:
        """Whether resident.cu's kernels are meant, which take no residual; else linear.cu's."""
        return "RESIDENT" in self.tile.features

    @property
    def tiles(self) -> tuple:
        """The last argument of resident.cu's kernels, which linear.cu's do not have."""
        return (self.across,) if self.resident else ()

    def kernel(self, name: str) -> tuple:
        """The source, and the name there of linear.cu's kernel of that name."""
        return ("resident", f"{name}_resident") if self.resident else ("linear", name)


RESIDENT_ROWS, STAGES = 192, (5, 8)  # of resident.cu; stages at least, and at most
BARRIERS = 8 * (2 * max(STAGES) + 16)  # bytes: two a stage, and one for each step's rows


def cut_for(tile: Tile, rows: int, columns: int, terms: int, element: str, residual: bool = False) -> Cut:
    """tile: tile_for's.  Many rows of few terms stay where they are while the columns pass by; with a residual, whose
    arrival the end of each tile would wait for, that takes longer."""
    resident = resident_for(rows, columns, terms * SIZES[element]) if tile == BROAD and not residual else None
    return resident or Cut(tile, (cover(rows, tile.rows), cover(columns, tile.columns)), tile.shared)


def resident_for(rows: int, columns: int, term_bytes: int) -> Cut | None:
    """resident.cu's cut, where its shared memory suffices and there are some tiles for each processor; the columns are
    shared out so that the last block is done first."""
    memory = cover(term_bytes, K_BYTES) * K_BYTES * RESIDENT_ROWS
    stages = min(max(STAGES), (SHARED_OF_HOPPER - BARRIERS - memory) // (BROAD.columns * K_BYTES))
    down, across = cover(rows, RESIDENT_ROWS), cover(columns, BROAD.columns)
    if stages < min(STAGES) or down * across < 3 * PROCESSORS:
        return None
    tile = Tile(RESIDENT_ROWS, BROAD.columns, RESIDENT_ROWS // 16, 1, stages, BROAD.cost, ("WARPGROUPS", "RESIDENT"))

    def time(parts):  # the first rows of a block are waited for, which is worth some half a tile
        return cover(down, max(1, PROCESSORS // parts)) * cover(across, parts) + 0.5

    parts = min(range(1, min(across, PROCESSORS) + 1), key=time)
    grid = min(down, max(1, PROCESSORS // parts)), parts
    return Cut(tile, grid, memory + stages * tile.columns * K_BYTES + BARRIERS, cover(across, parts))


def parts_for(rows: int, columns: int, terms: int, element: str, hopper: bool) -> tuple[Tile, int, int]:
    """(tile, parts, terms a part) where few results are sums of many terms, which run across both operands: so many
    blocks share a result that all processors have work, but no part is shorter than eight steps."""
    if rows <= SMALL.rows and columns <= SMALL.columns:
        tiles = (SMALL,)
    else:
        by_warpgroups = hopper and SIZES[element] == 2
        tiles = tuple(tile for tile in (*WARPGROUP_TILES, FLAT) if tile.columns % 64 == 0) * by_warpgroups + (SQUARE,)
    cuts = [(tile, *_shared_out(tile, rows, columns, terms, element)) for tile in tiles]

    def time(cut):
        tile, parts, length = cut
        blocks = parts * cover(rows, tile.rows) * cover(columns, tile.columns)
        return cover(blocks, PROCESSORS) * tile.rows * tile.columns * length * tile.cost

    return min(cuts, key=time)


def _shared_out(tile, rows, columns, terms, element):
    """(parts, terms a part).  Of large tiles no more blocks than run at the same time, two a processor: the last few
    would take as long as all the others, and each part is another array of sums in memory."""
    step = tile.k_bytes // SIZES[element]
    blocks = cover(rows, tile.rows) * cover(columns, tile.columns)
    most = 2 * PROCESSORS // blocks if "WARPGROUPS" in tile.features else cover(2 * PROCESSORS, blocks)
    parts = max(cover(terms, MOST_TERMS), min(most, terms // (8 * step)))
    length = cover(cover(terms, parts), step) * step
    return cover(terms, length), length


def cover(size: int, part: int) -> int:
    """How many parts cover the size."""
    return -(-size // part)


def whole(size: int, part: int) -> int:
    """The size rounded up to whole parts."""
    return cover(size, part) * part


class Heads(NamedTuple):
    """How attention's kernels share heads out: 16 rows of scores a warp, one head's rows in as few blocks as take them
    with eight warps at most; where a head has few rows, several heads a block."""

    grid: tuple
    block: tuple
    shared: int


SCORE_ROWS, SCORE_COLUMNS, MOST_WARPS = 16, 64, 8  # as in attention.cuh


def heads_for(rows: int, columns: int, pairs: int, token_bytes: int) -> Heads:
    """rows: of scores, each with `columns`; pairs: images times heads; token_bytes: of the two tokens that pass by."""
    tiles = cover(rows, SCORE_ROWS)
    blocks = cover(tiles, MOST_WARPS)
    warps = cover(tiles, blocks)
    size = min(tokens_held(token_bytes), whole(columns, SCORE_ROWS)) * token_bytes
    heads = max(1, min(MOST_WARPS // 2 // warps, pairs // PROCESSORS, SHARED_AT_MOST // size))
    return Heads((cover(pairs, heads), blocks), (warps * WARP, heads), heads * size)


def tokens_held(token_bytes: int) -> int:
    """Tokens that are in shared memory at once, of those that pass by; HELD of attention.cuh."""
    tiles, groups = (SHARED_AT_MOST // (size * token_bytes) for size in (SCORE_COLUMNS, SCORE_ROWS))
    return min(4, tiles) * SCORE_COLUMNS if tiles >= 2 else max(1, groups) * SCORE_ROWS


# As in attention_pairs.cu, whose barriers need pairs of at least half as many tiles of rows as there are warps.
PAIR_WARPS, PAIR_SLOTS = 16, 4
WIDEST_KEY, WIDEST_VALUE = 32, 64  # for which the registers of so many warps suffice


def attention_for(queries: int, keys: int, pairs: int, key: int, value: int, element: str,
                  hopper: bool) -> tuple[str, Heads]:
    """(the kernel, which is called as its source, how it shares heads out) for attention's forward; key, value: numbers
    of each.  More pairs than processors, each with more rows than a block takes at once, are worked on one after the
    other."""
    size, tiles = SIZES[element], cover(queries, SCORE_ROWS)
    slot = whole(keys, SCORE_ROWS) * (key + value) * size + tiles * SCORE_ROWS * key * size
    shared = PAIR_SLOTS * (slot + 2 * 8)  # with two barriers each
    fits = size == 2 and key <= WIDEST_KEY and value <= WIDEST_VALUE and shared <= SHARED_OF_HOPPER
    if hopper and fits and tiles > max(MOST_WARPS, PAIR_WARPS // 2 - 1) and pairs > PROCESSORS:
        return "attention_pairs", Heads((PROCESSORS,), (PAIR_WARPS * WARP,), shared)
    return "attention", heads_for(queries, keys, pairs, (key + value) * size)


def images_for(chunks: int, images: int) -> tuple[int, int]:
    """(parts, images a part) of a sum over images, each with so many chunks, a thread a chunk: so many parts that all
    processors have work, but none is shorter than eight images."""
    parts = max(1, min(images // 8, cover(PROCESSORS * 1024, chunks)))
    count = cover(images, parts)
    return cover(images, count), count


def head_size(size: int) -> int:
    """A query's, key's or value's numbers as the kernels have them: a power of two from 16."""
    return max(16, 1 << (size - 1).bit_length())


class Columns(NamedTuple):
    """How kernels that keep to a channel go over (rows, channels): a thread has `vector` channels and every so many-th
    row of its block's `length`."""

    grid: tuple
    block: tuple  # lanes, which have different channels, and rows at a time
    vector: int
    length: int

    @property
    def parts(self) -> int:
        return self.grid[1]


COLUMN_THREADS = 256


def columns_for(rows: int, channels: int, chunk: int, least: int = 8) -> Columns:
    """least: rows that a thread has at least, where there are so many."""
    vector = chunk if channels % chunk == 0 else 1
    across = channels // vector
    # As many lanes as leave the fewest without a channel; but for a few channels no fewer than 64 bytes side by side.
    lanes = min((n for n in (32, 16, 8, 4, 2, 1) if n >= min(across, 4)), key=lambda n: whole(across, n))
    down = COLUMN_THREADS // lanes
    blocks = cover(across, lanes)
    parts = max(1, min(cover(4 * PROCESSORS, blocks), rows // (least * down)))
    length = whole(cover(rows, parts), down)
    return Columns((blocks, cover(rows, length)), (lanes, down), vector, length)
