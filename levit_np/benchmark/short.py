"""`levit-np bench`: how fast one model is on this machine, on each backend there is."""

from statistics import median
from typing import NamedTuple

from ..errors import BackendError
from .peak import peak_of, peaks
from .rounds import interleaved

CANDIDATES = (("reference", "float32"), ("cpu", "float32"), ("cpu", "bfloat16"),
              ("cuda", "float32"), ("cuda", "float16"), ("cuda", "bfloat16"))
ROUNDS = 7


class Speed(NamedTuple):
    """share: of the processor's peak in that precision; None where the peak is not known, as for a GPU."""

    backend: str
    precision: str
    batch: int
    images_per_second: float
    share: float | None


def open_candidates(opened, candidates=CANDIDATES) -> tuple[dict, list[str]]:
    """({(backend, precision): model}, why each other one is missing).  opened(backend, dtype) loads a model."""
    models, missing = {}, {}
    for backend, dtype in candidates:
        try:
            models[backend, dtype] = opened(backend, dtype)
        except BackendError as error:
            missing.setdefault((backend, str(error)), []).append(dtype)
    return models, [f"{backend} {', '.join(dtypes)}: {reason}" for (backend, reason), dtypes in missing.items()]


def operations(model) -> int:
    """Floating-point operations an image: two for each multiply-add that the paper counts."""
    return 2 * sum(multiply_adds for *_, multiply_adds in model.rows())


def speeds(models: dict, batches, threads: int, progress=lambda: None) -> list[Speed]:
    """Each model at each batch size, the models taking turns; progress is called ROUNDS times for each."""
    import numpy as np

    limits, rows = peaks(threads), []
    for batch in batches:
        calls = {}
        for key, model in models.items():
            shape = batch, model.config.in_channels, *model.config.image_size
            try:
                images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            except ValueError as error:  # so large that NumPy does not even try to allocate it
                raise MemoryError(error) from None
            calls[key] = lambda model=model, images=images: model(images)
        times = interleaved(calls, ROUNDS, progress=progress)
        for (backend, precision), seconds in times.items():
            rate, limit = batch / median(seconds), None if backend == "cuda" else peak_of(precision, limits)
            share = rate * operations(models[backend, precision]) / limit / 1e9 if limit else None
            rows.append(Speed(backend, precision, batch, rate, share))
    return rows
