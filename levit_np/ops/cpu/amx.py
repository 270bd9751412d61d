"""The tile of bfloat16 products in AMX's tile registers, which hold 16 rows of 64 bytes: a register tile of 32 × 32.

Four registers hold sums (16 × 16 float32), two hold rows of `a` (16 × 32 bfloat16), two hold pairs of rows of `b`
(16 pairs × 16 columns).  One instruction multiplies 16 × 32 by 32 × 16.
"""

from llvmlite import ir

from .step import HARDSWISH_SIX, PLAIN, RESIDUAL, SILU
from .tile import emit_loop, new_function
from .vector import I32, I64, number

ROWS, COLUMNS, TERMS = 32, 32, 16  # of a tile; terms (pairs) an instruction
SUMS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)  # the registers
LINES = 16  # cache lines prefetched every TERMS
SCRATCH = ROWS * COLUMNS * 4
# Palette 1; at byte 16 the bytes a row of each of eight registers, at byte 48 their rows.
CONFIGURATION = bytes([1] + [0] * 15 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8)


def configure(v):
    """Before the first tile of a thread, and `release` after the last: while it holds tiles, switching costs more."""
    module, name = v.builder.module, "levit_tile_configuration"
    kind = ir.ArrayType(ir.IntType(8), len(CONFIGURATION))
    if name not in module.globals:
        constant = ir.GlobalVariable(module, kind, name)
        constant.global_constant, constant.linkage = True, "internal"
        constant.initializer = ir.Constant(kind, bytearray(CONFIGURATION))
    place = v.builder.bitcast(module.globals[name], ir.IntType(8).as_pointer())
    v.call("llvm.x86.ldtilecfg", ir.VoidType(), [place])


def release(v):
    v.call("llvm.x86.tilerelease", ir.VoidType(), [])


def _byte(n):
    return ir.Constant(ir.IntType(8), n)


def _move(v, name, register, address, stride):
    place = v.builder.inttoptr(address, ir.IntType(8).as_pointer())
    v.call(f"llvm.x86.{name}", ir.VoidType(), [_byte(register), place, stride])


def amx_function(module, lanes, halves_of_rows, scaled=False):
    """Like tile_function's with pairs: c = finish(a b + bias) for up to 16 or 32 rows, `rows` being one more argument.
    c may be 0; `scratch` has room for SCRATCH bytes.  Rows of a behind the last are read and not used; a segment's
    length is a multiple of TERMS.  scaled: row i is bias[i] times its sum instead."""
    v, argument, name = new_function(module, f"levit_amx_{16 * halves_of_rows}" + scaled * "_scaled", lanes, ("rows",))
    if not argument:
        return module.globals[name]
    b, pair_row = v.builder, COLUMNS * 4
    sums = SUMS[: 2 * halves_of_rows]
    for register in sums:
        v.call("llvm.x86.tilezero", ir.VoidType(), [_byte(register)])

    def terms(a, carried):
        weights, ahead = carried
        for line in range(LINES):
            v.prefetch(v.at(ahead, 64 * line))
        for i in range(halves_of_rows):
            _move(v, "tileloadd64", LEFT[i], v.at(a, b.mul(argument["lda"], number(16 * i))), argument["lda"])
        for j in range(2):
            _move(v, "tileloadd64", RIGHT[j], v.at(weights, 64 * j), number(pair_row))
        for n in sums:
            v.call("llvm.x86.tdpbf16ps", ir.VoidType(), [_byte(n), _byte(LEFT[n // 2]), _byte(RIGHT[n % 2])])
        return [v.at(weights, TERMS * pair_row), v.at(ahead, argument["advance"])]

    def segment(s, carried):
        a = v.at(argument["a"], v.load_scalar(v.at(argument["segments"], b.mul(s, number(8))), I64))
        return emit_loop(b, a, v.at(a, b.mul(argument["length"], number(4))), 4 * TERMS, carried, terms)[1]

    emit_loop(b, number(0), argument["count"], 1, [argument["b"], argument["ahead"]], segment)
    for n in sums:
        place = v.at(argument["scratch"], n // 2 * 16 * COLUMNS * 4 + n % 2 * 64)
        _move(v, "tilestored64", n, place, number(COLUMNS * 4))
    _finish(v, argument, scaled)
    b.ret_void()
    return module.globals[name]


def scores(v, keys, panel, pieces, queries, bias, target, blocks):
    """target (16 · blocks, COLUMNS) = bias + keys · queries, 16 keys at a time.  A key's numbers are in `pieces` panels
    of rows of 32 bfloat16; queries stand on their side, (pieces, 16 pairs, COLUMNS); bias is laid out as target is."""
    b, row, left, right = v.builder, COLUMNS * 4, LEFT[0], RIGHT

    def block(n, carried):
        at = b.mul(n, number(16 * row))
        for j in range(2):
            _move(v, "tileloadd64", SUMS[j], v.at(v.at(bias, at), 64 * j), number(row))

        def piece(p, carried):
            rows = v.at(v.at(keys, b.mul(p, panel)), b.mul(n, number(16 * 64)))
            _move(v, "tileloadd64", left, rows, number(64))
            for j in range(2):
                _move(v, "tileloadd64", right[j], v.at(v.at(queries, b.mul(p, number(16 * row))), 64 * j), number(row))
                v.call("llvm.x86.tdpbf16ps", ir.VoidType(), [_byte(SUMS[j]), _byte(left), _byte(right[j])])
            return []

        emit_loop(b, number(0), pieces, 1, [], piece)
        for j in range(2):
            _move(v, "tilestored64", SUMS[j], v.at(v.at(target, at), 64 * j), number(row))
        return []

    emit_loop(b, number(0), blocks, 1, [], block)


def interleave(v, first, second, target):
    """Two rows of COLUMNS bfloat16 become one of pairs."""
    b, kind = v.builder, ir.VectorType(ir.IntType(16), COLUMNS)
    rows = [b.load(v.pointer(at, kind), align=2, typ=kind) for at in (first, second)]
    mask = ir.VectorType(I32, COLUMNS)
    for j in range(2):
        order = [16 * j + n // 2 + n % 2 * COLUMNS for n in range(COLUMNS)]
        pairs = b.shuffle_vector(*rows, ir.Constant(mask, order))
        b.store(pairs, v.pointer(v.at(target, 64 * j), kind)).align = 2


def _finish(v, argument, scaled):
    """The finished sums, row by row, to c if there is one and, rounded, to `half` if there is one."""
    b = v.builder
    bias = None if scaled else [v.load(v.at(argument["bias"], 64 * j)) for j in range(2)]
    exact, rounded = (b.icmp_signed("!=", argument[name], number(0)) for name in ("c", "half"))

    def rows(change):
        def row(i, carried):
            at = v.at(argument["scratch"], b.mul(i, number(COLUMNS * 4)))
            c, half = (v.at(argument[name], b.mul(i, argument[stride]))
                       for name, stride in (("c", "ldc"), ("half", "ldhalf")))
            y = [v.load(v.at(at, 64 * j)) for j in range(2)]
            if scaled:
                scale = v.spread(v.load_scalar(v.at(argument["bias"], b.mul(i, number(4)))))
                y = [b.fmul(x, scale) for x in y]
            else:
                y = [b.fadd(x, shift) for x, shift in zip(y, bias)]
            y = [change(x, v.at(c, 64 * j)) for j, x in enumerate(y)]
            with b.if_then(exact):
                for j in range(2):
                    v.store(y[j], v.at(c, 64 * j))
            with b.if_then(rounded):
                for j in range(2):
                    v.store_half(y[j], v.at(half, 32 * j))
            return []

        emit_loop(b, number(0), argument["rows"], 1, [], row)

    cases = {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: v.hardswish_six(y),
             SILU: lambda y, old: v.silu(y), RESIDUAL: lambda y, old: b.fadd(y, v.load(old))}
    done = b.append_basic_block("done")
    blocks = {code: b.append_basic_block(f"finish{code}") for code in cases}
    switch = b.switch(argument["finish"], blocks[PLAIN])
    for code, block in blocks.items():
        if code != PLAIN:
            switch.add_case(number(code), block)
        b.position_at_end(block)
        rows(cases[code])
        b.branch(done)
    b.position_at_end(done)
