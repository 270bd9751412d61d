"""The register tile: a few rows of a matrix product, its accumulators in registers from the first to the last term.

c[i, j] = finish(Σ_k a[i, k] b[k, j] + bias[i, j]).  Everything that multiplies matrices in this backend is made of it:
linear maps, convolutions (a's row is then several segments of memory, one a row of the kernel) and both products of
attention.
"""

from llvmlite import ir

from .step import HARDSWISH, PLAIN, RESIDUAL, SCALED, SILU
from .vector import F32, I64, Vectors, number

ARGUMENTS = ("a", "lda", "segments", "count", "length", "b", "ahead", "advance", "c", "ldc", "bias", "ldbias", "finish")
UNROLL = 4
LINES = 4  # cache lines prefetched every UNROLL terms


def tile_function(module, lanes, rows, vectors):
    """The tile of rows × vectors as an LLVM function of int64 arguments, defined in `module` once.

    a, b, c, bias: addresses; lda, ldc, ldbias: bytes from a row to the next (ldbias 0: one bias for all rows);
    segments: the address of `count` byte offsets, at each of which `length` terms of a row stand; b: a packed panel,
    (count·length, vectors·lanes); ahead: what to bring to the L2 cache meanwhile, `advance` bytes every UNROLL terms.
    """
    name = f"levit_tile_{lanes}_{rows}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS)), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("start"))
    argument = dict(zip(ARGUMENTS, function.args))
    v = Vectors(builder, lanes)
    zeros = [[v.splat(0.0)] * vectors for _ in range(rows)]
    sums = _sum_segments(v, argument, zeros)
    _finish(v, argument, sums)
    return function


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


def _flat(sums):
    return [x for row in sums for x in row]


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


def _sum_segments(v, argument, zeros):
    rows, vectors = len(zeros), len(zeros[0])
    b, panel = v.builder, vectors * v.lanes * 4
    offsets = _row_offsets(v, argument["lda"], rows)

    def terms(a, weights, sums, u):
        """One k: a row of b's panel in registers, each of a's rows spread over a vector."""
        right = [v.load(v.at(weights, u * panel + j * v.lanes * 4)) for j in range(vectors)]
        for i in range(rows):
            left = v.spread(v.load_scalar(v.at(v.at(a, offsets[i]), 4 * u)))
            sums[i * vectors : (i + 1) * vectors] = [
                v.fma(left, right[j], sums[i * vectors + j]) for j in range(vectors)]
        return sums

    def segment(s, carried):
        weights, ahead, *sums = carried
        a = v.at(argument["a"], v.load_scalar(v.at(argument["segments"], b.mul(s, number(8))), I64))
        stop = v.at(a, b.mul(argument["length"], number(4)))

        def several(step):
            def body(a, carried):
                weights, ahead, *sums = carried
                if step == UNROLL:
                    for line in range(LINES):
                        v.prefetch(v.at(ahead, 64 * line))
                    ahead = v.at(ahead, argument["advance"])
                for u in range(step):
                    sums = terms(a, weights, list(sums), u)
                return [v.at(weights, step * panel), ahead, *sums]
            return body

        a, carried = emit_loop(b, a, stop, 4 * UNROLL, [weights, ahead, *sums], several(UNROLL))
        _, carried = emit_loop(b, a, stop, 4, carried, several(1))
        return carried

    carried = [argument["b"], argument["ahead"], *_flat(zeros)]
    _, (_, _, *sums) = emit_loop(b, number(0), argument["count"], 1, carried, segment)
    return [sums[i * vectors : (i + 1) * vectors] for i in range(rows)]


def _finish(v, argument, sums):
    b = v.builder
    cases = {
        PLAIN: lambda y, old: y, HARDSWISH: lambda y, old: v.hardswish(y), SILU: lambda y, old: v.silu(y),
        RESIDUAL: lambda y, old: b.fadd(y, v.load(old)),
    }
    cases |= {SCALED | code: cases[code] for code in (PLAIN, HARDSWISH, SILU)}
    done = b.append_basic_block("done")
    switch = b.switch(argument["finish"], done)
    for code, change in cases.items():
        block = b.append_basic_block(f"finish{code}")
        switch.add_case(number(code), block)
        b.position_at_end(block)
        for i, row in enumerate(sums):
            c = v.at(argument["c"], b.mul(argument["ldc"], number(i)))
            bias = v.at(argument["bias"], b.mul(argument["ldbias"], number(i)))
            scale = v.spread(v.load_scalar(bias)) if code & SCALED else None
            for j, y in enumerate(row):
                to = v.at(c, j * v.lanes * 4)
                y = b.fmul(y, scale) if scale else b.fadd(y, v.load(v.at(bias, j * v.lanes * 4)))
                v.store(change(y, to), to)
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()
