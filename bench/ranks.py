"""How much a second process speeds up training: mpiexec -n 2 python bench/ranks.py

Training steps (forward, loss, backward, clipping, AdamW, moving average) of LeViT-256 with the paper's recipe, 16
random images a rank, one thread each. Rank 0 alone (while the others sleep) and all ranks with their gradients summed
take turns in the same processes. Writes bench/results/ranks-<processor>.json: images per second of both, and the median
over the rounds of their ratio."""

import argparse
import os
import time
from statistics import median

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from report import add_results, result_path, run, this_machine, write_json  # noqa: E402

import levit_np  # noqa: E402
from levit_np.commands.common import whole  # noqa: E402
from levit_np.training.data.batch import Batch  # noqa: E402
from levit_np.training.mpi import mpi_ranks, started_by_mpi  # noqa: E402
from levit_np.training.ranks import SingleRank  # noqa: E402
from levit_np.training.recipe import Recipe  # noqa: E402
from levit_np.training.trainer import Trainer  # noqa: E402


class OneBatch:
    """The same random images at each step."""

    steps = 1 << 30

    def __init__(self, config, batch, seed):
        generator = np.random.default_rng(seed)
        shape = batch, config.in_channels, *config.image_size
        labels = generator.integers(0, config.num_classes, batch)
        targets = np.eye(config.num_classes, dtype=np.float32)[labels]
        self.batch = Batch(generator.standard_normal(shape, np.float32), targets, np.arange(batch), (), ())


def trainer(name, batch, ranks):
    model = levit_np.create(name)
    return Trainer(model, OneBatch(model.config, batch, ranks.rank), Recipe(batch=batch), ranks=ranks)


def seconds(go, steps):
    begin = time.perf_counter()
    for _ in range(steps):
        go.step([go.loader.batch])
    return time.perf_counter() - begin


def measure(ranks, arguments):
    """On rank 0: [seconds alone, seconds together] for each round, without the first one, which compiles."""
    alone = trainer(arguments.model, arguments.batch, SingleRank()) if ranks.rank == 0 else None
    together = trainer(arguments.model, arguments.batch, ranks)
    rounds = []
    for number in range(arguments.rounds + 1):
        by_itself = seconds(alone, arguments.steps) if alone else None
        ranks.any(False)  # until here the others slept
        both = seconds(together, arguments.steps)
        if number and ranks.rank == 0:
            rounds.append((by_itself, both))
            print(f"round {number}/{arguments.rounds}: {by_itself:.2f} s alone, {both:.2f} s together", flush=True)
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: mpiexec -n 2 python bench/ranks.py")
    parser.add_argument("--model", default="levit_256", help="(default: %(default)s)")
    parser.add_argument("--batch", type=whole, default=16, help="images a rank (default: %(default)s)")
    parser.add_argument("--steps", type=whole, default=3, help="steps a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=whole, default=7, help="turns of each (default: %(default)s)")
    add_results(parser)
    arguments = parser.parse_args()
    if started_by_mpi() < 2:
        parser.error("expected several processes; start it as mpiexec -n 2 python bench/ranks.py")
    with mpi_ranks() as ranks:
        before = this_machine(("numpy", "numba", "mpi4py", "mpich"))
        rounds = measure(ranks, arguments)
        if ranks.rank:
            return
        images = arguments.batch * arguments.steps
        ratios = [ranks.size * by_itself / both for by_itself, both in rounds]
        result = {"machine": before, "model": arguments.model, "images a rank": arguments.batch, "ranks": ranks.size,
                  "images a second": {"alone": median(images / by_itself for by_itself, _ in rounds),
                                      "together": median(ranks.size * images / both for _, both in rounds)},
                  "ratio": median(ratios), "ratios": ratios}
        path = result_path(arguments.results, "ranks", before)
        write_json(path, result)
        print(f"{ranks.size} ranks / 1 rank: {result['ratio']:.2f}; written: {path.name}")


if __name__ == "__main__":
    run(main)
