"""What a step does to the parameters.  One at a time as in the reference, from CuPy's own operations; all together,
which is what a training spends its time in, in one kernel."""

import weakref

import numpy as np

from ..reference import adamw, clip_adaptively, moving_average, scaled_and_clipped, unit_norms  # noqa: F401
from ..reference.clipping import EPS
from .device import arrays, current, launch
from .geometry import cover
from .kernel import Kernel

UNITS = 8  # a block, a warp each
_tables = {}  # of each kernel's last call: weak references to the arrays, the decays, and what stood in the table


def squared_norm(*tensors):
    """Σ x² over all tensors, float32, a number on the device, so that nobody waits for it; infinite or NaN as soon as
    any of them is."""
    kept = [_side_by_side(x) for x in tensors]  # the launch knows their addresses alone
    addresses, first_unit, lengths, units = _table("squared_norms", kept)
    parts = arrays().empty((units,), "float32")
    launch(Kernel("optimizer", "squared_norms"), (cover(units, UNITS),), (32, UNITS),
           (addresses, first_unit, lengths, len(kept), parts))
    return parts.sum()


def update_together(parameters, gradients, first, second, decays, step, rate, betas=(0.9, 0.999), eps=1e-8, clip=None,
                    scale=1.0):
    """clip_adaptively, unless clip is None or 0, and adamw, of lists of float32 arrays; parameters and moments in
    place.

    scale: what the gradients are multiplied by first."""
    groups = [list(parameters), [_side_by_side(g) for g in gradients], list(first), list(second)]
    addresses, first_unit, lengths, units, decays = _table("update_together", *groups, decays=decays)
    launch(Kernel("optimizer", "update_together"), (cover(units, UNITS),), (32, UNITS),
           (addresses, first_unit, lengths, decays, len(groups[0]), float(rate), float(betas[0]), float(betas[1]),
            1.0 - betas[0], 1.0 - betas[1], float(eps), 1 / (1 - betas[0] ** step), 1 / (1 - betas[1] ** step),
            float(clip or 0), EPS, float(scale)))


def average_together(averages, values, decay):
    """moving_average of lists of float32 arrays, in place."""
    groups = list(averages), list(values)
    addresses, first_unit, lengths, units = _table("average_together", *groups)
    launch(Kernel("optimizer", "average_together"), (cover(units, UNITS),), (32, UNITS),
           (addresses, first_unit, lengths, len(groups[0]), 1.0 - decay))


def _side_by_side(x):
    """x, its numbers side by side; that they begin anywhere, as a part of what several ranks have summed up does, is
    nothing to these kernels, which take one at a time."""
    return x if x.flags.c_contiguous else arrays().ascontiguousarray(x)


def _table(kernel, *groups, decays=None):
    """On the device: where the arrays lie, and which units are whose; the number of units; the decays, if there are
    any.  For some thousand arrays this takes the processor longer than the GPU is at work: a step after a step, which
    has the same arrays, has the same table."""
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
