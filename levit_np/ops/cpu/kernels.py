"""Evaluation's kernels as Numba functions of addresses, and `run`, which executes a program of them (step.py) on
several threads.

Each thread calls `run` with its own number. A step is divided between threads by its output, so each number is computed
by one thread in one order, however many there are; between two steps all wait for each other."""

from . import step
from .amx_attention import amx_attention
from .amx_product import amx_product
from .barrier import wait
from .evaluation_routines import evaluation_routines
from .intrinsics import get
from .jit import jit
from .routines import routines
from .row_kernels import row_kernels
from .tile_attention import tile_attention
from .tile_filtering import tile_filtering
from .tile_product import tile_product

STEP = step.COLUMNS * 8
PRODUCT, ATTENTION, PAD, ROWS, SUM, LAYER_NORM, ADD, ROUND, FILTERING = (int(kind) for kind in step.Kind)
PRODUCT_PARTS, ATTENTION_BFLOAT16 = int(step.Product.PARTS), int(step.Attention.BFLOAT16)


def kernels(instructions):
    """`run` for an instruction set: a Numba function (program, first, last, thread, threads, counter, give_way)."""
    amx = instructions.bfloat16 == "tiles"
    call, define = routines(evaluation_routines(instructions))
    product = tile_product(instructions, call)
    attention = tile_attention(instructions, call)
    filtering = tile_filtering(instructions, call)
    half_product = amx_product(call) if amx else product
    half_attention = attention
    if instructions.bfloat16_inputs:
        half_attention = amx_attention(call) if amx else tile_attention(instructions, call, True)
    configure, release = (call.get(name, jit(lambda: None)) for name in ("configure", "release"))
    pad, rows, total, add, to_bfloat16, layer_norm = row_kernels(instructions, call)

    @jit
    def run(program, first, last, thread, threads, counter, give_way):
        define()
        configure()
        for n in range(first, last):
            s = program + n * STEP
            kind = get(s, 0)
            if kind == PRODUCT:
                if get(s, PRODUCT_PARTS):
                    half_product(s, thread, threads)
                else:
                    product(s, thread, threads)
            elif kind == ATTENTION:
                if get(s, ATTENTION_BFLOAT16):
                    half_attention(s, thread, threads)
                else:
                    attention(s, thread, threads)
            elif kind == FILTERING:
                filtering(s, thread, threads)
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
                to_bfloat16(s, thread, threads)
            if threads > 1:
                wait(counter, (n - first + 1) * threads, give_way)
        release()

    return run
