"""What test_mpi.py runs on each rank: mpiexec -n N python -m tests.training.mpi_child CASE [ARGUMENT ...]"""

import json
import os
import signal
import sys
import time

import numpy as np

from levit_np.errors import LevitError
from levit_np.training import mpi, reduction

from ..distance import worst, worst_gradient
from ..random_model import random_images, random_model


def part(array, ranks):
    """This rank's contiguous share."""
    return np.array_split(array, ranks.size)[ranks.rank]


def gradients(ranks, name, backend, dtype, changes):
    """How far a step of all ranks is from one of a single process: with BN over all ranks, and each for itself."""
    reduction.BUCKET = 1 << 12
    found, floor = {}, 1e-5 if dtype == "float64" else 1e-2  # of float32 only what is no rounding
    x = random_images(random_model(name, dtype=dtype, **changes), 4 * ranks.size)
    for synchronized in (True, False):
        alone = random_model(name, backend=backend, dtype=dtype, **changes)
        model = random_model(name, backend=backend, dtype=dtype, **changes)
        if synchronized:
            ranks.synchronize_norms(model)
        reduced = ranks.reduction(model)
        sent = []
        stem, after = model.stem.convolutions[0], model.stem.convolutions[0].completed
        stem.completed = lambda layer: (sent.append(len(reduced._sent)), after(layer))
        for step in range(3):  # the second accumulates over two batches, of which the last alone is reduced
            twice = step == 1
            batches = [x, 2 * x[::-1] + 1][: 1 + twice]
            for network in (alone, model):
                network.zero_gradients()
            for number, batch in enumerate(batches):
                outputs, saved = alone.forward(batch, training=True)
                upstream = [np.random.default_rng(number + i).standard_normal(out.shape).astype(dtype) / len(batch)
                            for i, out in enumerate(outputs)]
                alone.backward(upstream, saved)
                mine, saved = model.forward(part(batch, ranks), training=True)
                upstream = [part(u, ranks) * ranks.size for u in upstream]
                if number + 1 < len(batches):
                    model.backward(upstream, saved)
                    continue
                del sent[:]
                with reduced:
                    model.backward(upstream, saved)
        own = {name: array.copy() for name, array in model.gradients().items()}
        ranks.require_equal("gradients", [array.tobytes() for array in own.values()])
        key = "synchronized" if synchronized else "apart"
        found[key] = {
            "logits": worst(mine[1], part(outputs[1], ranks)), "gradients": worst_gradient(own, alone.gradients(), floor),
            "statistics": max((worst(a, alone.state()[n]) for n, a in model.state().items()
                               if n.endswith((".mean", ".variance"))), default=0.0),
            "sent before the stem": sent[0]}
    # Without synchronization: the mean of what each rank computes alone.
    model, mean = random_model(name, backend=backend, dtype=dtype, **changes), None
    shares = []
    for share in np.array_split(x, ranks.size):
        model.zero_gradients()
        outputs, saved = model.forward(share, training=True)
        model.backward([out / len(share) for out in outputs], saved)
        shares.append(model.gradients())
    model.zero_gradients()
    outputs, saved = model.forward(part(x, ranks), training=True)
    with ranks.reduction(model):
        model.backward([out / len(outputs[0]) for out in outputs], saved)
    expected = {n: sum(share[n] for share in shares) / ranks.size for n in shares[0]}
    found["apart"]["gradients of the shares' mean"] = worst_gradient(model.gradients(), expected)
    everyone = ranks.gather(found)
    if ranks.rank == 0:
        print(json.dumps(everyone, default=float))


def words(ranks):
    """any, mean, gather, broadcast, require_equal."""
    last = ranks.size - 1
    assert ranks.any(ranks.rank == last) and not ranks.any(False)
    assert ranks.mean([ranks.rank, 0.1]) == [last / 2, (0.1 * 1 + sum([0.1] * last)) / ranks.size]
    assert ranks.gather(ranks.rank) == (list(range(ranks.size)) if ranks.rank == 0 else None)
    assert ranks.broadcast(f"from {ranks.rank}") == "from 0"
    ranks.require_equal("seed", 3)
    try:
        ranks.require_equal("data", f"folder {ranks.rank}")
    except LevitError as error:
        assert str(error) == "data: expected the same on every rank, found 'folder 0' on rank 0 and 'folder 1' on rank 1"
    else:
        raise AssertionError("different values passed")


def fails(ranks, which):
    """An error on one rank, which nobody else knows of, or on all."""
    if which == "all" or int(which) == ranks.rank:
        raise LevitError("a bad image")
    ranks.any(False)


def bug(ranks):
    """An exception of no kind that is foreseen, on one rank."""
    if ranks.rank == 1:
        raise KeyError("of a bug")
    ranks.any(False)


def waits(ranks):
    """The ranks work, step by step, until one of them is killed."""
    pids = ranks.gather(os.getpid())
    if ranks.rank == 0:
        print(json.dumps(pids), flush=True)
    for _ in range(100_000):
        ranks.any(False)
        time.sleep(0.01)


def main():
    case, *arguments = sys.argv[1:]
    signal.alarm(120)  # a test that hangs ends, whatever is wrong
    mpi.PATIENCE = 1.0
    with mpi.mpi_ranks() as ranks:
        globals()[case](ranks, *map(json.loads, arguments))


if __name__ == "__main__":
    main()
