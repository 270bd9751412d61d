"""Vector arithmetic as LLVM instructions: the micro-kernels are written with it, as Numba compiles scalars only.

Addresses are int64, in bytes; `at` is an address plus an offset. No fast-math flag is set anywhere: a NaN stays a NaN,
an infinity an infinity."""

import numpy as np
from llvmlite import ir
from numpy.polynomial import Chebyshev, Polynomial

from .step import LOG2_E, PARTS

# 2ᶠ for |f| <= 1/2 to 3e-9, a twentieth of float32's rounding: a polynomial by Chebyshev interpolation, highest power
# first.
EXP2 = tuple(Chebyshev.interpolate(np.exp2, 6, [-0.5, 0.5]).convert(kind=Polynomial).coef[::-1])

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


class BFloat(ir.types.Type):
    """bfloat16, a type that llvmlite lacks: LLVM's name for it is enough."""

    null = "zeroinitializer"

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash("bfloat")


def number(value: int):
    """An int64 constant."""
    return ir.Constant(I64, value)


class Vectors:
    """Emits operations on vectors of `lanes` float32 into one IR builder."""

    def __init__(self, builder, lanes, stream=False):
        """stream: `store` is non-temporal, past the caches; addresses must be multiples of a vector's size."""
        self.builder, self.lanes, self.stream = builder, lanes, stream
        self.type, self.integers = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
        self.pairs = ir.VectorType(BFloat(), 2 * lanes)

    def call(self, name, result, arguments):
        """Calls LLVM's function of that name."""
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.builder.call(function, arguments)

    def splat(self, value: float):
        return ir.Constant(self.type, [value] * self.lanes)

    def splat_integer(self, value: int):
        return ir.Constant(self.integers, [value] * self.lanes)

    def pointer(self, address, kind):
        return self.builder.inttoptr(address, kind.as_pointer())

    def at(self, address, offset):
        return self.builder.add(address, offset if isinstance(offset, ir.Value) else number(offset))

    def load(self, address):
        return self.builder.load(self.pointer(address, self.type), align=4, typ=self.type)

    def store(self, value, address):
        store = self.builder.store(value, self.pointer(address, self.type))
        store.align = 4
        if self.stream:
            store.align = 4 * self.lanes
            store.set_metadata("nontemporal", self.builder.module.add_metadata([ir.Constant(I32, 1)]))

    def load_scalar(self, address, kind=F32):
        return self.builder.load(self.pointer(address, kind), align=4, typ=kind)

    def load_columns(self, address, count):
        """The columns of (lanes, count) numbers."""
        kind = ir.VectorType(F32, count * self.lanes)
        numbers = self.builder.load(self.pointer(address, kind), align=4, typ=kind)
        places = ir.VectorType(I32, self.lanes)
        return [self.builder.shuffle_vector(numbers, ir.Constant(kind, ir.Undefined), ir.Constant(
            places, list(range(column, count * self.lanes, count)))) for column in range(count)]

    def store_scalar(self, value, address):
        self.builder.store(value, self.pointer(address, value.type)).align = 4

    def prefetch(self, address, writing=False):
        """Prefetches a cache line into L2 or, for writing, into L1; any address will do."""
        place = self.builder.inttoptr(address, ir.IntType(8).as_pointer())
        purpose, level, data = (ir.Constant(I32, n) for n in (int(writing), 3 if writing else 2, 1))
        self.call("llvm.prefetch.p0", ir.VoidType(), [place, purpose, level, data])

    def load_pairs(self, address):
        """2 · lanes bfloat16."""
        words = self.builder.load(self.pointer(address, self.integers), align=4, typ=self.integers)
        return self.builder.bitcast(words, self.pairs)

    def load_widened(self, half, address):
        """The first (half 0) or second number of each of `lanes` nested pairs, as float32; see packing.nested."""
        if half:
            return self.load(address)
        words = self.builder.load(self.pointer(address, self.integers), align=4, typ=self.integers)
        return self.builder.bitcast(self.builder.shl(words, self.splat_integer(16)), self.type)

    def spread_pair(self, address):
        """Two neighbouring bfloat16, broadcast to every pair of lanes."""
        return self.builder.bitcast(self.spread(self.load_scalar(address, I32)), self.pairs)

    def dot(self, a, b, c):
        """c + the dot products of pairs; a, b of 2 · lanes bfloat16."""
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", self.type, [c, a, b])

    def store_half(self, value, address):
        """Stores it rounded to bfloat16, ties to even.  -> what was stored, as float32."""
        b, half, words = self.builder, ir.VectorType(BFloat(), self.lanes), ir.VectorType(ir.IntType(16), self.lanes)
        rounded = b.bitcast(self.call("llvm.x86.avx512bf16.cvtneps2bf16.512", half, [value]), words)
        b.store(rounded, self.pointer(address, words)).align = 2
        return b.bitcast(b.shl(b.zext(rounded, self.integers), self.splat_integer(16)), self.type)

    def store_half_row(self, values, address):
        """Stores one or two vectors side by side, rounded to bfloat16."""
        if len(values) == 1:
            self.store_half(*values, address)
        else:
            self.store(self.builder.bitcast(self.rounded(*values), self.type), address)

    def rounded(self, first, second):
        """Two vectors side by side, rounded to bfloat16, ties to even."""
        return self.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", self.pairs, [second, first])

    def store_shuffled(self, first, second, order, address):
        """Stores of two vectors of bfloat16 those numbers whose places, counted through both, are in `order`."""
        b, halves = self.builder, ir.VectorType(ir.IntType(16), 2 * self.lanes)
        first, second = b.bitcast(first, halves), b.bitcast(second, halves)
        for start in range(0, len(order), 2 * self.lanes):
            places = order[start : start + 2 * self.lanes]
            mask = ir.Constant(ir.VectorType(I32, len(places)), places)
            kind = ir.VectorType(ir.IntType(16), len(places))
            b.store(b.shuffle_vector(first, second, mask), self.pointer(self.at(address, 2 * start), kind)).align = 2

    def store_pair(self, first, second, address):
        """Stores both rounded to bfloat16, ties to even: a pair in each lane."""
        both = self.rounded(first, second)
        self.store_shuffled(both, both, [n // 2 + n % 2 * self.lanes for n in range(2 * self.lanes)], address)

    def store_parts(self, value, address, part):
        """Stores it as PARTS bfloat16 numbers that add up to it, `part` bytes apart: each is the rounded rest of those
        before."""
        for n in range(PARTS):
            place = self.at(address, self.builder.mul(part, number(n)))
            value = self.builder.fsub(value, self.store_half(value, place))

    def store_halves(self, values, address, part):
        """Stores these vectors side by side, each as one bfloat16 number a lane, or as PARTS if `part`, the bytes
        between them, is not 0."""
        with self.builder.if_else(self.builder.icmp_signed("==", part, number(0))) as branches:
            for branch, store in zip(branches, (self.store_half, lambda x, at: self.store_parts(x, at, part))):
                with branch:
                    for j, value in enumerate(values):
                        store(value, self.at(address, 2 * self.lanes * j))

    def split_pairs(self, first, second, target, part):
        """Two vectors -> PARTS vectors of bfloat16 pairs, `part` bytes apart. Each part is the upper half of what those
        before left: truncated, not rounded, for speed; the other operand's parts are rounded, so that no error adds up.
        """
        b, high = self.builder, self.splat_integer(-0x10000)
        for n in range(PARTS):
            bits = [b.bitcast(x, self.integers) for x in (first, second)]
            upper = [b.and_(x, high) for x in bits]
            pair = b.or_(b.lshr(bits[0], self.splat_integer(16)), upper[1])
            b.store(pair, self.pointer(self.at(target, b.mul(part, number(n))), self.integers)).align = 4
            first, second = (b.fsub(x, b.bitcast(u, self.type)) for x, u in zip((first, second), upper))

    def keep_order(self):
        """A barrier for the compiler, no instruction: no load moves across it. LLVM would otherwise load for several
        terms at once, and spill accumulators for it."""
        self.builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], True)

    def keep_order_after(self, values):
        """The same, with these values computed before it.  -> them."""
        b, count = self.builder, len(values)
        if count == 1:  # inline assembly with one result returns no structure
            self.keep_order()
            return values
        kind = ir.FunctionType(ir.LiteralStructType([self.type] * count), [self.type] * count)
        constraints = ",".join(["=v"] * count + [str(n) for n in range(count)] + ["~{memory}"])
        found = b.asm(kind, "", constraints, values, True)
        return [b.extract_value(found, n) for n in range(count)]

    def spread(self, scalar):
        """A scalar broadcast to every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, self.splat_integer(0))

    def fma(self, a, b, c):
        """a b + c, rounded once."""
        return self.call(f"llvm.fma.v{self.lanes}f32", self.type, [a, b, c])

    def root(self, x):
        return self.call(f"llvm.sqrt.v{self.lanes}f32", self.type, [x])

    def smallest(self, a, b):
        """The smaller of two integers."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def larger(self, x, bound):
        """max(x, bound), but x where x is NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, bound), bound, x)

    def smaller(self, x, bound):
        return self.builder.select(self.builder.fcmp_ordered(">", x, bound), bound, x)

    def hardswish_six(self, x):
        """x · clip(x + 3, 0, 6): six times hardswish. Whoever reads it has the 1/6 in its weights."""
        return self.builder.fmul(x, self.hardswish_gate(x))

    def hardswish(self, x):
        """x · (clip(x + 3, 0, 6) / 6): x itself from 3 on, where 6 x might be too large a number."""
        return self.builder.fmul(x, self.builder.fmul(self.hardswish_gate(x), self.splat(1 / 6)))

    def hardswish_gate(self, x):
        """clip(x + 3, 0, 6)."""
        gate = self.larger(self.builder.fadd(x, self.splat(3.0)), self.splat(0.0))
        return self.smaller(gate, self.splat(6.0))

    def hardswish_slope(self, x):
        """0 left of -3, 1 right of 3, (2x + 3) / 6 between."""
        b = self.builder
        slope = self.fma(x, self.splat(1 / 3), self.splat(0.5))
        slope = b.select(b.fcmp_ordered("<=", x, self.splat(-3.0)), self.splat(0.0), slope)
        return b.select(b.fcmp_ordered(">=", x, self.splat(3.0)), self.splat(1.0), slope)

    def silu(self, x):
        """x / (1 + exp(-x))."""
        return self.builder.fdiv(x, self.inverse_sigmoid(x))

    def inverse_sigmoid(self, x):
        """1 + exp(-x): ∞ for x < -88.4, so that what is divided by it becomes 0."""
        power = self.smaller(self.builder.fmul(x, self.splat(-LOG2_E)), self.splat(128.0))
        return self.builder.fadd(self.splat(1.0), self.exp2(power))

    def exp2(self, x):
        """2ˣ for x <= 128: 2ᶠ 2ⁿ with n = round(x), |f| <= 1/2, 2ᶠ a polynomial and 2ⁿ the bits n + 127 in front of
        the mantissa's 23: ∞ for n = 128, and 0 for n = -127, as for everything below.

        A NaN stays: the two are multiplied, as n added to the exponent of a NaN can make it a number."""
        b = self.builder
        held = self.larger(x, self.splat(-127.0))
        # Adding 1.5 · 2²³ + 127 leaves the rounded integer, plus 127, in the lowest bits of the sum.
        magic = self.splat(12582912.0 + 127.0)
        shifted = b.fadd(held, magic)
        f = b.fsub(held, b.fsub(shifted, magic))  # exact
        p = self.splat(EXP2[0])
        for coefficient in EXP2[1:]:
            p = self.fma(p, f, self.splat(coefficient))
        power = b.shl(b.bitcast(shifted, self.integers), self.splat_integer(23))
        return b.fmul(p, b.bitcast(power, self.type))

    def sum(self, x):
        """The sum of all lanes.  -> a scalar."""
        return self.builder.extract_element(self.folded(x, self.builder.fadd), ir.Constant(I32, 0))

    def folded(self, x, combine):
        """Reduces all lanes by `combine`, half against half, in the same order on every call.  -> a vector of one lane.
        """
        b, width = self.builder, self.lanes
        while width > 1:
            width //= 2
            low, high = (ir.Constant(ir.VectorType(I32, width), [start + lane for lane in range(width)])
                         for start in (0, width))
            nothing = ir.Constant(x.type, ir.Undefined)
            x = combine(b.shuffle_vector(x, nothing, low), b.shuffle_vector(x, nothing, high))
        return x

    def transposed(self, rows):
        """`lanes` vectors, the rows of a square -> its columns, by exchanging blocks of halving size."""
        size = self.lanes
        while size > 1:
            half = size // 2
            low, high = [], []
            for lane in range(self.lanes):
                block, inside = lane // size * size, lane % size
                # Within blocks of `size`: first halves of a and b side by side, then second halves.
                low.append(block + inside if inside < half else self.lanes + block + inside - half)
                high.append(block + half + inside if inside < half else self.lanes + block + inside)
            masks = [ir.Constant(self.integers, indices) for indices in (low, high)]
            done = list(rows)
            for i in range(self.lanes):
                if i % size < half:
                    a, b = rows[i], rows[i + half]
                    done[i], done[i + half] = (self.builder.shuffle_vector(a, b, mask) for mask in masks)
            rows, size = done, half
        return rows


class MaskedVectors(Vectors):
    """Vectors whose first `count` lanes, fewer than all, are loaded and stored; the others are 0."""

    def __init__(self, builder, lanes, count):
        super().__init__(builder, lanes)
        lane = ir.Constant(self.integers, list(range(lanes)))
        self.mask = builder.icmp_signed("<", lane, self.spread(builder.trunc(count, I32)))

    def load(self, address):
        return self.call(f"llvm.masked.load.v{self.lanes}f32.p0", self.type, [
            self.pointer(address, self.type), ir.Constant(I32, 4), self.mask, self.splat(0.0)])

    def store(self, value, address):
        self.call(f"llvm.masked.store.v{self.lanes}f32.p0", ir.VoidType(), [
            value, self.pointer(address, self.type), ir.Constant(I32, 4), self.mask])

    def where(self, value, other):
        """value in the lanes that count, other elsewhere."""
        return self.builder.select(self.mask, value, other)
