"""Micro-kernels on AMX's tile registers (16 rows of 64 bytes): a 32 × 32 tile of c = a b, bfloat16 in, float32 sums.

Four registers accumulate 16 × 16 float32 each, two hold rows of `a` (16 × 32 bfloat16), two hold pairs of rows of `b`
(16 pairs × 16 columns). One instruction multiplies 16 × 32 by 32 × 16; a cycle does sixteen times the multiply-adds of
AVX-512 in float32.

That is fast enough for float32 too. A float32 is the sum of three bfloat16 numbers, 8 of its 24 bits each, so a b =
a₁b₁ + (a₁b₂ + a₂b₁) + (a₁b₃ + a₂b₂ + a₃b₁) up to terms below float32's rounding: six instructions for one, summed in
float32 as ever. An infinity becomes NaN (∞ - ∞), and a number below 1e-33 loses bits: its last part is less than the
smallest normal number."""

from functools import partial

from llvmlite import ir

from .step import HARDSWISH_SIX, PARTS, PLAIN, RESIDUAL, SILU, STREAM, Job
from .tile import emit_loop
from .vector import I32, I64, Vectors, number

ROWS, COLUMNS, TERMS = 32, 32, 16  # of a tile; TERMS: pairs of bfloat16 that one instruction takes
ACCUMULATORS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)  # the eight tile registers
# Which parts are multiplied (a's, b's), in passes over the terms. Small products are summed first, so that they are not
# lost in the rounding of the large sum. Within a pass each product shares a part with the one before it, which stays in
# its registers.
PASSES = {1: (((0, 0),),), PARTS: (((2, 0), (1, 0), (1, 1), (0, 1), (0, 2)), ((0, 0),))}
# The operand of LDTILECFG: palette 1; from byte 16 the bytes a row of each register, from byte 48 their rows.
CONFIGURATION = bytes([1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8)


def configure(v):
    """Loads the tile configuration: a thread calls it before its first tile, and `release` after its last, for while it
    holds tiles a context switch costs more."""
    module, name = v.builder.module, "levit_tile_configuration"
    kind = ir.ArrayType(ir.IntType(8), len(CONFIGURATION))
    if name not in module.globals:
        constant = ir.GlobalVariable(module, kind, name)
        constant.global_constant, constant.linkage = True, "internal"
        constant.initializer = ir.Constant(kind, bytearray(CONFIGURATION))
    place = v.builder.bitcast(module.globals[name], ir.IntType(8).as_pointer())
    v.call("llvm.x86.ldtilecfg", ir.VoidType(), [place])


def release(v):
    """Gives the tile registers up."""
    v.call("llvm.x86.tilerelease", ir.VoidType(), [])


def _byte(n):
    return ir.Constant(ir.IntType(8), n)


def _move(v, name, register, address, stride):
    """Loads or stores a tile register (`name` says which): 16 rows of 64 bytes, `stride` bytes apart."""
    place = v.builder.inttoptr(address, ir.IntType(8).as_pointer())
    v.call(f"llvm.x86.{name}", ir.VoidType(), [_byte(register), place, stride])


def multiply_function(module, lanes, halves, parts):
    """The LLVM function of a Job's address that computes one tile of up to 16 · halves rows: sums = Σ a b. A term is a
    pair of bfloat16. With `parts` 3 each number of a and b is three bfloat16, A_PART and B_PART bytes apart. It reads
    from the Job:

        A, LDA           a, and the bytes from a row to the next
        SEGMENTS, COUNT  address of COUNT byte offsets into a row, each the start of
        LENGTH           so many contiguous terms, a multiple of TERMS
        B                a packed panel (COUNT · LENGTH, COLUMNS) of pairs
        AHEAD, ADVANCE   what to prefetch into L2 meanwhile, and how many bytes of it every TERMS terms of a pass
        SUMS             where the sums go: TILE_SUMS bytes

    Rows of a beyond the last are read, and their sums not used.

    The tile unit works by itself. Meanwhile, after each product of TERMS terms, the vector units finish ROWS_A_STEP of
    the ROWS of the tile before, whose sums are at DONE (see finish_function), and split PAIRS_A_STEP of the pairs of
    rows FIRST to LAST of weights to come (see split_function)."""
    name = f"levit_amx_{16 * halves}_{parts}"
    if name in module.globals:
        return module.globals[name]
    v, (address,) = _new_function(module, name, lanes, 1)
    job = {field: v.load_scalar(v.at(address, 8 * field), I64) for field in Job}
    b, row = v.builder, COLUMNS * 4
    sums = ACCUMULATORS[: 2 * halves]
    for n in sums:
        v.call("llvm.x86.tilezero", ir.VoidType(), [_byte(n)])
    finish = finish_function(module, lanes), [job[n] for n in range(Job.DONE, Job.ROWS)], Job.ROWS_A_STEP, Job.ROWS
    source = job[Job.SOURCE], number(row), *(job[n] for n in range(Job.TARGET, Job.FIRST))
    split = split_function(module, lanes), source, Job.PAIRS_A_STEP, Job.LAST

    def meanwhile(firsts):
        """Vector work between two products: a tile instruction that waits for its registers holds up what is queued
        behind it."""
        lasts = []
        for first, (function, arguments, step, end) in zip(firsts, (finish, split)):
            last = v.smallest(v.at(first, job[step]), job[end])
            with b.if_then(b.icmp_signed("<", first, last)):
                b.call(function, [*arguments, first, last])
            lasts.append(last)
        return lasts

    def terms(products, a, carried):
        weights, ahead, *firsts = carried
        after, before = v.at(ahead, job[Job.ADVANCE]), (None, None)
        # Every cache line that begins between this address and the next, once.
        emit_loop(b, b.and_(ahead, number(-64)), after, 64, [], lambda line, carried: v.prefetch(line) or [])
        for left, right in products:
            if left != before[0]:
                part = v.at(a, b.mul(job[Job.A_PART], number(left)))
                for i in range(halves):
                    _move(v, "tileloadd64", LEFT[i], v.at(part, b.mul(job[Job.LDA], number(16 * i))), job[Job.LDA])
            if right != before[1]:
                part = v.at(weights, b.mul(job[Job.B_PART], number(right)))
                for j in range(2):
                    _move(v, "tileloadd64", RIGHT[j], v.at(part, 64 * j), number(row))
            for n in sums:
                v.call("llvm.x86.tdpbf16ps", ir.VoidType(), [_byte(n), _byte(LEFT[n // 2]), _byte(RIGHT[n % 2])])
            before, firsts = (left, right), meanwhile(firsts)
        return [v.at(weights, TERMS * row), after, *firsts]

    def segment(products, s, carried):
        a = v.at(job[Job.A], v.load_scalar(v.at(job[Job.SEGMENTS], b.mul(s, number(8))), I64))
        end = v.at(a, b.mul(job[Job.LENGTH], number(4)))
        return emit_loop(b, a, end, 4 * TERMS, carried, partial(terms, products))[1]

    carried = [job[Job.AHEAD], number(0), job[Job.FIRST]]
    for products in PASSES[parts]:
        carried = emit_loop(b, number(0), job[Job.COUNT], 1, [job[Job.B], *carried], partial(segment, products))[1][1:]
    for n in sums:
        _move(v, "tilestored64", n, v.at(job[Job.SUMS], n // 2 * 16 * row + n % 2 * 64), number(row))
    b.ret_void()
    return module.globals[name]


def _new_function(module, name, lanes, count):
    """(Vectors that emit into a new function of `count` int64, the function's arguments)."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * count), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return Vectors(ir.IRBuilder(function.append_basic_block("start")), lanes), function.args


def finish_function(module, lanes, scaled=False):
    """The epilogue of a tile: rows first to last of its sums become c = finish(sums + bias), stored at `c` unless that
    is 0, and, rounded to bfloat16, at `half` unless that is 0; as three parts if `part`, the bytes between them, is not
    0. ldbias 0: all rows have the same bias. scaled: row i is its sum times bias[i] instead. As an LLVM function of
    (sums, c, ldc, bias, ldbias, finish, half, ldhalf, part, first, last)."""
    name = "levit_amx_finish" + scaled * "_scaled"
    if name in module.globals:
        return module.globals[name]
    v, arguments = _new_function(module, name, lanes, 11)
    sums, to, ldc, bias, ldbias, finish, rounded, ldhalf, part, first, last = arguments
    b = v.builder
    is_exact, is_rounded = (b.icmp_signed("!=", place, number(0)) for place in (to, rounded))

    streaming = Vectors(b, lanes, stream=True)

    def rows(code, change):
        def row(i, carried):
            at, c, shift, half = (v.at(place, b.mul(i, size)) for place, size in (
                (sums, number(COLUMNS * 4)), (to, ldc), (bias, ldbias), (rounded, ldhalf)))
            y = [v.load(v.at(at, 64 * j)) for j in range(2)]
            if scaled:
                scale = v.spread(v.load_scalar(shift))
                y = [b.fmul(x, scale) for x in y]
            else:
                y = [b.fadd(x, v.load(v.at(shift, 64 * j))) for j, x in enumerate(y)]
            y = [change(x, v.at(c, 64 * j)) for j, x in enumerate(y)]
            with b.if_then(is_exact):
                for j in range(2):
                    (streaming if code == STREAM else v).store(y[j], v.at(c, 64 * j))
            with b.if_then(is_rounded):
                v.store_halves(y, half, part)
            return []

        emit_loop(b, first, last, 1, [], row)

    cases = {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: v.hardswish_six(y),
             SILU: lambda y, old: v.silu(y), RESIDUAL: lambda y, old: b.fadd(y, v.load(old)), STREAM: lambda y, old: y}
    done = b.append_basic_block("done")
    blocks = {code: b.append_basic_block(f"finish{code}") for code in cases}
    switch = b.switch(finish, blocks[PLAIN])
    for code, block in blocks.items():
        if code != PLAIN:
            switch.add_case(number(code), block)
        b.position_at_end(block)
        rows(code, cases[code])
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return module.globals[name]


def finish_scaled(v, *arguments):
    """finish_function's function, with the sums scaled."""
    v.builder.call(finish_function(v.builder.module, v.lanes, scaled=True), arguments)


def finish_last(v, job):
    """Finishes the last tile, which still waits in the Job at that address, as no product follows."""
    arguments = [v.load_scalar(v.at(job, 8 * n), I64) for n in range(Job.DONE, Job.ROWS + 1)]
    v.builder.call(finish_function(v.builder.module, v.lanes), [*arguments[:-1], number(0), arguments[-1]])


def multiply(v, rows, parts, job):
    """Runs the Job at that address: at most `rows` rows, 32 or fewer, of numbers in `parts` parts."""
    b = v.builder
    done = b.append_basic_block("done")
    few = b.zext(b.icmp_signed("<=", rows, number(16)), I64)
    switch = b.switch(b.add(b.mul(parts, number(2)), few), done)
    for count in PASSES:
        for is_few in (0, 1):
            block = b.append_basic_block(f"multiply{count}{is_few}")
            switch.add_case(number(2 * count + is_few), block)
            b.position_at_end(block)
            b.call(multiply_function(b.module, v.lanes, 2 - is_few, count), [job])
            b.branch(done)
    b.position_at_end(done)


def split_row(v, source, target, part, vectors):
    """`vectors` vectors of a float32 row -> PARTS rows of bfloat16, `part` bytes apart."""
    def one(i, carried):
        v.store_parts(v.load(v.at(source, v.builder.mul(i, number(4 * v.lanes)))),
                      v.at(target, v.builder.mul(i, number(2 * v.lanes))), part)
        return []

    emit_loop(v.builder, number(0), vectors, 1, [], one)


def split_square(v, source, row, target, target_row, part):
    """A square of lanes × lanes float32, transposed: its columns become rows in PARTS parts, `part` bytes apart."""
    rows = [v.load(v.at(source, v.builder.mul(row, number(i)))) for i in range(v.lanes)]
    for i, x in enumerate(v.transposed(rows)):
        v.store_parts(x, v.at(target, v.builder.mul(target_row, number(i))), part)


def split_function(module, lanes):
    """Splits weights: float32 rows `row` bytes apart and COLUMNS wide, pairs of rows first to last -> PARTS panels of
    pairs, `part` bytes apart. Prefetches into L2 what lies `further` bytes on. As an LLVM function of (source, row,
    target, part, further, first, last)."""
    name = "levit_amx_split"
    if name in module.globals:
        return module.globals[name]
    v, (source, row, target, part, further, first, last) = _new_function(module, name, lanes, 7)
    size = COLUMNS * 4

    def pair(n, carried):
        at = v.at(source, v.builder.mul(n, v.builder.shl(row, number(1))))
        to = v.at(target, v.builder.mul(n, number(size)))
        below = v.at(at, row)
        for j in range(0, size, 64):
            for here in (at, below):
                v.prefetch(v.at(v.at(here, further), j))
        for j in range(0, size, 64):
            v.split_pairs(v.load(v.at(at, j)), v.load(v.at(below, j)), v.at(to, j), part)
        return []

    emit_loop(v.builder, first, last, 1, [], pair)
    v.builder.ret_void()
    return module.globals[name]


def split_panel(v, *arguments):
    """split_function's function."""
    v.builder.call(split_function(v.builder.module, v.lanes), arguments)


def scores(v, keys, panel, pieces, queries, bias, target, blocks):
    """target (16 · blocks, COLUMNS) = bias + k qᵀ, 16 keys at a time: a key's row (32 bfloat16) in each of `pieces`
    panels, `panel` bytes apart; queries transposed, (pieces, 16 pairs, COLUMNS); bias laid out as target."""
    b, row, left, right = v.builder, COLUMNS * 4, LEFT[0], RIGHT

    def block(n, carried):
        at = b.mul(n, number(16 * row))
        for j in range(2):
            _move(v, "tileloadd64", ACCUMULATORS[j], v.at(v.at(bias, at), 64 * j), number(row))

        def piece(p, carried):
            rows = v.at(v.at(keys, b.mul(p, panel)), b.mul(n, number(16 * 64)))
            _move(v, "tileloadd64", left, rows, number(64))
            for j in range(2):
                _move(v, "tileloadd64", right[j], v.at(v.at(queries, b.mul(p, number(16 * row))), 64 * j), number(row))
                v.call("llvm.x86.tdpbf16ps", ir.VoidType(), [_byte(ACCUMULATORS[j]), _byte(left), _byte(right[j])])
            return []

        emit_loop(b, number(0), pieces, 1, [], piece)
        for j in range(2):
            _move(v, "tilestored64", ACCUMULATORS[j], v.at(v.at(target, at), 64 * j), number(row))
        return []

    emit_loop(b, number(0), blocks, 1, [], block)
