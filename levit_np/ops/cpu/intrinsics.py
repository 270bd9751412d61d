"""What Numba code cannot say by itself, as intrinsics that the kernels call: memory by address, atomics.

All take int64 numbers, so that a kernel is plain arithmetic on addresses: no array is created, nothing is
reference-counted, and the machine code depends on nothing but the processor."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vector import F32, I32, I64, number


@intrinsic
def get(typingctx, address, index):
    """The int64 at address + 8 index."""
    def generate(context, builder, signature, arguments):
        at = builder.add(arguments[0], builder.mul(arguments[1], number(8)))
        return builder.load(builder.inttoptr(at, I64.as_pointer()), align=8, typ=I64)
    return types.int64(types.int64, types.int64), generate


@intrinsic
def put(typingctx, address, index, value):
    """Writes the int64 at address + 8 index."""
    def generate(context, builder, signature, arguments):
        at = builder.add(arguments[0], builder.mul(arguments[1], number(8)))
        builder.store(arguments[2], builder.inttoptr(at, I64.as_pointer())).align = 8
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def get_float(typingctx, address):
    """The float32 at that address."""
    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], F32.as_pointer()), align=4, typ=F32)
    return types.float32(types.int64), generate


@intrinsic
def set_float(typingctx, address, value):
    """Writes the float32 at that address."""
    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], F32.as_pointer())).align = 4
        return context.get_dummy_value()
    return types.void(types.int64, types.float32), generate


@intrinsic
def as_float(typingctx, bits):
    """The float64 with these 64 bits."""
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())
    return types.float64(types.int64), generate


@intrinsic
def root(typingctx, x):
    """√x, of float32 or float64: math.sqrt is an instruction for some versions of LLVM, a library call for others."""
    def generate(context, builder, signature, arguments):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [arguments[0].type]), arguments)
    return x(x), generate


@intrinsic
def add_atomic(typingctx, address, value):
    """Adds to the int64 at `address`; whoever reads the sum sees all that was written before.  -> the old value."""
    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], I64.as_pointer()), arguments[1], "acq_rel")
    return types.int64(types.int64, types.int64), generate


@intrinsic
def get_atomic(typingctx, address):
    """The int64 at that address, read with acquire order."""
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], I64.as_pointer()), "acquire", 8, typ=I64)
    return types.int64(types.int64), generate


@intrinsic
def call(typingctx, function):
    """Calls the C function at that address: no argument, result ignored."""
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(I32, [])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return context.get_dummy_value()
    return types.void(types.int64), generate
