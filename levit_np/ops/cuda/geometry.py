"""How a kernel's work is divided into blocks of threads: plain numbers, decided without a GPU.

The costs below were measured on an H200, where each tile was timed for the shapes of LeViT-128S and 256
(bench/results/notes.md). "Processor" means a streaming multiprocessor of the GPU."""

from typing import NamedTuple

WARP, CHUNK_BYTES, K_BYTES = 32, 16, 128  # as in machine.cuh and product.cuh
PROCESSORS = 132  # of an H100 or H200: at least so many blocks run at once
SHARED_WITHOUT_ASKING = 48 << 10  # bytes of shared memory of a block; more must be requested
SHARED_OF_HOPPER = 227 << 10
SHARED_AT_MOST = 99 << 10  # of compute capabilities 8.6, 8.9, 12.0; 8.0 has 163 KiB, 9.0 has 227

MOST_TERMS = 1 << 19  # of a part of a sum: a convolution divides by float arithmetic, exact far below 2^20
SIZES = {"float": 4, "float16": 2, "bfloat16": 2}


def chunk_of(element: str) -> int:
    """Numbers in 16 bytes."""
    return CHUNK_BYTES // SIZES[element]


class Tile(NamedTuple):
    """A block's tile in product.cuh: rows × columns of the result, computed by `down` × `across` warps."""

    rows: int
    columns: int
    down: int
    across: int
    stages: int
    cost: float  # time a result, relative to WIDE: a smaller tile reads each operand more often
    # WARPGROUPS: Hopper's warpgroup instructions, for 16-bit numbers. RESIDENT: resident.cu, with one warpgroup more.
    # SPLIT: each of four warps takes a quarter of the terms.
    features: tuple = ()
    k_bytes: int = K_BYTES  # bytes of k in a step

    @property
    def threads(self) -> int:
        return (self.down * self.across + 4 * ("RESIDENT" in self.features)) * WARP

    @property
    def shared(self) -> int:
        """Bytes of shared memory for the stages; the epilogue needs less."""
        return self.stages * (self.rows + self.columns) * self.k_bytes

    @property
    def defines(self) -> tuple:
        return (("TILE_ROWS", self.rows), ("TILE_COLUMNS", self.columns), ("WARPS_DOWN", self.down),
                ("WARPS_ACROSS", self.across), ("STAGES", self.stages), ("K_BYTES", self.k_bytes),
                *((name, 1) for name in self.features))


WIDE = Tile(128, 128, 2, 4, 3, 1.0)
TALL = Tile(128, 64, 4, 2, 3, 1.15)
THIN = Tile(128, 32, 4, 2, 3, 1.4)  # for the stem's first convolutions, of 16 and 32 channels
SQUARE = Tile(64, 64, 2, 2, 3, 1.4)
# For one image: few rows, finely divided, so that every processor gets some.
SMALL = Tile(32, 32, 2, 2, 4, 2.5, ("SPLIT",), 256)
TILES = (WIDE, TALL, THIN, SQUARE, SMALL)
BROAD, *_ = WARPGROUP_TILES = tuple(Tile(128, columns, 8, 1, stages, cost, ("WARPGROUPS",))
                                   for columns, stages, cost in ((128, 3, 0.7), (64, 3, 0.8), (32, 2, 1.3)))


# For sums of many terms (gradients of weights): a convolution may have few outputs.
FLAT = Tile(64, 128, 4, 1, 3, 0.8, ("WARPGROUPS",))


def tiles_of(element: str, hopper: bool, across: bool = False) -> tuple:
    """The tiles for products of a type. float32 takes three products each and separate sums, which leaves WIDE no
    registers. across: the terms run across the second operand, of which Hopper's instructions take 64 columns."""
    if element == "float":
        return TILES[1:]
    return tuple(tile for tile in WARPGROUP_TILES if not across or tile.columns % 64 == 0) * hopper + TILES


def tile_for(rows: int, columns: int, tiles: tuple, parts: int = 1) -> Tile:
    """The tile that finishes first, counting the blocks one processor computes in sequence and a tile's cost a result.
    """
    def time(tile):
        blocks = parts * ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
        return ceil_div(blocks, PROCESSORS) * tile.rows * tile.columns * tile.cost

    return min(tiles, key=time)


class Cut(NamedTuple):
    """How a linear map is divided into blocks."""

    tile: Tile
    grid: tuple
    shared: int
    across: int = 1  # tiles of columns for each block

    @property
    def resident(self) -> bool:
        """Whether it uses resident.cu's kernels, which take no residual, rather than linear.cu's."""
        return "RESIDENT" in self.tile.features

    @property
    def tiles(self) -> tuple:
        """The last argument of resident.cu's kernels, which linear.cu's lack."""
        return (self.across,) if self.resident else ()

    def kernel(self, name: str) -> tuple:
        """(source, name) of the kernel that does what linear.cu's of that name does."""
        return ("resident", f"{name}_resident") if self.resident else ("linear", name)


RESIDENT_ROWS, STAGES = 192, (5, 8)  # of resident.cu; (fewest, most) stages
BARRIERS = 8 * (2 * max(STAGES) + 16)  # bytes: two barriers a stage, and one for each step of the rows


def cut_for(tile: Tile, rows: int, columns: int, terms: int, element: str, residual: bool = False) -> Cut:
    """tile: tile_for's. Many rows of few terms stay resident in shared memory while the columns pass by; not with a
    residual, for which the end of each tile would wait."""
    resident = resident_for(rows, columns, terms * SIZES[element]) if tile == BROAD and not residual else None
    return resident or Cut(tile, (ceil_div(rows, tile.rows), ceil_div(columns, tile.columns)), tile.shared)


def resident_for(rows: int, columns: int, term_bytes: int) -> Cut | None:
    """resident.cu's Cut, if shared memory is large enough and there are several tiles for each processor, else None;
    columns are shared out so that the last block finishes first."""
    memory = ceil_div(term_bytes, K_BYTES) * K_BYTES * RESIDENT_ROWS
    stages = min(max(STAGES), (SHARED_OF_HOPPER - BARRIERS - memory) // (BROAD.columns * K_BYTES))
    down, across = ceil_div(rows, RESIDENT_ROWS), ceil_div(columns, BROAD.columns)
    if stages < min(STAGES) or down * across < 3 * PROCESSORS:
        return None
    tile = Tile(RESIDENT_ROWS, BROAD.columns, RESIDENT_ROWS // 16, 1, stages, BROAD.cost, ("WARPGROUPS", "RESIDENT"))

    def time(parts):  # loading a block's first rows costs about half a tile
        return ceil_div(down, max(1, PROCESSORS // parts)) * ceil_div(across, parts) + 0.5

    parts = min(range(1, min(across, PROCESSORS) + 1), key=time)
    grid = min(down, max(1, PROCESSORS // parts)), parts
    return Cut(tile, grid, memory + stages * tile.columns * K_BYTES + BARRIERS, ceil_div(across, parts))


def parts_for(rows: int, columns: int, terms: int, element: str, hopper: bool) -> tuple[Tile, int, int]:
    """(tile, parts, terms a part) for a product of few results and many terms, which run across both operands
    (split-k): as many blocks share a result as give all processors work, but no part is shorter than eight steps."""
    if rows <= SMALL.rows and columns <= SMALL.columns:
        tiles = (SMALL,)
    else:
        by_warpgroups = hopper and SIZES[element] == 2
        tiles = tuple(tile for tile in (*WARPGROUP_TILES, FLAT) if tile.columns % 64 == 0) * by_warpgroups + (SQUARE,)
    cuts = [(tile, *_shared_out(tile, rows, columns, terms, element)) for tile in tiles]

    def time(cut):
        tile, parts, length = cut
        blocks = parts * ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
        return ceil_div(blocks, PROCESSORS) * tile.rows * tile.columns * length * tile.cost

    return min(cuts, key=time)


def _shared_out(tile, rows, columns, terms, element):
    """(parts, terms a part). Of large tiles no more blocks than run at once, two a processor: the last few would take
    as long as all others, and each part is another array of sums in memory."""
    step = tile.k_bytes // SIZES[element]
    blocks = ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
    most = 2 * PROCESSORS // blocks if "WARPGROUPS" in tile.features else ceil_div(2 * PROCESSORS, blocks)
    parts = max(ceil_div(terms, MOST_TERMS), min(most, terms // (8 * step)))
    length = ceil_div(ceil_div(terms, parts), step) * step
    return ceil_div(terms, length), length


def ceil_div(size: int, part: int) -> int:
    """⌈size / part⌉."""
    return -(-size // part)


def round_up(size: int, part: int) -> int:
    """The size rounded up to a multiple of part."""
    return ceil_div(size, part) * part


class Heads(NamedTuple):
    """How attention's kernels share out the heads: a warp has 16 rows of scores; a head's rows go to as few blocks of
    at most eight warps as possible; where heads have few rows, a block has several heads."""

    grid: tuple
    block: tuple
    shared: int


SCORE_ROWS, SCORE_COLUMNS, MOST_WARPS = 16, 64, 8  # as in attention.cuh


def heads_for(rows: int, columns: int, pairs: int, token_bytes: int) -> Heads:
    """rows: of scores, each with `columns`; pairs: images times heads; token_bytes: of the two tokens (key and value,
    say) that pass by."""
    tiles = ceil_div(rows, SCORE_ROWS)
    blocks = ceil_div(tiles, MOST_WARPS)
    warps = ceil_div(tiles, blocks)
    size = min(tokens_held(token_bytes), round_up(columns, SCORE_ROWS)) * token_bytes
    heads = max(1, min(MOST_WARPS // 2 // warps, pairs // PROCESSORS, SHARED_AT_MOST // size))
    return Heads((ceil_div(pairs, heads), blocks), (warps * WARP, heads), heads * size)


def tokens_held(token_bytes: int) -> int:
    """Tokens that are in shared memory at once, of those that pass by; HELD in attention.cuh."""
    tiles, groups = (SHARED_AT_MOST // (size * token_bytes) for size in (SCORE_COLUMNS, SCORE_ROWS))
    return min(4, tiles) * SCORE_COLUMNS if tiles >= 2 else max(1, groups) * SCORE_ROWS


# As in attention_pairs.cu, whose barriers need at least half as many tiles of rows a pair as there are warps.
PAIR_WARPS, PAIR_SLOTS = 16, 4
WIDEST_KEY, WIDEST_VALUE = 32, 64  # head sizes for which so many warps have registers enough


def attention_for(queries: int, keys: int, pairs: int, key: int, value: int, element: str,
                  hopper: bool) -> tuple[str, Heads]:
    """(the kernel, named like its source, its Heads) for attention's forward; key, value: sizes of each. Where there
    are more (image, head) pairs than processors, each with more rows than a block takes at once, a block works through
    one pair after another."""
    size, tiles = SIZES[element], ceil_div(queries, SCORE_ROWS)
    slot = round_up(keys, SCORE_ROWS) * (key + value) * size + tiles * SCORE_ROWS * key * size
    shared = PAIR_SLOTS * (slot + 2 * 8)  # with two barriers each
    fits = size == 2 and key <= WIDEST_KEY and value <= WIDEST_VALUE and shared <= SHARED_OF_HOPPER
    if hopper and fits and tiles > max(MOST_WARPS, PAIR_WARPS // 2 - 1) and pairs > PROCESSORS:
        return "attention_pairs", Heads((PROCESSORS,), (PAIR_WARPS * WARP,), shared)
    return "attention", heads_for(queries, keys, pairs, (key + value) * size)


def images_for(chunks: int, images: int) -> tuple[int, int]:
    """(parts, images a part) of a sum over images of `chunks` chunks each, one a thread: as many parts as give all
    processors work, but none of fewer than eight images."""
    parts = max(1, min(images // 8, ceil_div(PROCESSORS * 1024, chunks)))
    count = ceil_div(images, parts)
    return ceil_div(images, count), count


def head_size(size: int) -> int:
    """The size of a query, key or value, padded for the kernels: a power of two from 16."""
    return max(16, 1 << (size - 1).bit_length())


class Columns(NamedTuple):
    """How kernels that sum over rows, channel by channel, divide (rows, channels): a thread has `vector` channels, and
    its share of the `length` rows of its block."""

    grid: tuple
    block: tuple  # (threads across channels, threads down the rows)
    vector: int
    length: int

    @property
    def parts(self) -> int:
        return self.grid[1]


COLUMN_THREADS = 256


def columns_for(rows: int, channels: int, chunk: int, least: int = 8) -> Columns:
    """least: rows for each thread, at least, where there are so many."""
    vector = chunk if channels % chunk == 0 else 1
    across = channels // vector
    # As many lanes as leave the fewest without a channel, but no fewer than cover 64 contiguous bytes.
    lanes = min((n for n in (32, 16, 8, 4, 2, 1) if n >= min(across, 4)), key=lambda n: round_up(across, n))
    down = COLUMN_THREADS // lanes
    blocks = ceil_div(across, lanes)
    parts = max(1, min(ceil_div(4 * PROCESSORS, blocks), rows // (least * down)))
    length = round_up(ceil_div(rows, parts), down)
    return Columns((blocks, ceil_div(rows, length)), (lanes, down), vector, length)
