"""The kernels as Numba functions of addresses, and `run`, which goes through a program's steps with several threads.

Each thread calls `run` with its own number; a step is split between them by its output, so that a number is computed
by one thread in one order whatever the count, and all wait for each other between two steps.
"""

from functools import partial

import numba

from . import step
from .amx_attention import amx_attention
from .amx_product import amx_product
from .barrier import barrier
from .intrinsics import RowOperations, amx_operations, as_float, get, get_float, set_float, tile_of
from .step import PLAIN, RESIDUAL
from .tile import UNROLL, across_function, tile_function

# No wrapper for Python is made: the functions are called by address.  Without one, and with divisions unchecked, the
# compiled code needs no symbol of Numba or Python.
OPTIONS = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
STEP = step.COLUMNS * 8
MANY = 144  # rows a thread

PRODUCT, ATTENTION, PAD, ROWS, SUM, LAYER_NORM, ADD, ROUND = (int(kind) for kind in step.Kind)


def kernels(instructions):
    """`run` for an instruction set, a Numba function (program, first, last, thread, threads, counter, give_way)."""
    jit = numba.njit(**OPTIONS)
    share, wait = barrier(jit)
    width, lanes = instructions.width, instructions.lanes
    vectors, tail_vectors = instructions.vectors, instructions.tail
    tail_width, largest = tail_vectors * lanes, instructions.rows
    operations = RowOperations(lanes)
    copy_row, add_row, round_row = operations.copy, operations.add, operations.round
    normalize_row = operations.layer_norm
    softmax_columns, transpose_square = operations.softmax_columns, operations.transpose
    halves, amx = bool(instructions.half), instructions.half == "tiles"

    def of_its_own(multiply):
        """A function around a tile's intrinsic, so that the tiles are compiled once for all who use them."""
        @jit
        def tile(rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel, bias, ldbias,
                 bias_panel, finish, half, ldhalf, part):
            multiply(rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel, bias,
                     ldbias, bias_panel, finish, half, ldhalf, part)
        return tile

    def tile_like(define, rows=largest, sizes=(vectors, tail_vectors), **more):
        return of_its_own(tile_of(partial(define, **more), lanes, rows, sizes))

    tile = tile_like(tile_function, halves=halves)
    across = tile_like(across_function, sizes=(vectors,), width=width, halves=halves)
    double_rows = instructions.double
    double = tile_like(tile_function, double_rows, (vectors,), panels=2, halves=halves) if double_rows else tile
    pairs_tile = tile_like(tile_function, sizes=(vectors,), pairs=True, halves=True) if instructions.half == "dot" else tile
    configure, release = amx_operations(lanes)[:2] if amx else (jit(lambda: None),) * 2

    P_TILES, P_COUNT, P_A, P_LDA, P_SEGMENTS, P_GROUPS, P_SEGMENT_COUNT, P_LENGTH, P_B, P_B_PANEL, P_PANELS, P_TAIL, \
        P_C, P_LDC, P_C_PANEL, P_BIAS, P_FINISH, P_BLOCK, P_PAIRS, P_A_PART, P_HALF, P_HALF_PART, \
        P_SCRATCH, P_SCRATCH_SIZE = (int(c) for c in step.Product)

    @jit
    def multiply(pairs, span, rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel,
                 bias, ldbias, bias_panel, finish, half, ldhalf, part):
        """One tile, by what reads bfloat16, by what spans two panels, or by the ordinary one."""
        if pairs:
            pairs_tile(rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel, bias,
                       ldbias, bias_panel, finish, half, ldhalf, part)
        elif span == 2:
            double(rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel, bias,
                   ldbias, bias_panel, finish, half, ldhalf, part)
        else:
            tile(rows, vectors, a, lda, segments, count, length, b, b_panel, ahead, advance, c, ldc, c_panel, bias, ldbias,
                 bias_panel, finish, half, ldhalf, part)

    @jit
    def divide(s, thread, threads):
        """A thread's part of a product: (its first tile, the last, its first panel, the last)."""
        tiles, count, panels = get(s, P_TILES), get(s, P_COUNT), get(s, P_PANELS) + get(s, P_TAIL)
        first, last, left, right = 0, count, 0, panels
        # Many rows are split: what a thread writes it reads again in the next step.  Of few rows, panels are split, for
        # then the weights are read once, two by two; unless that is less even.
        twos = (panels + 1) // 2
        if count * get(tiles, 0) < MANY * threads and (twos + threads - 1) // threads * count <= (count + threads - 1) // threads * twos:
            left, right = share(twos, thread, threads)
            left, right = 2 * left, min(2 * right, panels)
        else:
            first, last = share(count, thread, threads)
        return first, last, left, right

    @jit
    def product(s, thread, threads):
        first, last, left, right = divide(s, thread, threads)
        tiles = get(s, P_TILES)
        a, lda, c, ldc = get(s, P_A), get(s, P_LDA), get(s, P_C), get(s, P_LDC)
        segments, groups = get(s, P_SEGMENTS), get(s, P_GROUPS)
        segment_count, length = get(s, P_SEGMENT_COUNT), get(s, P_LENGTH)
        bias, finish, full = get(s, P_BIAS), get(s, P_FINISH), get(s, P_PANELS)
        terms = segment_count * length  # of a group
        b, b_panel, c_panel, block = get(s, P_B), get(s, P_B_PANEL), get(s, P_C_PANEL), get(s, P_BLOCK)
        pairs, half, half_part = get(s, P_PAIRS), get(s, P_HALF), get(s, P_HALF_PART)
        scratch = get(s, P_SCRATCH) + thread * get(s, P_SCRATCH_SIZE)
        start = first
        while start < last:  # a range whose step may be 0 could raise
            stop = min(start + block, last)
            j = left
            while j < right:
                wide = vectors if j < full else tail_vectors
                span = 1
                if not pairs and j + 2 <= min(right, full) and get(tiles + 24 * start, 0) <= double_rows:
                    span = 2
                # A group of terms at a time: its part of the panel stays in the L1 cache while all tiles of the block
                # use it, and rounding does not grow with the length of a row.  Meanwhile the next panel is fetched:
                # each tile's share of it, the last panel's being what lies behind these weights, the next step's.
                part = span * b_panel // ((stop - start) * groups)
                ahead = b + (j + span) * b_panel
                for group in range(groups):
                    # What was there is added first, an activation comes last.
                    code = finish if group == (0 if finish == RESIDUAL else groups - 1) else PLAIN
                    for t in range(start, stop):
                        row = tiles + 24 * t
                        offset = get(row, 2) + j * c_panel
                        to, to_row = c + offset, ldc
                        if c == 0:  # a register tile leaves its sums somewhere before they are rounded
                            to, to_row = scratch, 2 * width * 4
                        to_half = half + offset // 2 if half and group == groups - 1 else 0
                        from_, from_row, from_panel = bias + j * width * 4, 0, width * 4
                        if group:
                            from_, from_row, from_panel = to, ldc, c_panel
                        multiply(pairs, span, get(row, 0), wide, a + get(row, 1), lda, segments + group * segment_count * 8,
                                 segment_count, length, b + j * b_panel + group * terms * wide * lanes * 4, b_panel, ahead,
                                 part * UNROLL // terms, to, to_row, c_panel, from_, from_row, from_panel, code, to_half,
                                 ldc // 2, half_part)
                        ahead += part
                j += span
            start = stop

    A_IMAGES, A_HEADS, A_QUERIES, A_KEYS, A_KEY, A_VALUE, A_Q, A_Q_PANEL, A_K, A_K_PANEL, A_V, A_V_PANEL, A_SEGMENTS, \
        A_BIAS, A_OUT, A_LDO, A_SCRATCH, A_SCRATCH_SIZE, A_FINISH, A_HALF, A_HALF_PART, A_PAIRS = (int(c) for c in step.Attention)

    @jit
    def column(base, panel_size, head, size):
        """Where a head's columns begin in a buffer of panels: several heads a panel, or several panels a head."""
        at = head * size
        return base + at // width * panel_size + at % width * 4

    @jit
    def transpose(q, panel_size, depth, wide, target):
        """A block of queries (…, depth), in panels of columns, stands on its side, (depth, wide vectors).  The last
        block may be short: what lies behind it goes through the arithmetic and is never looked at."""
        for d in range(0, depth, lanes):
            source = q + d // width * panel_size + d % width * 4
            for j in range(wide):
                transpose_square(source + j * lanes * width * 4, width * 4, target + (d * wide + j) * lanes * 4,
                                 wide * lanes * 4)

    @jit
    def attention(s, thread, threads):
        """Scores are held on their side, (keys, queries): what is one query's stands in one lane, so that its largest
        score and its sum need no sum across a vector.  A block of queries at a time: never all scores."""
        heads, queries, keys, key, value = (get(s, A_HEADS), get(s, A_QUERIES), get(s, A_KEYS), get(s, A_KEY),
                                            get(s, A_VALUE))
        ldo, finish = get(s, A_LDO), get(s, A_FINISH)
        row = width * 4
        inverses = get(s, A_SCRATCH) + thread * get(s, A_SCRATCH_SIZE) + largest * row  # a tile's sums are before them
        one_piece = inverses + row  # the segment table of a row that is not in pieces: a zero
        queries_across = one_piece + 64
        scores = queries_across + key * row
        blocks = (queries + width - 1) // width
        segments, pieces, piece = get(s, A_SEGMENTS), max(1, key // width), min(key, width)
        parts = (keys + largest - 1) // largest
        first, last = share(get(s, A_IMAGES) * heads * blocks, thread, threads)
        for unit in range(first, last):
            head, block, image = unit // blocks % heads, unit % blocks, unit // blocks // heads
            start = block * width
            present = min(width, queries - start)
            wide = vectors if present > tail_width else tail_vectors
            q = column(get(s, A_Q), get(s, A_Q_PANEL), head, key) + (image * queries + start) * row
            transpose(q, get(s, A_Q_PANEL), key, wide, queries_across)
            k = column(get(s, A_K), get(s, A_K_PANEL), head, key) + image * keys * row
            bias = get(s, A_BIAS) + (head * blocks + block) * keys * row
            for part in range(parts):
                at, stop = keys * part // parts, keys * (part + 1) // parts
                tile(stop - at, wide, k + at * row, row, segments, pieces, piece, queries_across, 0, bias, 0,
                     scores + at * row, row, 0, bias + at * row, row, 0, PLAIN, 0, 0, 0)
            for j in range(wide):
                softmax_columns(scores + j * lanes * 4, row, keys, inverses + j * lanes * 4)
            offset = (image * queries + start) * ldo + head * value * 4
            v = get(s, A_V) + head * (value // width) * get(s, A_V_PANEL) + image * keys * row
            groups = (present + largest - 1) // largest
            for j in range(value // width):
                for group in range(groups):
                    at, stop = present * group // groups, present * (group + 1) // groups
                    to = offset + at * ldo + j * row
                    half = get(s, A_HALF) + to // 2 if get(s, A_HALF) else 0
                    out, out_row = (get(s, A_OUT) + to, ldo) if get(s, A_OUT) else (inverses - largest * row, row)
                    across(stop - at, vectors, scores + at * 4, row, one_piece, 1, keys, v + j * get(s, A_V_PANEL), 0,
                           scores, 0, out, out_row, 0, inverses + at * 4, 0, 0, finish, half, ldo // 2,
                           get(s, A_HALF_PART))

    pairs_attention = amx_attention(jit, lanes, share) if amx else attention
    pairs_product = amx_product(jit, lanes, divide) if amx else product

    I_IMAGES, I_CHANNELS, I_HEIGHT, I_WIDTH, I_SOURCE, I_TARGET, I_TARGET_ROW, I_TARGET_CHANNEL = (
        int(c) for c in step.Pad)

    @jit
    def pad(s, thread, threads):
        height, columns = get(s, I_HEIGHT), get(s, I_WIDTH)
        first, last = share(get(s, I_IMAGES) * get(s, I_CHANNELS) * height, thread, threads)
        for row in range(first, last):
            source = get(s, I_SOURCE) + row * columns * 4
            target = get(s, I_TARGET) + row // height * get(s, I_TARGET_CHANNEL) + row % height * get(s, I_TARGET_ROW)
            copy_row(source, target, columns // lanes)
            for i in range(columns // lanes * lanes, columns):
                set_float(target + 4 * i, get_float(source + 4 * i))

    R_PAIRS, R_COUNT, R_SOURCE, R_TARGET, R_VECTORS = (int(c) for c in step.Rows)

    @jit
    def rows(s, thread, threads):
        first, last = share(get(s, R_COUNT), thread, threads)
        for i in range(first, last):
            pair = get(s, R_PAIRS) + 16 * i
            copy_row(get(s, R_SOURCE) + get(pair, 0), get(s, R_TARGET) + get(pair, 1), get(s, R_VECTORS))

    S_IMAGES, S_TOKENS, S_SOURCE, S_SOURCE_ROW, S_SOURCE_IMAGE, S_TARGET, S_TARGET_ROW, S_VECTORS = (
        int(c) for c in step.Sum)

    @jit
    def total(s, thread, threads):
        first, last = share(get(s, S_IMAGES), thread, threads)
        for image in range(first, last):
            source = get(s, S_SOURCE) + image * get(s, S_SOURCE_IMAGE)
            target = get(s, S_TARGET) + image * get(s, S_TARGET_ROW)
            copy_row(source, target, get(s, S_VECTORS))
            for i in range(1, get(s, S_TOKENS)):
                add_row(source + i * get(s, S_SOURCE_ROW), target, get(s, S_VECTORS))

    D_IMAGES, D_TOKENS, D_SOURCE, D_SOURCE_ROW, D_TARGET, D_TARGET_ROW, D_VECTORS = (int(c) for c in step.Add)

    @jit
    def add(s, thread, threads):
        first, last = share(get(s, D_IMAGES) * get(s, D_TOKENS), thread, threads)
        for i in range(first, last):
            add_row(get(s, D_SOURCE) + i % get(s, D_TOKENS) * get(s, D_SOURCE_ROW),
                    get(s, D_TARGET) + i * get(s, D_TARGET_ROW), get(s, D_VECTORS))

    O_ROWS, O_SOURCE, O_SOURCE_ROW, O_TARGET, O_TARGET_ROW, O_VECTORS, O_PART = (int(c) for c in step.Round)

    if halves:
        @jit
        def to_halves(s, thread, threads):
            first, last = share(get(s, O_ROWS), thread, threads)
            for i in range(first, last):
                round_row(get(s, O_SOURCE) + i * get(s, O_SOURCE_ROW), get(s, O_TARGET) + i * get(s, O_TARGET_ROW),
                          get(s, O_VECTORS), get(s, O_PART))
    else:
        to_halves = jit(lambda s, thread, threads: None)

    L_ROWS, L_CHANNELS, L_SOURCE, L_TARGET, L_ROW, L_GAMMA, L_BETA, L_EPS, L_VECTORS = (int(c) for c in step.LayerNorm)
    @jit
    def layer_norm(s, thread, threads):
        first, last = share(get(s, L_ROWS), thread, threads)
        channels, row, vectors_ = get(s, L_CHANNELS), get(s, L_ROW), get(s, L_VECTORS)
        for i in range(first, last):
            normalize_row(get(s, L_SOURCE) + i * row, get(s, L_TARGET) + i * row, vectors_, float(channels),
                          float(vectors_ * lanes - channels), get(s, L_GAMMA), get(s, L_BETA), as_float(get(s, L_EPS)))

    @jit
    def run(program, first, last, thread, threads, counter, give_way):
        configure()
        for n in range(first, last):
            s = program + n * STEP
            kind = get(s, 0)
            if kind == PRODUCT:
                if get(s, P_PAIRS):
                    pairs_product(s, thread, threads)
                else:
                    product(s, thread, threads)
            elif kind == ATTENTION:
                if get(s, A_PAIRS):
                    pairs_attention(s, thread, threads)
                else:
                    attention(s, thread, threads)
            elif kind == PAD:
                pad(s, thread, threads)
            elif kind == ROWS:
                rows(s, thread, threads)
            elif kind == SUM:
                total(s, thread, threads)
            elif kind == LAYER_NORM:
                layer_norm(s, thread, threads)
            elif kind == ADD:
                add(s, thread, threads)
            elif kind == ROUND:
                to_halves(s, thread, threads)
            if threads > 1:
                wait(counter, (n - first + 1) * threads, give_way)
        release()

    return run
