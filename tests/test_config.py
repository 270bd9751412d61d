"""Parameters and multiply-adds against the paper's tables."""

import math

import numpy as np
import pytest

from levit_np.config import ABLATIONS, FAMILY, Convolution, LeViTConfig, Stage, config_of
from levit_np.errors import ConfigError
from levit_np.model import build

PUBLISHED = {
    "levit_128s": (7_777_058, 305_108_946), "levit_128": (9_213_936, 406_114_880),
    "levit_192": (10_947_069, 657_601_916), "levit_256": (18_893_876, 1_128_024_056),
    "levit_384": (39_128_836, 2_352_935_380),
}
# Table 5, millions; one head counted.
ABLATED = {"a1": (1.2, 308), "a2": (7.4, 275), "a3": (7.4, 305), "a4": (7.4, 305), "a5": (7.4, 305), "a6": (6.2, 312),
           "a7": (7.4, 305)}
EXACT = {"a1": 1_214_614, "a4": 7_391_290, "a6": 6_195_819}


def totals(model):
    rows = model.rows()
    return sum(row[2] for row in rows), sum(row[3] for row in rows)


@pytest.mark.parametrize("name", PUBLISHED)
def test_family_is_exact(name):
    model = build(FAMILY[name])
    assert totals(model) == PUBLISHED[name]
    trained = [spec.shape for spec in model.specs_by_name().values() if spec.trainable]
    assert sum(map(math.prod, trained)) == PUBLISHED[name][0]


@pytest.mark.parametrize("key", ABLATED)
def test_ablations_agree_with_table_5(key):
    model = build(ABLATIONS[f"levit_128s_{key}"])
    parameters, cost = totals(model)
    if model.head_dist:
        parameters -= sum(row[2] for row in model.rows() if row[0].startswith("head_dist"))
    millions, flops = ABLATED[key]
    assert abs(parameters / 1e6 - millions) < 0.06 and abs(cost / 1e6 - flops) < 1
    assert parameters == EXACT.get(key, parameters)


def test_deit_tiny_is_as_large_as_published():
    """5,717,416 parameters, as timm counts deit_tiny_patch16_224."""
    model = build(ABLATIONS["deit_tiny"])
    trained = [spec.shape for spec in model.specs_by_name().values() if spec.trainable]
    assert totals(model)[0] == sum(map(math.prod, trained)) == 5_717_416


def test_a_config_survives_its_dictionary_and_refuses_nonsense():
    for config in (FAMILY | ABLATIONS).values():
        assert LeViTConfig.from_dict(config.to_dict()) == config
    for field, value in (("pooling", "token"), ("key_size", 0), ("stages", [[1, 10**9, 1]]), ("activation", "relu"),
                         ("x", 1)):
        with pytest.raises(ConfigError):
            LeViTConfig.from_dict(FAMILY["levit_256"].to_dict() | {field: value})


def test_what_a_field_may_be():
    assert config_of("levit_128s", image_size=np.int64(64), num_classes=np.int32(3)) == config_of(
        "levit_128s", image_size=(64, 64), num_classes=3)
    for size in (3.5, None, "64", (64,), (64, 64, 64), (64.0, 64)):
        with pytest.raises(ConfigError, match="image_size: expected a whole number or"):
            config_of("levit_128s", image_size=size)
    with pytest.raises(ConfigError, match="bogus"):
        config_of("levit_128s", bogus=1)


def test_every_convolution_leaves_a_pixel():
    """The border of the next would make some again, of which none is the image's."""
    stem = ((16, 3, 4), (8, 4, 3), (8, 3, 3), (128, 4, 3))
    with pytest.raises(ConfigError, match=r"an image of \(20, 36\) leaves no token"):
        build(config_of("levit_128s", stem=tuple(Convolution(*c) for c in stem), image_size=(20, 36)))


@pytest.mark.parametrize("changes, message", [
    ({"num_classes": 0}, "num_classes: expected a whole number from 1 to 65536, found 0"),
    ({"key_size": "16"}, "key_size: expected a whole number from 1 to 65536, found '16'"),
    ({"stem": (Convolution(0), Convolution(128))}, "stem: expected a whole number from 1 to 65536, found 0"),
    ({"stages": (Stage(128, 2, 4), Stage(256, 3, 6))}, "stages: expected a whole number from 1 to 65536, found 0"),
    ({"classes": 10}, "config: expected fields among name, stem, .*, found 'classes'")])
def test_an_impossible_field_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_of("levit_128s", **changes)


def test_parts_may_be_plain_numbers():
    plain = config_of("levit_digits", stem=[[32, 3, 2], [64, 3, 2]], stages=((64, 1, 2),))
    assert plain == config_of("levit_digits", stages=(Stage(64, 1, 2),))
    for wrong in ("abc", 5, [5], [[1, 2, 3, 4]]):
        with pytest.raises(ConfigError):
            config_of("levit_digits", stem=wrong)
