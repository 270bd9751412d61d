"""Vector arithmetic as LLVM instructions: what the kernels are written with where Numba's scalars do not reach.

Addresses are int64 numbers of bytes; `at` is an address plus an offset.  No fast-math flag is set anywhere: a NaN stays
a NaN and an infinity an infinity.
"""

from llvmlite import ir

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


def number(value: int):
    return ir.Constant(I64, value)


class Vectors:
    """Emits operations on vectors of `lanes` float32 into one IR builder."""

    def __init__(self, builder, lanes):
        self.builder, self.lanes = builder, lanes
        self.type, self.integers = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)

    def _intrinsic(self, name, arguments):
        module, full = self.builder.module, f"llvm.{name}.v{self.lanes}f32"
        function = module.globals.get(full) or ir.Function(
            module, ir.FunctionType(self.type, [self.type] * len(arguments)), full)
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
        self.builder.store(value, self.pointer(address, self.type)).align = 4

    def load_scalar(self, address, kind=F32):
        return self.builder.load(self.pointer(address, kind), align=4, typ=kind)

    def prefetch(self, address):
        """Asks for a cache line to be brought to the L2 cache; any address will do."""
        byte, name = ir.IntType(8).as_pointer(), "llvm.prefetch.p0"
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32]), name)
        reading, level, data = (ir.Constant(I32, n) for n in (0, 2, 1))
        self.builder.call(function, [self.builder.inttoptr(address, byte), reading, level, data])

    def spread(self, scalar):
        """One number in every lane."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, self.splat_integer(0))

    def fma(self, a, b, c):
        """a b + c, rounded once."""
        return self._intrinsic("fma", [a, b, c])

    def larger(self, x, bound):
        """max(x, bound), but x where x is NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, bound), bound, x)

    def smaller(self, x, bound):
        return self.builder.select(self.builder.fcmp_ordered(">", x, bound), bound, x)

    def hardswish(self, x):
        """x · clip(x + 3, 0, 6) / 6."""
        gate = self.smaller(self.larger(self.builder.fadd(x, self.splat(3.0)), self.splat(0.0)), self.splat(6.0))
        return self.builder.fmul(x, self.builder.fmul(gate, self.splat(1 / 6)))

    def silu(self, x):
        """x / (1 + exp(-x))."""
        below = self.builder.fadd(self.splat(1.0), self.exp(self.builder.fneg(x)))
        return self.builder.fdiv(x, below)

    def exp(self, x):
        """exp(x) = 2ⁿ exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2: a polynomial of degree 6 for exp(r), n
        added to its exponent.  x is held within ±87, where the result is a normal number; a NaN stays."""
        b = self.builder
        held = self.smaller(self.larger(x, self.splat(-87.0)), self.splat(87.0))
        # Adding 1.5 · 2²³ leaves the rounded integer in the lowest bits of the sum.
        magic = self.splat(12582912.0)
        shifted = self.fma(held, self.splat(1.4426950408889634), magic)
        n = b.fsub(shifted, magic)
        # ln 2 in two parts: n times the first is exact.
        r = self.fma(n, self.splat(-0.693359375), held)
        r = self.fma(n, self.splat(2.12194440e-4), r)
        p = self.splat(1 / 720)
        for coefficient in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
            p = self.fma(p, r, self.splat(coefficient))
        exponent = b.shl(b.bitcast(shifted, self.integers), self.splat_integer(23))
        return b.bitcast(b.add(b.bitcast(p, self.integers), exponent), self.type)

    def fold(self, x, operation):
        """operation over all lanes, halves first: the same order on every call.  -> a scalar."""
        b, width = self.builder, self.lanes
        while width > 1:
            width //= 2
            kind = ir.VectorType(I32, width)
            low, high = ([number_ + start for number_ in range(width)] for start in (0, width))
            undefined = ir.Constant(x.type, ir.Undefined)
            x = operation(b.shuffle_vector(x, undefined, ir.Constant(kind, low)),
                          b.shuffle_vector(x, undefined, ir.Constant(kind, high)))
        return b.extract_element(x, ir.Constant(I32, 0))
