"""Evaluation's attention on register tiles, in float32 or of pairs of bfloat16. A thread takes blocks of queries of one
head: scores = k qᵀ + bias, softmax down the columns, then the product with v."""

from . import step
from .barrier import share
from .intrinsics import get
from .jit import jit
from .step import PLAIN
from .tile import UNROLL
from .value_pairs import value_pairs


def tile_attention(instructions, call, pairs=False):
    """The kernel (step, thread, threads).  call: the routines by name. pairs: a word of 4 bytes is two bfloat16, not a
    float32: neighbouring numbers of a query or key, or of two neighbouring keys' powers and values."""
    width, lanes, largest = instructions.width, instructions.lanes, instructions.rows
    vectors, tail_vectors, together = instructions.vectors, instructions.tail, 2 if pairs else 1
    tail_width, words = tail_vectors * lanes, width // together
    tile, transposed_tile, softmax = (call[name] for name in (
        ("pairs", "transposed_pairs", "softmax_pairs") if pairs else ("tile", "transposed", "softmax_columns")))
    pair_values = value_pairs(call["interleave"]) if pairs else None
    column, transpose = _in_panels(width, words, lanes, call["transpose"])
    A_IMAGES, A_HEADS, A_QUERIES, A_KEYS, A_KEY, A_VALUE, A_Q, A_Q_PANEL, A_K, A_K_PANEL, A_V, A_V_PANEL, A_SEGMENTS, \
        A_BIAS, A_OUT, A_LDO, A_SCRATCH, A_SCRATCH_SIZE, A_FINISH, A_HALF, A_HALF_PART, _, A_KEY_TILES, \
        A_KEY_COUNT, A_BLOCK_TILES, A_BLOCK_COUNT, A_LAST_TILES, A_LAST_COUNT = (int(c) for c in step.Attention)

    @jit
    def attention(s, thread, threads):
        """Scores are held transposed, (keys, queries): a query is one lane, so that its largest score and its sum need
        no reduction across a vector. A block of queries at a time: never all scores at once."""
        heads, queries, keys, key, value = (get(s, A_HEADS), get(s, A_QUERIES), get(s, A_KEYS), get(s, A_KEY),
                                            get(s, A_VALUE))
        ldo, finish = get(s, A_LDO), get(s, A_FINISH)
        row, a_row = width * 4, words * 4  # bytes of a row of scores; of q, k and v
        terms = (keys + together - 1) // together
        inverses = get(s, A_SCRATCH) + thread * get(s, A_SCRATCH_SIZE) + largest * row  # a tile's sums lie before it
        one_piece = inverses + row  # the segment table of a row in one piece: offset 0
        queries_across = one_piece + 64
        scores = queries_across + max(key // together, lanes) * row
        values = scores + keys * row
        blocks = (queries + width - 1) // width
        segments, pieces, piece = get(s, A_SEGMENTS), max(1, key // width), min(key, width) // together
        first, last = share(get(s, A_IMAGES) * heads * blocks, thread, threads)
        before = -1
        for unit in range(first, last):
            head, block, image = unit // blocks % heads, unit % blocks, unit // blocks // heads
            start = block * width
            present = min(width, queries - start)
            wide = vectors if present > tail_width else tail_vectors
            v_panel = get(s, A_V_PANEL)
            v = get(s, A_V) + head * (value // width) * v_panel + image * keys * a_row
            if pairs:
                if unit // blocks != before:
                    before = unit // blocks
                    pair_values(v, v_panel, value // width, keys, terms * together, values)
                v, v_panel = values, terms * row
            q = column(get(s, A_Q), get(s, A_Q_PANEL), head, key) + (image * queries + start) * a_row
            transpose(q, get(s, A_Q_PANEL), key // together, wide, queries_across)
            k = column(get(s, A_K), get(s, A_K_PANEL), head, key) + image * keys * a_row
            bias = get(s, A_BIAS) + (head * blocks + block) * keys * row
            tile(wide, get(s, A_KEY_TILES), get(s, A_KEY_COUNT), k, a_row, segments, pieces, piece, queries_across, 0,
                 bias, 0, 0, scores, row, 0, -1, bias, row, 0, PLAIN, 0, 0, 0)
            for j in range(wide):
                softmax(scores + j * lanes * 4, row, keys, inverses + j * lanes * 4)
            offset = (image * queries + start) * ldo + head * value * 4
            block_tiles, count = get(s, A_BLOCK_TILES), get(s, A_BLOCK_COUNT)
            if present < width:
                block_tiles, count = get(s, A_LAST_TILES), get(s, A_LAST_COUNT)
            for j in range(value // width):
                to = offset + j * row
                half = get(s, A_HALF) + to // 2 if get(s, A_HALF) else 0
                out, out_row, c_mask = get(s, A_OUT) + to, ldo, -1
                if get(s, A_OUT) == 0:
                    out, out_row, c_mask = inverses - largest * row, row, 0
                # Two of the first panel's tiles prefetch the next block's bias, which lies behind this one's.
                advance = 2 * together * row if j == 0 else 0
                transposed_tile(
                    vectors, block_tiles, count, scores, row, one_piece, 1, terms, v + j * v_panel, 0,
                    bias + keys * row, terms // UNROLL * advance, advance, out, out_row, 0, c_mask, inverses, 0, 0,
                    finish, half, ldo // 2, get(s, A_HALF_PART))

    return attention


def _in_panels(width, words, lanes, transpose_square):
    """(column, transpose): functions of what lies in panels of `width` numbers, `words` words a row."""
    number = words * 4 // width  # bytes

    @jit
    def column(base, panel_size, head, size):
        """The address of a head's first column in a buffer of panels; a panel holds several heads, or a head several
        panels."""
        at = head * size
        return base + at // width * panel_size + at % width * number

    @jit
    def transpose(q, panel_size, depth, wide, target):
        """Transposes a block of queries (…, depth words), in panels of columns -> (depth, wide vectors). The last block
        may be short: what lies behind it is computed with, and its results are never read. Nor are those of words after
        the last, which may be half of a square."""
        for d in range(0, depth, lanes):
            source = q + d // words * panel_size + d % words * 4
            for j in range(wide):
                transpose_square(source + j * lanes * words * 4, words * 4, target + (d * wide + j) * lanes * 4,
                                 wide * lanes * 4)

    return column, transpose
