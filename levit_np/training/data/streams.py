"""Random streams: every purpose and position in training has its own random generator.

So whichever process prepares an image, in whatever order and after whichever restart, draws the same numbers for it.
"""

import numpy as np

ORDER, AUGMENTATION, MIXING = range(3)  # what the numbers are for


def stream(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """The generator for a seed, a purpose (a constant above) and a place, such as (epoch, position); it is independent
    of all others."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *place))))
