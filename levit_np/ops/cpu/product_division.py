"""How evaluation's products are divided between threads: by rows (tiles) or by columns (panels)."""

from . import step
from .barrier import share
from .intrinsics import get
from .jit import jit

MANY = 144  # rows for each thread, from which on rows are divided
P_TILES, P_TILE_COUNT, P_PANELS, P_TAIL = (int(step.Product[name]) for name in "TILES TILE_COUNT PANELS TAIL".split())


@jit
def divide(s, thread, threads):
    """(first tile, last, first panel, last) of a thread's part of a product."""
    tiles, count, panels = get(s, P_TILES), get(s, P_TILE_COUNT), get(s, P_PANELS) + get(s, P_TAIL)
    first, last, left, right = 0, count, 0, panels
    # With many rows, divide the rows: a thread reads in the next step what it wrote in this one. With few, divide
    # the panels, so that all threads together read the weights once; by twos, for tiles that span two panels;
    # unless that is the less even division.
    twos = (panels + 1) // 2
    by_panels, by_tiles = (twos + threads - 1) // threads * count, (count + threads - 1) // threads * twos
    if count * get(tiles, 0) < MANY * threads and by_panels <= by_tiles:
        left, right = share(twos, thread, threads)
        left, right = 2 * left, min(2 * right, panels)
    else:
        first, last = share(count, thread, threads)
    return first, last, left, right
