"""`levit-np bench --steps`: where the time of an evaluation goes, step by step of the cpu backend's plan."""

from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ..errors import LevitError
from ..inference import listing, plan
from ..inference.cpu import MAX_BATCH, CpuExecutor
from .peak import peak_of, peaks

ROUNDS = 25
REST = "the rest"


class StepTime(NamedTuple):
    """One step of the plan; "image", the copy of the images behind a border of zeros; "whole", the evaluation; or all
    steps of a kind.

    share: of the processor's limit for multiply-adds; None where that is unknown. It counts those of the formula, so
    that it may exceed 1 where a convolution by minimal filtering needs fewer."""

    name: str
    kind: str
    multiply_adds: int  # an image
    seconds: float  # an image
    share: float | None


def step_times(model, batch: int, threads: int, progress=lambda: None) -> list[StepTime]:
    """The steps in their order and, last, the whole evaluation in one call: medians of ROUNDS, in which steps follow
    each other as they do in an evaluation, so that each finds in the caches what the one before has left there.

    progress is called after each round. Raises LevitError for more images than the backend takes at a time."""
    if batch > MAX_BATCH:
        raise LevitError(f"steps: expected a batch of up to {MAX_BATCH} images, which are evaluated at a time, found "
                         f"{batch}")
    executor = CpuExecutor(model, model.precision == "bfloat16")
    shape = batch, model.config.in_channels, *model.config.image_size
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    steps, wholes = [], []
    for _ in range(ROUNDS + 1):  # the first is not counted
        start = perf_counter()
        executor(images)
        wholes.append(perf_counter() - start)
        steps.append(_one_by_one(executor, images))
        progress()
    return _table(model, batch, peak_of(model.precision, peaks(threads)), steps[1:], wholes[1:])


def by_kind(steps: list[StepTime]) -> list[StepTime]:
    """The sums over all steps of a kind, in the order in which the kinds first appear, REST last."""
    found = {}
    for step in steps:
        found.setdefault(step.kind, []).append(step)
    return [_sum(kind, found[kind]) for kind in sorted(found, key=lambda kind: kind == REST)]


def _sum(kind, steps):
    seconds = sum(step.seconds for step in steps)
    known = all(step.share is not None for step in steps)
    share = sum(step.share * step.seconds for step in steps) / seconds if known else None  # the limit is one for all
    return StepTime(kind, kind, sum(step.multiply_adds for step in steps), seconds, share)


def _one_by_one(executor, images) -> dict[str, float]:
    """{step: seconds}; the parts of a step are added up."""
    seconds, start = {}, perf_counter()
    for name in executor.stepwise(images):
        end = perf_counter()
        seconds[name] = seconds.get(name, 0) + end - start
        start = end
    return seconds


def _table(model, batch, limit, steps, wholes):
    planned, kinds, of_plan = {}, {}, list(plan.steps_of(model, pooled_early=True))
    for step, row in zip(of_plan, listing.rows(of_plan, model.config)):
        planned[row.name] = planned.get(row.name, 0) + row.multiply_adds
        kinds[row.name] = _kind(step, row.shape)
    times = {name: median(step[name] for step in steps) for name in steps[0]}
    found = [(name, kinds.get(name, REST), planned.get(name, 0), seconds / batch) for name, seconds in times.items()]
    found.append(("whole", "whole", sum(planned.values()), median(wholes) / batch))
    return [StepTime(*row, limit and 2 * row[2] / row[3] / limit / 1e9) for row in found]


def _kind(step, shape):
    if isinstance(step, plan.Linear) and len(shape) == 2:
        return f"linear maps of {shape[0]} tokens"
    return {plan.Convolution: "convolutions", plan.Attention: "attention"}.get(type(step), REST)
