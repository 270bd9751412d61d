"""The configuration of a network, as plain data, and the known ones: the paper's family (Table 2), timm's variants and
the ablations (Table 5)."""

from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from operator import index
from typing import NamedTuple

from .errors import ConfigError

# The values allowed in the fields that choose between variants.
CHOICES = {
    "activation": ("hardswish", "silu"), "attention_activation": ("hardswish", "silu", "identity"),
    "normalization": ("batch", "layer"), "position": ("bias", "embedding"), "pooling": ("average", "token"),
}


class Convolution(NamedTuple):
    """One convolution of the stem."""

    channels: int
    kernel: int = 3
    stride: int = 2

    @property
    def padding(self) -> int:
        # A patch convolution (kernel = stride) tiles the image and needs no border.
        return 0 if self.kernel == self.stride else self.kernel // 2


class Stage(NamedTuple):
    """The blocks at one resolution, and the shrinking attention that leads into them from the stage before."""

    channels: int  # C
    depth: int  # the number of blocks, each an attention and an MLP
    heads: int  # N in the paper's Table 2; in this code N counts tokens
    shrink_heads: int = 0  # heads of the shrinking attention: in the paper the previous C / D; 0 for the first stage


@dataclass(frozen=True)
class LeViTConfig:
    """Everything that determines a network's shapes and arithmetic; plain data, safe to read from a file.

    Raises ConfigError for fields that describe no network."""

    name: str
    stem: tuple[Convolution, ...]  # the last one has the first stage's C channels
    stages: tuple[Stage, ...]
    key_size: int  # D: the size of a query and of a key, per head
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    distillation: bool = True
    value_ratio: int = 2  # V / D: the size of a value over that of a key
    shrink_value_ratio: int = 4  # the same in the shrinking attention between two stages
    mlp_ratio: int = 2  # an MLP's hidden channels over its input channels
    drop_path: float = 0.0
    activation: str = "hardswish"
    attention_activation: str = "hardswish"
    normalization: str = "batch"  # or "layer": LayerNorm before each branch, as in ViT (A3)
    position: str = "bias"  # of attention; or "embedding": added to the tokens after the stem (A5)
    pooling: str = "average"  # or "token": the heads read a class token, as in ViT

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isprintable() or not 1 <= len(self.name) <= 64:
            raise ConfigError(f"config: name: expected 1 to 64 printable characters, found {self.name!a:.100}")
        self._require(isinstance(self.image_size, tuple) and len(self.image_size) == 2,
                      "image_size: expected (height, width)", self.image_size)
        for key, kind in (("stem", Convolution), ("stages", Stage)):
            parts = getattr(self, key)
            self._require(isinstance(parts, tuple) and parts and all(isinstance(part, kind) for part in parts),
                          f"{key}: expected a tuple of {kind.__name__}", parts)
        for key, number in self._counts():
            # A bool is an int to isinstance.
            self._require(type(number) is int and 1 <= number <= 65536,
                          f"{key}: expected a whole number from 1 to 65536", number)
        blocks = sum(stage.depth for stage in self.stages)
        self._require(blocks <= 1024, "stages: expected at most 1024 blocks", blocks)
        self._require(len(self.stem) <= 16, "stem: expected at most 16 convolutions", len(self.stem))
        self._require(self.stem[-1].channels == self.stages[0].channels,
                      f"expected the stem to end in {self.stages[0].channels} channels", self.stem[-1].channels)
        self._require(type(self.drop_path) in (int, float) and 0 <= self.drop_path < 1,
                      "expected 0 <= drop_path < 1", self.drop_path)
        self._require(type(self.distillation) is bool, "distillation: expected true or false", self.distillation)
        for key, allowed in CHOICES.items():
            self._require(getattr(self, key) in allowed, f"expected {key} in {allowed}", getattr(self, key))
        # A class token is no pixel: it has no offset to the others for a bias, and no place in a subsampled grid.
        self._require(self.pooling != "token" or self.position == "embedding" and len(self.stages) == 1,
                      "expected a class token with position 'embedding' and one stage",
                      (self.position, len(self.stages)))
        self.resolutions  # raises if the image leaves no token

    def _require(self, right, expected: str, found) -> None:
        if not right:
            raise ConfigError(f"config {self.name!r}: {expected}, found {found!a:.100}")

    def _counts(self):
        """(field, number) of each field that counts something."""
        for key in ("key_size", "in_channels", "num_classes", "value_ratio", "shrink_value_ratio", "mlp_ratio"):
            yield key, getattr(self, key)
        yield from (("image_size", number) for number in self.image_size)
        yield from (("stem", number) for convolution in self.stem for number in convolution)
        # The first stage has no shrinking attention.
        yield from (("stages", number) for i, stage in enumerate(self.stages) for number in (stage if i else stage[:3]))

    @property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each stage's tokens."""
        size = self.image_size
        for c in self.stem:
            size = tuple((n + 2 * c.padding - c.kernel) // c.stride + 1 for n in size)
            if min(size) < 1:  # checked here, as the next convolution's padding could make the size positive again
                raise ConfigError(f"config {self.name!r}: an image of {self.image_size} leaves no token")
        sizes = [size]
        for _ in self.stages[1:]:
            sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
        return tuple(sizes)

    def to_dict(self) -> dict:
        """The fields as plain data, which JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "LeViTConfig":
        """The inverse of to_dict, also after JSON.  Raises ConfigError for anything else."""
        try:
            data = dict(data)
            data["stem"] = _rows("stem", data["stem"], Convolution)
            data["stages"] = _rows("stages", data["stages"], Stage)
            data["image_size"] = tuple(data["image_size"])
            return cls(**data)
        except ConfigError:
            raise
        except (TypeError, KeyError, ValueError) as error:
            found = f"missing {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"config: expected the fields of a network, found {found!a:.200}") from None


def _rows(key: str, rows, kind) -> tuple:
    try:
        return tuple(kind(*row) for row in rows)
    except TypeError:
        raise ConfigError(f"config: {key}: expected a list of ({', '.join(kind._fields)}), found {rows!a:.100}"
                          ) from None


def _levit(name, channels, depths, heads, key_size, stride=16, **more):
    first = channels[0]
    stem = tuple(Convolution(first // n) for n in (8, 4, 2, 1) if n <= stride // 2)
    shrink = (0, *(c // key_size for c in channels[:-1]))
    return LeViTConfig(name, stem, tuple(map(Stage, channels, depths, heads, shrink)), key_size, **more)


_SILU = {"activation": "silu", "attention_activation": "silu"}
_FAMILY = (
    _levit("levit_128s", (128, 256, 384), (2, 3, 4), (4, 6, 8), 16),
    _levit("levit_128", (128, 256, 384), (4, 4, 4), (4, 8, 12), 16),
    _levit("levit_192", (192, 288, 384), (4, 4, 4), (3, 5, 6), 32),
    _levit("levit_256", (256, 384, 512), (4, 4, 4), (4, 6, 8), 32),
    _levit("levit_384", (384, 512, 768), (4, 4, 4), (6, 9, 12), 32, drop_path=0.1),
    _levit("levit_384_s8", (384, 512, 768), (4, 4, 4), (6, 9, 12), 32, 8, **_SILU),
    _levit("levit_512_s8", (512, 640, 896), (4, 4, 4), (8, 10, 14), 64, 8, distillation=False, **_SILU),
    _levit("levit_512", (512, 768, 1024), (4, 4, 4), (8, 12, 16), 64, distillation=False, **_SILU),
    _levit("levit_256d", (256, 384, 512), (4, 8, 6), (4, 6, 8), 32, distillation=False, **_SILU),
    _levit("levit_512d", (512, 640, 768), (4, 8, 6), (8, 10, 12), 64, distillation=False, **_SILU),
    # For 32×32 grey digits: 8×8, 4×4 and 2×2 tokens.
    LeViTConfig("levit_digits", (Convolution(32), Convolution(64)),
                (Stage(64, 2, 3), Stage(80, 2, 4, 4), Stage(80, 2, 3, 4)), 16,
                image_size=(32, 32), in_channels=1, num_classes=10),
)
FAMILY: dict[str, LeViTConfig] = {config.name: config for config in _FAMILY}


def _ablations(base: LeViTConfig) -> dict[str, LeViTConfig]:
    """Table 5: LeViT-128S with one property changed, A1 to A7; and DeiT-tiny, where all are, except for its GELU."""
    patch = (Convolution(128, kernel=16, stride=16),)
    narrow = (Stage(120, 2, 4), Stage(180, 3, 6, 16), Stage(240, 4, 8, 24))
    changes = {
        "a1": dict(stem=tuple(map(Convolution, (14, 28, 57, 114))), stages=(Stage(114, 11, 3),), key_size=19),
        "a2": dict(stem=patch),
        "a3": dict(normalization="layer"),
        "a4": dict(distillation=False),
        "a5": dict(position="embedding"),
        "a6": dict(stem=tuple(map(Convolution, (15, 30, 60, 120))), stages=narrow, key_size=30,
                   value_ratio=1, shrink_value_ratio=1, mlp_ratio=4),
        "a7": dict(attention_activation="identity"),
    }
    configs = [replace(base, name=f"levit_128s_{key}", **change) for key, change in changes.items()]
    # DeiT-tiny, from which LeViT is derived (section 4), with Hardswish, as in the timings of Table 6.
    configs.append(LeViTConfig("deit_tiny", (Convolution(192, kernel=16, stride=16),), (Stage(192, 12, 3),), 64,
                               distillation=False, value_ratio=1, mlp_ratio=4, attention_activation="identity",
                               normalization="layer", position="embedding", pooling="token"))
    return {config.name: config for config in configs}


ABLATIONS: dict[str, LeViTConfig] = _ablations(FAMILY["levit_128s"])


def config_of(name: str, **changes) -> LeViTConfig:
    """The configuration called `name`, with the fields in `changes` replaced; image_size may be one number.

    Raises ConfigError for an unknown name, listing the known ones, and for an unknown or impossible field."""
    known = FAMILY | ABLATIONS
    if name not in known:
        raise ConfigError(f"model: expected one of {', '.join(known)}, found {name!r}")
    if "image_size" in changes:
        changes["image_size"] = size_of(changes["image_size"])
    changes = {key: plain(value) for key, value in changes.items()}
    if unknown := [key for key in changes if key not in LeViTConfig.__dataclass_fields__]:
        raise ConfigError(f"config: expected fields among {', '.join(LeViTConfig.__dataclass_fields__)}, found "
                          f"{unknown[0]!a:.100}")
    return LeViTConfig.from_dict(known[name].to_dict() | changes)


def plain(value):
    """A number of any type, NumPy's say, as Python's int or float; anything else unchanged."""
    if type(value) is bool or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def size_of(image_size) -> tuple[int, int]:
    """(height, width) from one number (a square) or from that pair.  Raises ConfigError for anything else."""
    try:
        height, width = (image_size,) * 2 if isinstance(image_size, Integral) else image_size
        return index(height), index(width)
    except (TypeError, ValueError):
        raise ConfigError(f"image_size: expected a whole number or (height, width), found {image_size!a:.100}"
                          ) from None
