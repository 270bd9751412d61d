"""The order of images: a function of (seed, epoch) alone, the same for any number of workers and ranks.

A step's *global batch* is the concatenation of all ranks' batches.  Position i is mixed with its neighbour i xor 1
(see mixing.py); as every rank has an even number of images, both are on the same rank.
"""

from functools import lru_cache

import numpy as np

from .streams import ORDER, stream


@lru_cache(maxsize=2)   # this epoch's and the next one's, which workers begin early
def epoch_order(count: int, *, seed: int, epoch: int, repeats: int, global_batch: int) -> np.ndarray:
    """Indices (steps, global_batch), read-only, of an epoch of count // global_batch steps; the remainder is left out.

    The images are shuffled, each is repeated `repeats` times in a row, and the epoch ends after as many positions as
    there are images: with three repeats a third of the images is seen, three times each.  The authors' sampler does the
    same ("Augment your batch", arXiv 1901.09335), but cuts the epoch to a multiple of 256 and deals the copies to the
    ranks in turn; here the ranks take contiguous parts of the same global batches.

    Within a batch the second half is interleaved with the first, so that neighbours, which are mixed, are half a batch
    apart in the sequence: in a batch of 2 (repeats + 1) images or more they are never copies of one image.
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
