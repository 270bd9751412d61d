"""The register tiles of an instruction set as Numba functions, compiled once for all kernels of evaluation."""

from functools import partial
from typing import Any, NamedTuple

from .intrinsics import tiles_of
from .tile import tile_function, transposed_tile_function


class Tiles(NamedTuple):
    """tile(vectors, *tile.ARGUMENTS) and its variants: see tile_function and transposed_tile_function in tile.py."""

    tile: Any
    transposed: Any
    double: Any  # spans two panels
    pairs: Any  # weights are pairs of bfloat16, and a perhaps too


def register_tiles(instructions, jit):
    lanes, vectors, double_rows, halves = (instructions.lanes, instructions.vectors, instructions.double_rows,
                                           instructions.bfloat16_inputs)

    def of_its_own(multiply):
        @jit
        def tile(vectors, tiles, number, a, lda, segments, count, length, b, b_panel, ahead, share, advance, c, ldc,
                 c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part):
            multiply(vectors, tiles, number, a, lda, segments, count, length, b, b_panel, ahead, share, advance, c, ldc,
                     c_panel, c_mask, bias, ldbias, bias_panel, finish, half, ldhalf, part)
        return tile

    def tile_like(define, rows=instructions.rows, sizes=(vectors, instructions.tail), **more):
        return of_its_own(tiles_of(partial(define, **more), lanes, rows, sizes))

    tile = tile_like(tile_function, halves=halves)
    transposed = tile_like(transposed_tile_function, sizes=(vectors,), width=instructions.width, halves=halves)
    double = tile_like(tile_function, double_rows, (vectors,), panels=2, halves=halves) if double_rows else tile
    pairs = tile
    if instructions.bfloat16 == "dot":
        pairs = tile_like(tile_function, sizes=(vectors,), pairs="dot", halves=True)
    elif instructions.bfloat16 == "widened":
        pairs = tile_like(tile_function, pairs="widened")
    return Tiles(tile, transposed, double, pairs)
