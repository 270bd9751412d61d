"""Random numbers by place: each purpose and place of a training has a stream of its own.

Whoever prepares an image, in whatever order and after whichever restart, draws the same numbers for it.
"""

import numpy as np

ORDER, AUGMENTATION, MIXING = range(3)  # what the numbers are for


def stream(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """The generator of that seed, purpose (a constant above) and place, such as (epoch, position); independent of
    those of all others."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *place))))
