"""The micro-kernels of evaluation as routines that kernels call by name (routines.py): register tiles, functions of
rows, AMX's tiles."""

from functools import partial

from . import amx, filtering_rows, rows
from .routines import emits
from .tile import tiles, transposed_tiles
from .value_pairs import interleave


def evaluation_routines(instructions):
    """{name: (number of arguments, emit(builder, arguments))}."""
    lanes, halves = instructions.lanes, instructions.bfloat16_inputs
    found = _register_tiles(instructions, halves) | {
        "copy": emits(lanes, 3, rows.copy), "add": emits(lanes, 3, rows.add),
        "prefetch_target": emits(lanes, 2, rows.prefetch_target),
        "softmax_columns": emits(lanes, 4, rows.softmax_columns), "transpose": emits(lanes, 4, rows.transpose),
        "layer_norm": emits(lanes, 7, rows.layer_norm), "filter_window": emits(lanes, 5, filtering_rows.window),
        "filter_sums": emits(lanes, 7, filtering_rows.sums)}
    if halves:
        found |= {"round": emits(lanes, 4, rows.round_), "interleave": emits(lanes, 3, interleave)}
    return found | _amx(lanes) if instructions.bfloat16 == "tiles" else found


def _register_tiles(instructions, halves):
    """tile and its variants: "transposed"; "double", which spans two panels; "pairs", whose weights are pairs of
    bfloat16, and `a` perhaps too; "transposed_pairs", of which both are."""
    lanes, width = instructions.lanes, instructions.width
    sizes, wide = range(1, instructions.rows + 1), (instructions.vectors,)
    widths = sorted({instructions.vectors, instructions.tail})
    found = {"tile": tiles(lanes, sizes, widths, halves=halves),
             "transposed": transposed_tiles(lanes, sizes, wide, width, halves)}
    if instructions.double_rows:
        found["double"] = tiles(lanes, range(1, instructions.double_rows + 1), wide, panels=2, halves=halves)
    if instructions.bfloat16 == "dot":
        found |= {"pairs": tiles(lanes, sizes, widths, pairs="dot", halves=True),
                  "transposed_pairs": transposed_tiles(lanes, sizes, wide, width, True, "dot"),
                  "softmax_pairs": emits(lanes, 4, partial(rows.softmax_columns, pairs=True)),
                  "round_pixels": emits(lanes, 4, rows.round_pixels)}
    elif instructions.bfloat16 == "widened":
        found["pairs"] = tiles(lanes, sizes, widths, pairs="widened")
    return found


def _amx(lanes):
    """The routines of amx_product.py and amx_attention.py."""
    return {"configure": emits(lanes, 0, amx.configure), "release": emits(lanes, 0, amx.release),
            "amx_multiply": emits(lanes, 3, amx.multiply), "amx_finish_last": emits(lanes, 1, amx.finish_last),
            "amx_finish_scaled": emits(lanes, 11, amx.finish_scaled), "split_panel": emits(lanes, 7, amx.split_panel),
            "amx_scores": emits(lanes, 7, amx.scores),
            "transpose_round": emits(lanes, 4, rows.transpose_round)}
