"""How a product is divided between threads."""

from . import step
from .intrinsics import get

MANY = 144  # rows a thread
P_TILES, P_TILE_COUNT, P_PANELS, P_TAIL = (int(step.Product[name]) for name in "TILES TILE_COUNT PANELS TAIL".split())


def product_division(jit, share):
    """divide(step, thread, threads): which tiles and panels of a product are a thread's."""
    @jit
    def divide(s, thread, threads):
        """A thread's part of a product: (its first tile, the last, its first panel, the last)."""
        tiles, count, panels = get(s, P_TILES), get(s, P_TILE_COUNT), get(s, P_PANELS) + get(s, P_TAIL)
        first, last, left, right = 0, count, 0, panels
        # Many rows are split: what a thread writes it reads again in the next step.  Of few rows, panels are split, for
        # then the weights are read once, two by two; unless that is less even.
        twos = (panels + 1) // 2
        by_panels, by_tiles = (twos + threads - 1) // threads * count, (count + threads - 1) // threads * twos
        if count * get(tiles, 0) < MANY * threads and by_panels <= by_tiles:
            left, right = share(twos, thread, threads)
            left, right = 2 * left, min(2 * right, panels)
        else:
            first, last = share(count, thread, threads)
        return first, last, left, right

    return divide
