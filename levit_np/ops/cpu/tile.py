"""The register tile (micro-kernel): a few rows × one panel of a matrix product, with its accumulators in registers from
the first term to the last.

c[i, j] = finish(Σ_k a[i, k] b[k, j] + bias[i, j]), where finish is the epilogue, an activation, say. Evaluation's
products are made of it: linear maps, convolutions (a row of a is then several segments of memory, one for each line of
the kernel) and both products of attention; unless they run on AMX's tiles (amx.py). Training's are in
training_routines.py."""

from functools import partial

from llvmlite import ir

from .step import HARDSWISH_SIX, PLAIN, RESIDUAL, SILU, TILE
from .vector import I64, Vectors, number

ARGUMENTS = ("vectors", "tiles", "number", "a", "lda", "segments", "count", "length", "b", "b_panel", "ahead", "share",
             "advance", "c", "ldc", "c_panel", "c_mask", "bias", "ldbias", "bias_panel", "finish", "half", "ldhalf",
             "part")
UNROLL = 4
LINES = 4  # cache lines of a panel prefetched every UNROLL terms


def tiles(lanes, sizes, widths, panels=1, pairs="", halves=False):
    """The routine, as (number of arguments, emit(builder, arguments)), that computes many tiles, each rows × (panels ·
    vectors): one call for all, as a call costs as much as twenty terms. All arguments are int64:

        vectors            of a panel, one of `widths`
        tiles, number      address of a table of so many tiles: rows (one of `sizes`), offset in a, offset in c
        a, lda             address, bytes from a row to the next
        segments, count    address of byte offsets into a row: so many segments,
        length             each of so many contiguous terms
        b, b_panel         a packed panel (count · length, vectors · lanes); or two, b_panel bytes apart
        ahead, share       what to prefetch into L2 meanwhile, how many bytes of it each tile has,
        advance            and how many of them every UNROLL terms
        c, ldc, c_panel    the result, bytes to its next row, to its next panel
        c_mask             -1, or 0 where all tiles write to the same place: the offsets in c are ANDed with it
        bias, ldbias       added to the sums; ldbias 0: one bias for all rows, else offset as c is
        bias_panel         bytes to its next panel
        finish             the epilogue: see step.py
        half, ldhalf       where the result goes rounded to bfloat16, offset half as far as c, or 0, if `halves`
        part               bytes between the result's three bfloat16 parts, 0 if it is rounded to one

    pairs: a term is two numbers, whose weights share 32 bits. "dot": a and b are bfloat16, and one instruction
    multiplies and adds both; "widened": a is float32, and b nested pairs (packing.nested) that become float32 in
    registers."""
    def tile(v, rows, vectors, argument):
        b = v.builder
        offsets = row_offsets(v, argument["lda"], rows)
        step = 8 if pairs == "widened" else 4
        place = lambda a, i, u: v.at(v.at(a, offsets[i]), step * u)
        if pairs == "dot":  # half of the terms take half of the time, in which what the sums are added to is fetched
            with b.if_then(b.icmp_signed("==", argument["finish"], number(RESIDUAL))):
                for at in _places(v, argument, "c", "ldc", "c_panel", rows, (panels, vectors)):
                    v.prefetch(at, writing=True)
        sums = _sum_segments(v, argument, rows, (panels, vectors), place, step, pairs)
        starts = _places(v, argument, "bias", "ldbias", "bias_panel", rows, (panels, vectors))
        sums = [b.fadd(y, v.load(at)) for y, at in zip(sums, starts)]
        cases = {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: v.hardswish_six(y),
                 RESIDUAL: lambda y, old: b.fadd(y, v.load(old))}
        _finish(v, argument, sums, (panels, vectors), cases, halves, pairs)

    def bias_offset(v, argument, a, c):
        return v.builder.select(v.builder.icmp_signed("==", argument["ldbias"], number(0)), number(0), c)

    return _over_tiles(lanes, sizes, widths, bias_offset, tile)


def transposed_tiles(lanes, sizes, widths, width, halves=False, pairs=""):
    """The same with `a` transposed, (terms, width): the tile's row i is a's column i. Row i of c is its sum times
    bias[i], which is offset as a is, before the activation: attention's product with v, divided by the softmax's sums.
    pairs "dot": each number of a and b is a pair."""
    def tile(v, rows, vectors, argument):
        place = lambda a, i, u: v.at(a, 4 * i + 4 * width * u)
        sums = _sum_segments(v, argument, rows, (1, vectors), place, 4 * width, pairs)
        scale = [v.spread(v.load_scalar(v.at(argument["bias"], 4 * i))) for i in range(rows)]
        scaled = [v.builder.fmul(y, scale[n // vectors]) for n, y in enumerate(sums)]
        _finish(v, argument, scaled, (1, vectors),
                {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: v.hardswish_six(y)}, halves, pairs)

    return _over_tiles(lanes, sizes, widths, lambda v, argument, a, c: a, tile)


def _over_tiles(lanes, sizes, widths, bias_offset, emit):
    """The routine that does emit(v, rows, vectors, {name: argument}) for each tile of its table."""
    def every(b, arguments):
        v, argument = Vectors(b, lanes), dict(zip(ARGUMENTS, arguments))

        def of_width(vectors):
            def each(i, carried):
                at = v.at(argument["tiles"], b.mul(i, number(TILE)))
                rows, a, c = (v.load_scalar(v.at(at, 8 * n), I64) for n in range(3))
                moved, half = b.and_(c, argument["c_mask"]), v.at(argument["half"], b.lshr(c, number(1)))
                here = argument | {
                    "a": v.at(argument["a"], a), "c": v.at(argument["c"], moved), "ahead": carried[0],
                    "bias": v.at(argument["bias"], bias_offset(v, argument, a, moved)),
                    "half": b.select(b.icmp_signed("==", argument["half"], number(0)), number(0), half)}
                emit_switch(b, rows, {size: partial(emit, v, size, vectors, here) for size in sizes})
                return [v.at(carried[0], argument["share"])]

            emit_loop(b, number(0), argument["number"], 1, [argument["ahead"]], each)

        emit_switch(b, argument["vectors"], {vectors: partial(of_width, vectors) for vectors in widths})

    return len(ARGUMENTS), every


def emit_switch(builder, value, cases):
    """cases[value](), or nothing where value is none of them."""
    done = builder.append_basic_block("done")
    switch = builder.switch(value, done)
    for case, emit in cases.items():
        block = builder.append_basic_block(f"case{case}")
        switch.add_case(number(case), block)
        builder.position_at_end(block)
        emit()
        builder.branch(done)
    builder.position_at_end(done)


def emit_loop(builder, start, stop, step, carried, body):
    """for i in range(start, stop, step): carried = body(i, carried).  -> (the first i not done, carried)."""
    step = step if isinstance(step, ir.Value) else number(step)
    before = builder.block
    head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(I64)
    i.add_incoming(start, before)
    phis = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        phis.append(phi)
    builder.cbranch(builder.icmp_signed("<=", builder.add(i, step), stop), inside, after)
    builder.position_at_end(inside)
    results = body(i, phis)
    i.add_incoming(builder.add(i, step), builder.block)
    for phi, result in zip(phis, results):
        phi.add_incoming(result, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return i, phis


def row_offsets(v, lda, rows):
    """i · lda for each row, in as few registers as x86's addressing allows: base + {1, 2, 4, 8} · (odd multiple of
    lda).

    LLVM alone would add lda again and again inside the loop, on the ports that multiply. The odd multiples pass through
    an empty piece of inline assembly, so that it does not see how they are related."""
    b, odd = v.builder, {}
    hide = ir.FunctionType(I64, [I64])
    offsets = []
    for i in range(rows):
        shift = (i & -i).bit_length() - 1 if i else 0
        part = i >> shift
        if part and part not in odd:
            odd[part] = b.asm(hide, "", "=r,0", [b.mul(lda, number(part))], False)
        offsets.append(b.shl(odd[part], number(shift)) if part else number(0))
    return offsets


def _places(v, argument, base, row, panel, rows, columns):
    """The addresses of a tile's vectors, row by row."""
    b, (panels, vectors) = v.builder, columns
    return [v.at(v.at(v.at(argument[base], b.mul(argument[row], number(i))), b.mul(argument[panel], number(p))),
                 j * v.lanes * 4) for i in range(rows) for p in range(panels) for j in range(vectors)]


def _sum_segments(v, argument, rows, columns, place, step, pairs=""):
    """The tile's sums over all segments, from 0.  place(a, i, u): address of row i's u-th term from a on; step: bytes a
    term."""
    b, (panels, vectors) = v.builder, columns
    width, across = vectors * v.lanes * 4, panels * vectors
    single = v.load, lambda at: v.spread(v.load_scalar(at)), v.fma
    # The passes over a term, one for each number in it: byte offset of the number in a, then how to load b, spread a,
    # multiply.
    passes = {"": [(0, *single)], "dot": [(0, v.load_pairs, v.spread_pair, v.dot)],
              "widened": [(4 * half, partial(v.load_widened, half), *single[1:]) for half in range(2)]}[pairs]

    def term(a, weights, sums, u):
        """One term: a row of b in registers, and each of a's numbers broadcast to a vector."""
        for offset, load, spread, multiply in passes:
            right = [load(v.at(v.at(weights, b.mul(argument["b_panel"], number(p))), u * width + j * v.lanes * 4))
                     for p in range(panels) for j in range(vectors)]
            left = (spread(v.at(place(a, i, u), offset)) for i in range(rows))
            sums = [multiply(x, w, sums[i * across + j]) for i, x in enumerate(left) for j, w in enumerate(right)]
            if pairs == "widened":
                sums = v.keep_order_after(sums)
            else:
                v.keep_order()
        return sums

    def terms(count):
        def body(a, carried):
            weights, ahead, *sums = carried
            if count == UNROLL:
                for line in range(LINES * panels):
                    v.prefetch(v.at(ahead, 64 * line))
                ahead = v.at(ahead, argument["advance"])
            for u in range(count):
                sums = term(a, weights, sums, u)
            return [v.at(weights, count * width), ahead, *sums]
        return body

    def segment(s, carried):
        a = v.at(argument["a"], v.load_scalar(v.at(argument["segments"], b.mul(s, number(8))), I64))
        stop = v.at(a, b.mul(argument["length"], number(step)))
        a, carried = emit_loop(b, a, stop, step * UNROLL, carried, terms(UNROLL))
        return emit_loop(b, a, stop, step, carried, terms(1))[1]

    carried = [argument["b"], argument["ahead"], *[v.splat(0.0)] * (rows * across)]
    return emit_loop(b, number(0), argument["count"], 1, carried, segment)[1][2:]


def _finish(v, argument, sums, columns, cases, halves, pairs=""):
    """Stores finish(sum) for each sum. SILU, whose exponential is long code, is a second pass over the stored sums, and
    so is the rounding to bfloat16 if `halves`; but tiles of pairs round in registers."""
    b, rows, direct = v.builder, len(sums) // (columns[0] * columns[1]), halves and pairs == "dot"
    place = _places(v, argument, "c", "ldc", "c_panel", rows, columns)
    done = b.append_basic_block("done")
    blocks = {code: b.append_basic_block(f"finish{code}") for code in (*cases, SILU)}
    switch = b.switch(argument["finish"], blocks[PLAIN])

    def store(values):
        for y, to in zip(values, place):
            v.store(y, to)

    def round_(body):
        with b.if_then(b.icmp_signed("!=", argument["half"], number(0))):
            body()

    def round_stored():
        _over_rows(v, argument, rows, columns, lambda at, half: v.store_halves([v.load(at)], half, argument["part"]))

    for code, block in blocks.items():
        if code != PLAIN:
            switch.add_case(number(code), block)
        b.position_at_end(block)
        if code == SILU:
            store(sums)
            _over_rows(v, argument, rows, columns, lambda at, half: v.store(v.silu(v.load(at)), at))
            if direct:
                round_(round_stored)
        elif direct:
            values = [cases[code](y, to) for y, to in zip(sums, place)]
            with b.if_then(b.icmp_signed("!=", argument["c_mask"], number(0))):
                store(values)
            round_(lambda: _store_half_rows(v, argument, values, rows, columns))
        else:
            for y, to in zip(sums, place):
                v.store(cases[code](y, to), to)
        b.branch(done)
    b.position_at_end(done)
    if halves and not direct:
        round_(round_stored)


def _store_half_rows(v, argument, values, rows, columns):
    """Stores a tile's numbers rounded to bfloat16, a panel's row at once."""
    (panels, vectors), panel = columns, v.builder.lshr(argument["c_panel"], number(1))
    places = _places(v, argument | {"c_panel": panel}, "half", "ldhalf", "c_panel", rows, (panels, 1))
    for n, to in enumerate(places):
        v.store_half_row(values[n * vectors : (n + 1) * vectors], to)


def _over_rows(v, argument, rows, columns, body):
    """body(address in c, address in half) for each of a tile's vectors."""
    b, (panels, vectors) = v.builder, columns

    def row(i, carried):
        c, half = (v.at(argument[name], b.mul(argument[stride], i))
                   for name, stride in (("c", "ldc"), ("half", "ldhalf")))
        for p in range(panels):
            panel = b.mul(argument["c_panel"], number(p))
            for j in range(vectors):
                body(v.at(v.at(c, panel), j * v.lanes * 4), v.at(v.at(half, b.lshr(panel, number(1))), j * v.lanes * 2))
        return []

    emit_loop(b, number(0), number(rows), 1, [], row)
