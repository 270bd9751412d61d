"""What test_processes.py runs in processes of their own: a module that is quick to import."""

import numpy as np

import levit_np


def logits(count):
    """What a spawned process computes."""
    levit_np.set_threads(count)
    model = levit_np.create("levit_digits", seed=3)
    return model(np.ones((2, 1, 32, 32), np.float32))
