"""What a training step does to the parameters: one at a time as in the reference, by CuPy's own operations; or all
together in one kernel, as training does."""

import weakref

import numpy as np

from ..reference import adamw, clip_adaptively, moving_average, scaled_and_clipped, unit_norms  # noqa: F401
from ..reference.clipping import EPS
from .device import arrays, current, launch
from .geometry import ceil_div
from .kernel import Kernel

UNITS = 8  # units of a block, a warp each
# Of each kernel's last call: weak references to the arrays, the decays, the table.
_tables = {}


def squared_norm(*tensors):
    """Σ x² over all tensors: a float32 number on the device, so that nobody waits for it; infinite or NaN if any of
    them is."""
    kept = [_side_by_side(x) for x in tensors]  # the launch holds only their addresses
    addresses, first_unit, lengths, units = _table("squared_norms", kept)
    parts = arrays().empty((units,), "float32")
    launch(Kernel("optimizer", "squared_norms"), (ceil_div(units, UNITS),), (32, UNITS),
           (addresses, first_unit, lengths, len(kept), parts))
    return parts.sum()


def update_together(parameters, gradients, first, second, decays, step, rate, betas=(0.9, 0.999), eps=1e-8, clip=None,
                    scale=1.0):
    """For lists of float32 arrays: clip_adaptively, unless clip is None or 0, then adamw, writing parameters and
    moments in place.

    scale: a factor of the gradients, applied first."""
    groups = [list(parameters), [_side_by_side(g) for g in gradients], list(first), list(second)]
    addresses, first_unit, lengths, units, decays = _table("update_together", *groups, decays=decays)
    launch(Kernel("optimizer", "update_together"), (ceil_div(units, UNITS),), (32, UNITS),
           (addresses, first_unit, lengths, decays, len(groups[0]), float(rate), float(betas[0]), float(betas[1]),
            1.0 - betas[0], 1.0 - betas[1], float(eps), 1 / (1 - betas[0] ** step), 1 / (1 - betas[1] ** step),
            float(clip or 0), EPS, float(scale)))


def average_together(averages, values, decay):
    """moving_average of lists of float32 arrays, in place."""
    groups = list(averages), list(values)
    addresses, first_unit, lengths, units = _table("average_together", *groups)
    launch(Kernel("optimizer", "average_together"), (ceil_div(units, UNITS),), (32, UNITS),
           (addresses, first_unit, lengths, len(groups[0]), 1.0 - decay))


def _side_by_side(x):
    """x, contiguous. Where it begins does not matter to these kernels, which read one number at a time: a part of an
    array that several ranks have summed may begin anywhere."""
    return x if x.flags.c_contiguous else arrays().ascontiguousarray(x)


def _table(kernel, *groups, decays=None):
    """On the device: the arrays' addresses, and which units belong to which; the number of units; the decays, if there
    are any. For about a thousand arrays, making it takes the processor longer than the GPU works; consecutive steps
    have the same arrays, and share the table."""
    references, known, found = _tables.get(kernel, ((), None, None))
    everything = [array for group in groups for array in group]
    if (len(references) != len(everything) or known != decays
            or any(reference() is not array for reference, array in zip(references, everything))):
        found = _new_table(groups, decays)
        _tables[kernel] = [weakref.ref(array) for array in everything], decays, found
    return found


def _new_table(groups, decays):
    for group in zip(*groups):
        assert all(a.dtype == np.float32 and a.flags.c_contiguous and a.shape == group[0].shape for a in group)
    counts = [len(a) if a.ndim > 1 else 1 for a in groups[0]]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lengths = np.array([a.size // n for a, n in zip(groups[0], counts)], np.int32)
    addresses = np.array([[current().address(a) for a in group] for group in groups], np.int64)
    more = () if decays is None else (arrays().asarray(np.array(decays, np.float32)),)
    return *(arrays().asarray(table) for table in (addresses, starts, lengths)), int(starts[-1]), *more
