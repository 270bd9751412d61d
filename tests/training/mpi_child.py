"""The program that test_mpi.py runs on each rank: mpiexec -n N python -m tests.training.mpi_child CASE [ARGUMENT ...].
A case is a function of this file; what rank 0 prints goes to the test."""

import ctypes
import hashlib
import json
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from levit_np.errors import LevitError, TrainingError
from levit_np.layers.layer import Layer
from levit_np.layers.normalization import BatchNorm
from levit_np.model import build
from levit_np.ops import cuda, reference
from levit_np.ops.cuda import device
from levit_np.training import mpi, reduction
from levit_np.training.ranks import SingleRank
from levit_np.training.recipe import Recipe
from levit_np.training.trainer import Trainer

from ..distance import worst, worst_gradient
from ..ops.cuda.emulator import Emulator
from ..random_model import random_images, random_model, random_state
from .in_memory import SMALL, MemoryLoader


def part(array, ranks):
    """This rank's contiguous share."""
    return np.array_split(array, ranks.size)[ranks.rank]


def gradients(ranks, name, backend, dtype, changes):
    """How far a step of all ranks is from one of a single process: with BN over all ranks, and with BN over each rank's
    share."""
    reduction.BUCKET = 1 << 12
    found, floor = {}, 1e-5 if dtype == "float64" else 1e-2  # in float32, small gradients are only rounding
    x = random_images(random_model(name, dtype=dtype, **changes), 4 * ranks.size)
    for synchronized in (True, False):
        alone = random_model(name, backend=backend, dtype=dtype, **changes)
        model = random_model(name, backend=backend, dtype=dtype, **changes)
        if synchronized:
            ranks.synchronize_norms(model)
        reduced = ranks.reduction(model)
        sent = []
        stem, after = model.stem.convolutions[0], model.stem.convolutions[0].completed
        stem.completed = lambda layer: (sent.append(len(reduced._sums)), after(layer))
        for step in range(3):  # the second step accumulates over two batches, and only the last is reduced
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
                upstream = [part(u, ranks) for u in upstream]
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
            "logits": worst(mine[1], part(outputs[1], ranks)),
            "gradients": worst_gradient(own, alone.gradients(), floor),
            "statistics": max((worst(a, alone.state()[n]) for n, a in model.state().items()
                               if n.endswith((".mean", ".variance"))), default=0.0),
            "sent before the stem": sent[0]}
    # Without synchronization: the sum of the ranks' separate gradients.
    model = random_model(name, backend=backend, dtype=dtype, **changes)
    shares = []
    for share in np.array_split(x, ranks.size):
        model.zero_gradients()
        outputs, saved = model.forward(share, training=True)
        model.backward([out / len(x) for out in outputs], saved)
        shares.append(model.gradients())
    model.zero_gradients()
    outputs, saved = model.forward(part(x, ranks), training=True)
    with ranks.reduction(model):
        model.backward([out / len(x) for out in outputs], saved)
    expected = {n: sum(share[n] for share in shares) for n in shares[0]}
    found["apart"]["gradients of the shares"] = worst_gradient(model.gradients(), expected)
    everyone = ranks.gather(found)
    if ranks.rank == 0:
        print(json.dumps(everyone, default=float))


class StandIn:
    """Stands for CuPy's streams and NCCL. A sum is computed only when something waits for it, so a missing wait is
    noticed."""

    available, NCCL_FLOAT32, NCCL_SUM = True, 7, 0

    def __init__(self, rank):
        self.streams, self.sums = [self.Stream()], 0
        self.get_current_stream = lambda: self.streams[0]
        self.Device = lambda: SimpleNamespace(id=0)
        self.runtime = SimpleNamespace(deviceGetPCIBusId=lambda number: f"0000:{rank:02}:00.0")
        standing = self

        class NcclCommunicator:
            def __init__(self, size, name, rank):
                from mpi4py import MPI

                assert name == b"one for all"
                self.all, self.place = MPI.COMM_WORLD.Dup(), MPI.IN_PLACE

            def allReduce(self, source, target, count, kind, operation, stream):  # noqa: N802: CuPy's name
                assert source == target and (kind, operation) == (standing.NCCL_FLOAT32, standing.NCCL_SUM)
                assert stream.waited == standing.streams[0].recorded  # the array has been written
                numbers = np.ctypeslib.as_array((ctypes.c_float * count).from_address(source))
                standing.sums += 1
                stream.work.append(lambda: self.all.Allreduce(self.place, numbers))

        self.NcclCommunicator = NcclCommunicator

    def get_unique_id(self):
        return b"one for all"

    class Stream:
        def __init__(self, non_blocking=False):
            self.work, self.recorded, self.waited, self.ptr = [], 0, None, self

        def record(self):
            self.recorded += 1
            work, self.work = self.work, []
            return self.recorded, work

        def wait_event(self, event):
            self.waited, work = event
            while work:
                work.pop(0)()


def gpus(ranks, way, folder):
    """Sums gradients on devices, through the stand-in for NCCL or through the host; and BN over the devices."""
    reduction.BUCKET = 1 << 12
    device.use(Emulator(Path(folder) / str(ranks.rank)))
    if way == "nccl":
        sys.modules["cupy.cuda.nccl"] = device.arrays().cuda = standing = StandIn(ranks.rank)
    model, sizes = BatchNorm(cuda, 5), [(3,), (700, 3), (4, 5), (2000,), (7,), ()]
    model.parts = [Layer(cuda) for _ in sizes]
    ranks.synchronize_norms(model)
    reduced = ranks.reduction(model)
    for step in range(2):
        draws = [np.random.default_rng([step, *size]).standard_normal((ranks.size, *size)).astype(np.float32)
                 for size in sizes]
        with reduced:
            for part_, draw in zip(model.parts, draws):
                part_.accumulated.clear()
                own = cuda.asarray(draw[ranks.rank])
                part_.accumulate(weight=own.T.copy().T if own.ndim == 2 else own)
        for part_, draw in zip(model.parts, draws):
            assert np.abs(cuda.to_host(part_.accumulated["weight"]) - draw.sum(0)).max() < 1e-5
    sent = standing.sums if way == "nccl" else None
    for name, spec in model.specs.items():
        setattr(model, name, cuda.asarray(np.full(spec.shape, 0.5, np.float32)))
    x, dy = (np.random.default_rng(n).standard_normal((6 * ranks.size, 5)).astype(np.float32) for n in (8, 9))
    y, saved = model.forward(cuda.asarray(part(x, ranks)), True)
    dx = model.backward(cuda.asarray(part(dy, ranks)), saved)
    expected, statistics = reference.batch_norm(x, model.gamma[0], model.beta[0], model.eps)
    worst_ = {"y": (y, expected), "mean": (model.mean, 0.9 * 0.5 + 0.1 * statistics.mean),
              "dx": (dx, reference.batch_norm_backward(dy, x, np.float32(0.5), statistics, model.eps)[0])}
    for what, (ours, theirs) in worst_.items():
        theirs = theirs if what == "mean" else part(theirs, ranks)
        assert np.abs(cuda.to_host(ours) - theirs).max() < 1e-5, what
    everyone = ranks.gather(sent)
    if ranks.rank == 0:
        print(json.dumps(everyone))


class Shared:
    """A rank's contiguous share of each batch of a loader."""

    def __init__(self, loader, ranks):
        self.loader, self.ranks, self.steps = loader, ranks, loader.steps

    def epoch(self, epoch, first_step=0):
        for batch in self.loader.epoch(epoch, first_step):
            yield type(batch)(*(part(np.array(values), self.ranks) for values in batch))


def trainer(ranks, recipe, config=SMALL, dtype=np.float64, backend="reference"):
    model = build(config, backend)
    model.set_state(random_state(model.specs_by_name(), 3, dtype))
    loader = MemoryLoader(config, batch=12)
    return Trainer(model, Shared(loader, ranks), recipe, seed=5, ranks=ranks,
                   teacher=lambda batch: 3 * np.roll(batch.targets, 1, axis=1))


class Unequal(Shared):
    """Of each batch of 12, rank 0 gets the first 8 images and rank 1 the other 4, as after skipping bad images."""

    skips = True

    def epoch(self, epoch, first_step=0):
        mine = slice(None, 8) if self.ranks.rank == 0 else slice(8, None)
        for batch in self.loader.epoch(epoch, first_step):
            yield type(batch)(*(values[mine] for values in batch))


def skipped(ranks):
    """Ten steps of two ranks with different numbers of images, compared with those of a single process."""
    config = replace(SMALL, drop_path=0.0)
    recipe = Recipe(epochs=20, batch=12, rate=1e-2, warmup_epochs=0, accumulation=2, clip=0.02)
    alone = trainer(SingleRank(), recipe, config)
    several = trainer(ranks, replace(recipe, batch=6, synchronize_norms=True), config)
    several.loader = Unequal(several.loader.loader, ranks)
    list(epochs(alone, 3)), list(epochs(several, 3))
    state = several.state()
    if state:
        print(json.dumps(worst_gradient(state[0], alone.state()[0]), default=float))


def digest(state):
    """SHA-256 over every array and number of a trainer's state."""
    arrays, document = state
    found = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return found.hexdigest()


def epochs(go, count):
    """The steps of `count` epochs."""
    for _ in range(count):
        yield from go.train_epoch()
        go.next_epoch()


def losses(ranks):
    """Fifty steps of all ranks compared with those of a single process with the same global batches: the largest
    relative differences of the losses and of all arrays of the state; and the same with each rank's own BN
    statistics."""
    config, found = replace(SMALL, drop_path=0.0), {}
    recipe = Recipe(epochs=20, batch=12, rate=1e-2, warmup_epochs=2, average=0.9, accumulation=2, clip=0.02)
    alone = trainer(SingleRank(), recipe, config)
    expected = [step.loss for step in epochs(alone, 17)]
    for synchronized in (True, False):
        several = trainer(ranks, replace(recipe, batch=12 // ranks.size, synchronize_norms=synchronized), config)
        values = [ranks.mean([step.loss])[0] for step in epochs(several, 17)]
        state = several.state()
        if state:
            theirs, _ = alone.state()
            found["synchronized" if synchronized else "apart"] = {
                "steps": len(values), "losses": max(abs(a / b - 1) for a, b in zip(values, expected, strict=True)),
                "state": worst_gradient(state[0], theirs)}
    if ranks.rank == 0:
        print(json.dumps(found, default=float))


def further(go, count):
    """Trains `count` steps, over the ends of epochs and into the middle of one; returns the state."""
    while count:
        for _ in go.train_epoch():
            count -= 1
            if not count:
                break
        if go.batch == go.loader.steps:
            go.next_epoch()
    return go.state()


def resume(ranks, cuts, steps):
    """Trains `steps` steps without interruption, and with a change to a new trainer after each of `cuts`: prints the
    digests of the final states, which must be equal. Drop path is on."""
    recipe = Recipe(epochs=4, batch=12 // ranks.size, rate=1e-2, warmup_epochs=1, average=0.9, clip=0.02)

    def fresh():
        return trainer(ranks, recipe, dtype=np.float32)

    ends = [further(fresh(), steps)]
    for cut in cuts:
        middle = pickle.loads(pickle.dumps(further(fresh(), cut)))
        again = fresh()
        again.set_state(*ranks.broadcast(middle))
        ends.append(further(again, steps - cut))
    if ranks.rank == 0:
        generators = {json.dumps(rank["random"]) for rank in ends[0][1]["ranks"]}
        print(json.dumps({"ends": [digest(end) for end in ends], "generators": len(generators)}))


def poison(ranks, where, what):
    """In the third step an image of one rank is NaN, or its loss infinite: prints what every rank's trainer raises, and
    whether its weights are still those after two steps."""
    recipe = Recipe(epochs=4, batch=12 // ranks.size, warmup_epochs=0)
    go, two = trainer(ranks, recipe), further(trainer(ranks, recipe), 2)
    pure = go.loader.loader.batch_at

    def poisoned(epoch, step):
        batch = pure(epoch, step)
        if step == 2:
            part(batch.images, ranks)[0] = np.nan if ranks.rank == where else 0.0
        return batch

    if what == "image":
        go.loader.loader.batch_at = poisoned
    elif ranks.rank == where:  # only the loss, and not the gradients
        loss = go.loss
        go.loss = lambda *given: (np.inf if go.batch == 2 else 1.0, loss(*given)[1])
    try:
        further(go, 4)
    except TrainingError as error:
        said = str(error)
    arrays = go.model.trained()
    moved = max((worst(array, two[0][f"model.{name}"]) for name, array in arrays.items()) if two else [0.0])
    everyone = ranks.gather([said, moved])
    if ranks.rank == 0:
        print(json.dumps(everyone, default=float))


def words(ranks):
    """Tests any, mean, gather, broadcast and require_equal."""
    last = ranks.size - 1
    assert ranks.any(ranks.rank == last) and not ranks.any(False)
    assert ranks.mean([ranks.rank, 0.25]) == [last / 2, 0.25]
    assert ranks.gather(ranks.rank) == (list(range(ranks.size)) if ranks.rank == 0 else None)
    assert ranks.broadcast(f"from {ranks.rank}") == "from 0"
    ranks.require_equal("seed", 3)
    try:
        ranks.require_equal("data", f"folder {ranks.rank}")
    except LevitError as error:
        assert str(error) == ("data: expected the same on every rank, found 'folder 0' on rank 0 and 'folder 1' on "
                              "rank 1")
    else:
        raise AssertionError("different values passed")


def fails(ranks, which):
    """An error on one rank, of which the others know nothing, or on all ranks."""
    if which == "all" or int(which) == ranks.rank:
        raise LevitError("a bad image")
    ranks.any(False)


def recorded(ranks):
    """Compares recorded steps with others, and how many sums a replay starts before its end."""
    reduction.BUCKET = 1 << 12
    found = []
    for plain in (True, False):
        model = random_model("levit_digits", backend="cpu")
        trainer = Trainer(model, MemoryLoader(model.config, seed=ranks.rank), Recipe(batch=6 * ranks.size), ranks=ranks)
        if plain:
            trainer.one_pass = trainer.passed
        stem, after, sent = model.stem.convolutions[0], model.stem.convolutions[0].completed, []
        stem.completed = lambda layer, after=after, sent=sent: (sent.append(len(trainer.reduction._sums)), after(layer))
        losses = [step.loss for step in trainer.train_epoch()]
        found.append((losses, sent, {name: array.tobytes() for name, array in model.state().items()}))
        if not plain:
            assert trainer.one_pass._replay and not trainer.one_pass._refused
    (expected, before, arrays), (losses, sent, others) = found
    assert losses == expected and sent == before and min(sent) > 10 and len(sent) == 5, (losses, expected, sent, before)
    assert arrays == others
    print("the same")


def bug(ranks):
    """An unexpected exception on one rank."""
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
    signal.alarm(120)  # ends a test that hangs
    mpi.PATIENCE = 1.0
    with mpi.mpi_ranks() as ranks:
        globals()[case](ranks, *map(json.loads, arguments))


if __name__ == "__main__":
    main()
