"""Which images, in which order: a function of (seed, epoch) alone, the same for any number of workers and ranks.

A step's *global batch* is the batch of all ranks, one after another.  Position i of it is mixed with its neighbour
i xor 1 (see mixing.py), so an even share of each rank keeps the two together.
"""

from functools import lru_cache

import numpy as np

from .streams import ORDER, stream


@lru_cache(maxsize=2)   # this epoch's and the next one's, which is begun early
def epoch_order(count: int, *, seed: int, epoch: int, repeats: int, global_batch: int) -> np.ndarray:
    """Indices (steps, global_batch), read-only, of an epoch of count // global_batch steps; a rest is left out.

    The images are shuffled, each stands `repeats` times in a row, and the epoch ends after as many positions as there
    are images: with three repeats a third of the images is seen, three times.  So does the authors' sampler ("Augment
    your batch", arXiv 1901.09335), which also cuts the epoch to a multiple of 256 and deals the copies to the ranks
    in turn; here the ranks take contiguous shares of the same global batches.

    Within a batch the second half is interleaved with the first.  Neighbours are then half a batch apart in the row,
    and in a batch of 2 (repeats + 1) images or more none are copies of one image.
    """
    steps = count // global_batch
    positions = steps * global_batch
    shuffled = stream(seed, ORDER, epoch).permutation(count)
    row = np.repeat(shuffled[: -(-positions // repeats)], repeats)[:positions].reshape(steps, global_batch)
    half = -(-global_batch // 2)
    order = np.empty_like(row)
    order[:, 0::2], order[:, 1::2] = row[:, :half], row[:, half:]
    order.setflags(write=False)
    return order
