"""The training recipe: every hyperparameter of a training run, except data, model and seed.

`Recipe()` is the paper's (section 5.2 and the authors' training script); RECIPES holds it and one for small data sets.
Each field has its own check and help text; the command line turns each into an option.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..config import plain
from ..errors import ConfigError

RATE_BATCH = 512  # the images per step that `rate` refers to

_Check = tuple[Callable[[Any], bool], str]


def _whole(low: int, high: int = 1 << 31) -> _Check:
    # A bool is an int to isinstance.
    return lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}"


def _real(low: float, high: float) -> _Check:
    return lambda v: type(v) in (int, float) and low <= v <= high, f"a number from {low:g} to {high:g}"


def _decay() -> _Check:
    return lambda v: type(v) in (int, float) and 0 <= v < 1, "a number from 0 to below 1"


def _choice(*values: str) -> _Check:
    return lambda v: isinstance(v, str) and v in values, " or ".join(values)


def _switch() -> _Check:
    return lambda v: type(v) is bool, "true or false"


def _range(low: float, high: float) -> _Check:
    return (lambda v: len(v) == 2 and all(type(n) in (int, float) and low <= n <= high for n in v) and v[0] <= v[1],
            f"two numbers from {low:g} to {high:g}, the smaller first")


def _names() -> _Check:
    return (lambda v: all(isinstance(n, str) and n.isidentifier() for n in v) and len(set(v)) == len(v),
            "names of parts of the network, each once")


def _part(default, check: _Check, help: str):
    """A field of the recipe: its default, the check of its values, its help text."""
    return field(default=default, metadata={"check": check, "help": help})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters.  They are checked; a wrong value raises ConfigError with its field's name.

    Differences from the authors' script: the weights' moving average is what is validated and written (theirs keeps an
    average but validates the weights); other images are mixed (mixing.py) and share a batch (order.py); fine-tuning is
    no different from training afresh (theirs keeps the network in evaluation mode: BN's statistics stay, no branch
    drops); inputs of up to 32 pixels are cropped as larger ones are (theirs are only shifted, by up to 4 pixels).

    0 switches a feature off (1 for repeats and accumulation).  `rate` is multiplied by (images per step, over all
    ranks) / 512; the two other learning rates are not, as in the authors' script.
    """

    epochs: int = _part(1000, _whole(1), "passes through the data")
    batch: int = _part(256, _whole(2, 65536), "images per forward pass on each rank; images left over at an epoch's "
                       "end, too few for a batch, are skipped in that epoch")
    accumulation: int = _part(1, _whole(1, 65536), "forward passes whose gradients are added for one step")

    rate: float = _part(5e-4, _real(0, 100), f"peak learning rate, for {RATE_BATCH} images per step")
    warmup_rate: float = _part(1e-6, _real(0, 100), "learning rate at the start of the warm-up")
    final_rate: float = _part(1e-5, _real(0, 100), "learning rate at the end of the cosine")
    warmup_epochs: int = _part(5, _whole(0), "epochs of linear warm-up, counted as part of the cosine's")
    rate_changes: str = _part("epoch", _choice("epoch", "step"), "how often the learning rate changes")

    decay: float = _part(0.025, _real(0, 10), "AdamW's weight decay; none for biases, norms and attention biases")
    beta1: float = _part(0.9, _decay(), "AdamW's decay of the first moment")
    beta2: float = _part(0.999, _decay(), "AdamW's decay of the second moment")
    adam_eps: float = _part(1e-8, _real(1e-30, 1), "AdamW's eps, added to the root of the second moment")
    clip: float = _part(0.01, _real(0, 1e6),
                        "adaptive clipping: largest gradient norm, relative to the weight's; 0: none")
    average: float = _part(0.99996, _decay(),
                           "decay of the moving average of the weights, which is what is validated and written; choose "
                           "less for few steps; 0: none")
    drop_path: float | None = _part(None, _decay(), "probability of dropping a residual branch")
    freeze: tuple[str, ...] = _part((), _names(), "parts of the network that are not trained: stem, stage1, …")
    synchronize_norms: bool = _part(False, _switch(), "BN statistics over the batches of all ranks")

    distillation: str = _part("hard", _choice("hard", "soft"),
                              "what the second head learns from a teacher, if there is one: its predicted class (hard) "
                              "or its probabilities (soft)")
    alpha: float = _part(0.5, _real(0, 1), "the second head's weight in the loss")
    temperature: float = _part(1.0, _real(1e-3, 1e3), "temperature of soft distillation")

    smoothing: float = _part(0.1, _decay(), "label smoothing")
    mixup: float = _part(0.8, _real(0, 100), "alpha of mixup's Beta distribution; 0: none")
    cutmix: float = _part(1.0, _real(0, 100), "alpha of cutmix's Beta distribution; 0: none")
    mix_probability: float = _part(1.0, _real(0, 1), "probability of mixing a batch")
    mix_switch: float = _part(0.5, _real(0, 1), "probability that a mixed batch uses cutmix, if both are on")
    repeats: int = _part(3, _whole(1, 64), "repeated augmentation: copies of an image per epoch, which gets no longer")

    crop_scale: tuple[float, float] = _part((0.08, 1.0), _range(1e-3, 1), "area of the crop, as a share of the image's")
    crop_ratio: tuple[float, float] = _part((3 / 4, 4 / 3), _range(0.1, 10), "width / height of the crop")
    flip: float = _part(0.5, _real(0, 1), "probability of mirroring left and right")
    # The authors' 0.4 has no effect, as their library skips colour jitter when RandAugment is on.
    jitter: float = _part(0.0, _real(0, 1), "colour jitter: largest change of brightness, contrast and saturation")
    augment_layers: int = _part(2, _whole(0, 16), "RandAugment: operations per image; 0: none")
    augment_magnitude: float = _part(9.0, _real(0, 10), "RandAugment: strength of the distortions, from 0 to 10")
    augment_deviation: float = _part(0.5, _real(0, 10), "RandAugment: standard deviation of the strength")
    erase: float = _part(0.25, _real(0, 1), "probability of replacing a random rectangle by noise")

    def __post_init__(self):
        for part in fields(self):
            value = getattr(self, part.name)
            several = isinstance(part.default, tuple) and isinstance(value, (tuple, list))  # a list from JSON
            value = tuple(map(plain, value)) if several else plain(value)
            object.__setattr__(self, part.name, value)
            if value is None and part.default is None:
                continue
            right, expected = part.metadata["check"]
            if isinstance(part.default, tuple) is not isinstance(value, tuple) or not right(value):
                raise ConfigError(f"recipe: {part.name}: expected {expected}, found {value!a:.100}")
            if type(part.default) is float:
                object.__setattr__(self, part.name, float(value))

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs, at least in some batches."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def peak_rate(self, ranks: int = 1) -> float:
        """The peak learning rate: `rate` × images per step / 512."""
        return self.rate * self.batch * self.accumulation * ranks / RATE_BATCH

    def to_dict(self) -> dict:
        """The fields as plain data, which JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping, base: "Recipe | None" = None) -> "Recipe":
        """The inverse of to_dict, also after JSON; fields missing in `data` are taken from `base` (default: the
        paper's).

        Raises ConfigError for an unknown key and for a value that its field cannot have."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"recipe: expected an object, found {data!a:.100}")
        known = [part.name for part in fields(cls)]
        if unknown := [key for key in data if key not in known]:
            raise ConfigError(f"recipe: expected keys among {', '.join(known)}, found {unknown[0]!a:.100}")
        return cls(**{**(base or cls()).to_dict(), **data})


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    # A few thousand images are seen often, so mixing and erasing are weaker and images are not repeated in an epoch;
    # there are few steps, so the average decays faster and the learning rate is higher and changes with every step.
    "small": Recipe(
        epochs=50, batch=32, rate=8e-3, warmup_epochs=3, rate_changes="step", decay=0.05, average=0.99,
        mixup=0.2, cutmix=0.0, mix_probability=0.5, repeats=1, crop_scale=(0.35, 1.0), augment_layers=1,
        augment_magnitude=7.0, erase=0.1),
}
