"""Training's kernels, and `run`, which executes a few steps of any kind (training_step.py).

Like those of kernels.py they are functions of a step, a thread and the number of threads. They are compiled separately:
who never trains does not wait for them."""

from . import training_step as step
from .amx_training import amx_products, no_products
from .attention_kernels import attention_kernels
from .barrier import wait
from .convolution_kernels import convolution_kernels
from .filtering_kernels import filtering_kernels, kernel_terms_kernel
from .intrinsics import get
from .jit import jit
from .normalization_kernels import column_sums, normalization_kernels
from .normalization_scalars import backward_scales, moments, scales
from .panel_packing import panel_packing
from .pointwise_kernel import pointwise_kernel
from .product_kernels import product_functions, product_kernels
from .routines import routines
from .scatter_kernel import scatter
from .training_routines import training_routines
from .update_kernel import update_kernel

STEP = step.COLUMNS * 8


def training_kernels(instructions):
    """`run` for an instruction set: a Numba function (program, first, last, thread, threads, counter, give_way)."""
    lanes = instructions.lanes
    call, define = routines(training_routines(instructions))
    packing = panel_packing(instructions, call)
    products = product_functions(instructions, call, packing)
    pack, product, gradient = product_kernels(instructions, packing, products)
    tiles = instructions.bfloat16 == "tiles"
    on_tiles = amx_products(lanes, call, packing) if tiles else no_products()
    configure, release = (call.get(name, jit(lambda: None)) for name in ("configure", "release"))
    amx_pack, amx_product, amx_gradient = on_tiles.pack, on_tiles.product, on_tiles.gradient
    convolution, convolution_input, convolution_weight = convolution_kernels(call, packing, products, on_tiles)
    filtering, filtering_input, filtering_weight = filtering_kernels(lanes, instructions.width, call, packing, products)
    kernel_terms = kernel_terms_kernel(call)
    channel_sums = column_sums(lanes, call)
    normalization, normalization_backward = normalization_kernels(call)
    attention, attention_backward = attention_kernels(call, packing, products)
    pointwise = pointwise_kernel(call)
    update = update_kernel(call)
    PACK, PRODUCT, GRADIENT, POINTWISE, COLUMN_SUMS, MOMENTS, SCALES, NORMALIZE, BACKWARD_SUMS, BACKWARD_SCALES, \
        NORMALIZE_BACKWARD, CONVOLUTION, CONVOLUTION_INPUT, CONVOLUTION_WEIGHT, ATTENTION, ATTENTION_BACKWARD, UPDATE, \
        AMX_PACK, AMX_PRODUCT, AMX_GRADIENT, FILTERING, FILTERING_INPUT, FILTERING_WEIGHT, KERNEL_TERMS, \
        KERNEL_TERMS_BACKWARD, SCATTER = map(int, step.Kind)

    @jit
    def run(program, first, last, thread, threads, counter, give_way):
        define()
        configure()
        for n in range(first, last):
            s = program + n * STEP
            kind = get(s, 0)
            if kind == PACK:
                pack(s, thread, threads)
            elif kind == PRODUCT:
                product(s, thread, threads)
            elif kind == GRADIENT:
                gradient(s, thread, threads)
            elif kind == AMX_PACK:
                amx_pack(s, thread, threads)
            elif kind == AMX_PRODUCT:
                amx_product(s, thread, threads)
            elif kind == AMX_GRADIENT:
                amx_gradient(s, thread, threads)
            elif kind == POINTWISE:
                pointwise(s, thread, threads)
            elif kind == COLUMN_SUMS:
                channel_sums(s, thread, threads, False)
            elif kind == MOMENTS:
                moments(s, thread, threads)
            elif kind == SCALES:
                scales(s, thread, threads)
            elif kind == NORMALIZE:
                normalization(s, thread, threads)
            elif kind == BACKWARD_SUMS:
                channel_sums(s, thread, threads, True)
            elif kind == BACKWARD_SCALES:
                backward_scales(s, thread, threads)
            elif kind == NORMALIZE_BACKWARD:
                normalization_backward(s, thread, threads)
            elif kind == CONVOLUTION:
                convolution(s, thread, threads)
            elif kind == CONVOLUTION_INPUT:
                convolution_input(s, thread, threads)
            elif kind == CONVOLUTION_WEIGHT:
                convolution_weight(s, thread, threads)
            elif kind == FILTERING:
                filtering(s, thread, threads)
            elif kind == FILTERING_INPUT:
                filtering_input(s, thread, threads)
            elif kind == FILTERING_WEIGHT:
                filtering_weight(s, thread, threads)
            elif kind == KERNEL_TERMS:
                kernel_terms(s, thread, threads, False)
            elif kind == KERNEL_TERMS_BACKWARD:
                kernel_terms(s, thread, threads, True)
            elif kind == ATTENTION:
                attention(s, thread, threads)
            elif kind == ATTENTION_BACKWARD:
                attention_backward(s, thread, threads)
            elif kind == UPDATE:
                update(s, thread, threads)
            elif kind == SCATTER:
                scatter(s, thread, threads)
            if threads > 1:
                wait(counter, (n - first + 1) * threads, give_way)
        release()

    return run
