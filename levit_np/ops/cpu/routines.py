"""Micro-kernels (tile.py, rows.py, amx.py and others, which write LLVM IR) as routines that Numba code calls by name.

Numba links into each function whatever it calls, and that again into each caller. So a routine is only declared where
it is called, and defined once, in the module of the outermost function."""

from inspect import Parameter, Signature

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from .vector import I64, Vectors


def routines(emitters):
    """({name: an intrinsic of so many int64 arguments that calls the routine}, an intrinsic that defines them all).
    emitters: {name: (number of arguments, emit(builder, arguments))}."""
    @intrinsic
    def define(typingctx):
        def generate(context, builder, signature, arguments):
            for name, (count, emit) in emitters.items():
                define_routine(builder.module, name, count, emit)
            return context.get_dummy_value()
        return types.void(), generate

    for name in emitters:
        # Numba links each function as soon as it is compiled, when no routine is defined yet: an address that is never
        # called.
        binding.add_symbol(f"levit_{name}", 1)
    return {name: _caller(name, count) for name, (count, _) in emitters.items()}, define


def emits(lanes, count, emit):
    """(count, a generator that emits emit(v, `count` arguments))."""
    return count, lambda builder, arguments: emit(Vectors(builder, lanes), *arguments)


def _caller(name, count):
    """An intrinsic of `count` int64 that calls the routine."""
    def routine(typingctx, *given):
        def generate(context, builder, signature, arguments):
            builder.call(_declared(builder.module, name, count), arguments)
            return context.get_dummy_value()
        return types.void(*[types.int64] * count), generate

    names = "typingctx", *(f"x{i}" for i in range(count))  # Numba derives the arity from the signature
    routine.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    return intrinsic(routine)


def _declared(module, name, count):
    kind = ir.FunctionType(ir.VoidType(), [I64] * count)
    return module.globals.get(f"levit_{name}") or ir.Function(module, kind, f"levit_{name}")


def define_routine(module, name, count, emit):
    """Defines it in an LLVM module."""
    function = _declared(module, name, count)
    function.attributes.add("noinline")
    function.attributes.add("noduplicate")  # nor copied for the constants of some calls
    builder = ir.IRBuilder(function.append_basic_block("start"))
    emit(builder, function.args)
    builder.ret_void()
