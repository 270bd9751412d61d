"""The register tile: a few rows of a matrix product, its accumulators in registers from the first to the last term.

c[i, j] = finish(Σ_k a[i, k] b[k, j] + bias[i, j]).  Everything that multiplies matrices in this backend is made of it:
linear maps, convolutions (a's row is then several segments of memory, one a row of the kernel) and both products of
attention.
"""

from llvmlite import ir

from .step import HARDSWISH_SIX, PLAIN, RESIDUAL, SILU
from .vector import I32, I64, Vectors, number

ARGUMENTS = ("a", "lda", "segments", "groups", "count", "length", "b", "ahead", "advance", "c", "ldc", "bias", "ldbias", "finish",
             "half", "ldhalf", "scratch")
UNROLL = 4
LINES = 4  # cache lines prefetched every UNROLL terms


def tile_function(module, lanes, rows, vectors, pairs=False, halves=False):
    """The tile of rows × vectors as an LLVM function of int64 arguments, defined in `module` once.

    pairs: a and b are bfloat16, a term being a pair of them.  halves: the result may go, rounded to bfloat16, to
    `half` too, if that is not 0.

    a, b, c, bias: addresses; lda, ldc, ldbias: bytes from a row to the next (ldbias 0: one bias for all rows);
    segments: the address of groups·count byte offsets, at each of which `length` terms of a row stand; each group is
    summed on its own, from 0, so that rounding does not grow with the length of a long row; b: a packed panel,
    (groups·count·length, vectors·lanes); ahead: what to bring to the L2 cache meanwhile, `advance` bytes every UNROLL terms.
    """
    v, argument, name = new_function(module, f"levit_tile_{lanes}_{rows}x{vectors}" + pairs * "_pairs", lanes)
    if argument:
        b = v.builder
        start = [v.load(v.at(v.at(argument["bias"], b.mul(argument["ldbias"], number(i))), j * v.lanes * 4))
                 for i in range(rows) for j in range(vectors)]
        offsets = _row_offsets(v, argument["lda"], rows)
        place = lambda a, i, u: v.at(v.at(a, offsets[i]), 4 * u)
        sums = _sum_segments(v, argument, start, rows, place, 4, pairs)
        cases = {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: v.hardswish_six(y),
                 RESIDUAL: lambda y, old: b.fadd(y, v.load(old))}
        _finish(v, argument, sums, vectors, cases, halves)
    return module.globals[name]


def across_function(module, lanes, rows, vectors, width, halves=False):
    """The tile whose `a` stands on its side, (terms, width): a's row i is column i.  The sums start at 0, and row i
    of c is bias[i] times its sum before the activation: attention's product with v, divided by the softmax's sums."""
    v, argument, name = new_function(module, f"levit_across_{lanes}_{rows}x{vectors}", lanes)
    if argument:
        place = lambda a, i, u: v.at(a, 4 * i + 4 * width * u)
        sums = _sum_segments(v, argument, [v.splat(0.0)] * (rows * vectors), rows, place, 4 * width)
        scale = [v.spread(v.load_scalar(v.at(argument["bias"], 4 * i))) for i in range(rows)]
        scaled = [v.builder.fmul(y, scale[n // vectors]) for n, y in enumerate(sums)]
        _finish(v, argument, scaled, vectors,
                {PLAIN: lambda y, old: y, HARDSWISH_SIX: lambda y, old: v.hardswish_six(y)}, halves)
    return module.globals[name]


def new_function(module, name, lanes, more=()):
    """(Vectors at the start of a new function, its arguments by name, the name); no arguments if it is there."""
    if name in module.globals:
        return None, None, name
    arguments = (*ARGUMENTS, *more)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(arguments)), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("start"))
    return Vectors(builder, lanes), dict(zip(arguments, function.args)), name


def emit_loop(builder, start, stop, step, carried, body):
    """for i in range(start, stop, step): carried = body(i, carried).  -> (the last i, carried)."""
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
    builder.cbranch(builder.icmp_signed("<=", builder.add(i, number(step)), stop), inside, after)
    builder.position_at_end(inside)
    results = body(i, phis)
    i.add_incoming(builder.add(i, number(step)), builder.block)
    for phi, result in zip(phis, results):
        phi.add_incoming(result, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return i, phis


def _row_offsets(v, lda, rows):
    """i·lda for each row, as few registers as x86's addressing allows: base + {1, 2, 4, 8}·(odd multiple of lda).

    LLVM, left to itself, adds lda again and again in the loop, on the ports that multiply; the odd multiples pass
    through an empty piece of assembly so that it cannot see how they are related."""
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


def _sum_segments(v, argument, start, rows, place, step, pairs=False):
    """start + the products: `place(a, i, u)` is where row i's term u stands, `step` bytes from a term to the next."""
    vectors = len(start) // rows
    b, panel = v.builder, vectors * v.lanes * 4

    def term(a, weights, sums, u):
        """One k: a row of b's panel in registers, each of a's rows spread over a vector."""
        load, spread, multiply = ((v.load_pairs, v.spread_pair, v.dot) if pairs else
                                  (v.load, lambda at: v.spread(v.load_scalar(at)), v.fma))
        right = [load(v.at(weights, u * panel + j * v.lanes * 4)) for j in range(vectors)]
        left = (spread(place(a, i, u)) for i in range(rows))
        return [multiply(x, w, sums[i * vectors + j]) for i, x in enumerate(left) for j, w in enumerate(right)]

    def terms(count):
        def body(a, carried):
            weights, ahead, *sums = carried
            if count == UNROLL:
                for line in range(LINES):
                    v.prefetch(v.at(ahead, 64 * line))
                ahead = v.at(ahead, argument["advance"])
            for u in range(count):
                sums = term(a, weights, sums, u)
            return [v.at(weights, count * panel), ahead, *sums]
        return body

    def segment(s, carried):
        a = v.at(argument["a"], v.load_scalar(v.at(argument["segments"], b.mul(s, number(8))), I64))
        stop = v.at(a, b.mul(argument["length"], number(step)))
        a, carried = emit_loop(b, a, stop, step * UNROLL, carried, terms(UNROLL))
        return emit_loop(b, a, stop, step, carried, terms(1))[1]

    def group(number_, carried):
        first = b.mul(number_, argument["count"])
        return emit_loop(b, first, b.add(first, argument["count"]), 1, carried, segment)[1]

    return _sum_groups(v, argument, start, group)


def _sum_groups(v, argument, start, group):
    """start + Σ group(n, …).  One group: the sums start at `start` and stay in registers.  Several: each starts at 0,
    and the total waits in memory."""
    b, zeros = v.builder, [v.splat(0.0)] * len(start)
    total = b.alloca(ir.ArrayType(v.type, len(start)))
    place = [b.ptrtoint(b.gep(total, [ir.Constant(I32, 0), ir.Constant(I32, n)]), I64) for n in range(len(start))]
    first, several, head, more, last, gather, done = (
        b.append_basic_block(name) for name in ("first", "several", "group", "more", "last", "gather", "done"))
    many = b.icmp_signed(">", argument["groups"], number(1))
    b.branch(first)
    b.position_at_end(first)
    b.cbranch(many, several, head)
    b.position_at_end(several)
    for y, at in zip(start, place):
        v.store(y, at)
    b.branch(head)

    b.position_at_end(head)
    n, weights, ahead = b.phi(I64), b.phi(I64), b.phi(I64)
    sums = [b.phi(v.type) for _ in start]
    state = [n, weights, ahead, *sums]
    beginning = [number(0), argument["b"], argument["ahead"]]
    for block, values in ((first, [*beginning, *start]), (several, [*beginning, *zeros])):
        for phi, value in zip(state, values):
            phi.add_incoming(value, block)
    weights, ahead, *sums = group(n, state[1:])
    following = b.add(n, number(1))
    b.cbranch(b.icmp_signed("<", following, argument["groups"]), more, last)
    b.position_at_end(more)
    for y, at in zip(sums, place):
        v.store(b.fadd(v.load(at), y), at)
    for phi, value in zip(state, [following, weights, ahead, *zeros]):
        phi.add_incoming(value, more)
    b.branch(head)

    b.position_at_end(last)
    b.cbranch(many, gather, done)
    b.position_at_end(gather)
    totals = [b.fadd(v.load(at), y) for y, at in zip(sums, place)]
    b.branch(done)
    b.position_at_end(done)
    results = []
    for y, total in zip(sums, totals):
        phi = b.phi(v.type)
        phi.add_incoming(y, last)
        phi.add_incoming(total, gather)
        results.append(phi)
    return results


def _finish(v, argument, sums, vectors, cases, halves):
    """Stores what a case makes of each sum; SILU, whose exponential is long, goes over the stored sums, and so does
    the rounding to bfloat16."""
    b, rows = v.builder, len(sums) // vectors
    place = [v.at(v.at(argument["c"], b.mul(argument["ldc"], number(n // vectors))), n % vectors * v.lanes * 4)
             for n in range(len(sums))]
    done, plain = b.append_basic_block("done"), b.append_basic_block("plain")
    switch = b.switch(argument["finish"], plain)
    for code, change in cases.items():
        block = plain if code == PLAIN else b.append_basic_block(f"finish{code}")
        if code != PLAIN:
            switch.add_case(number(code), block)
        b.position_at_end(block)
        for y, to in zip(sums, place):
            v.store(change(y, to), to)
        if code == PLAIN:
            silu = b.append_basic_block("silu")
            b.cbranch(b.icmp_signed("==", argument["finish"], number(SILU)), silu, done)
            b.position_at_end(silu)
            over_rows(v, argument, number(rows), vectors, lambda at, half: v.store(v.silu(v.load(at)), at))
        b.branch(done)
    b.position_at_end(done)
    if halves:
        round_rows(v, argument, number(rows), vectors)
    b.ret_void()


def round_rows(v, argument, rows, vectors):
    """The rows of c, rounded to bfloat16, to `half` if there is one."""
    with v.builder.if_then(v.builder.icmp_signed("!=", argument["half"], number(0))):
        over_rows(v, argument, rows, vectors, lambda at, half: v.store_half(v.load(at), half))


def over_rows(v, argument, rows, vectors, body):
    """body(address in c, address in half) for each vector of c's first rows."""
    def row(i, carried):
        c, half = (v.at(argument[name], v.builder.mul(argument[stride], i))
                   for name, stride in (("c", "ldc"), ("half", "ldhalf")))
        for j in range(vectors):
            body(v.at(c, j * v.lanes * 4), v.at(half, j * v.lanes * 2))
        return []

    emit_loop(v.builder, number(0), rows, 1, [], row)
