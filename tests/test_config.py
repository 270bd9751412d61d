"""Configurations: parameters and multiply-adds against the paper's tables, and which fields and values are valid."""

import json
import math
from copy import deepcopy
from dataclasses import FrozenInstanceError

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
# Table 5, in millions; one head is counted.
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
    """5,717,416 parameters, as timm counts for deit_tiny_patch16_224."""
    model = build(ABLATIONS["deit_tiny"])
    trained = [spec.shape for spec in model.specs_by_name().values() if spec.trainable]
    assert totals(model)[0] == sum(map(math.prod, trained)) == 5_717_416


def test_a_config_survives_its_dictionary_and_refuses_nonsense():
    for config in (FAMILY | ABLATIONS).values():
        plain = json.loads(json.dumps(config.to_dict()))
        before = deepcopy(plain)
        assert LeViTConfig.from_dict(config.to_dict()) == LeViTConfig.from_dict(plain) == config
        assert plain == before
    for field, value in (("pooling", "token"), ("key_size", 0), ("stages", [[1, 10**9, 1]]), ("activation", "relu"),
                         ("x", 1)):
        with pytest.raises(ConfigError):
            LeViTConfig.from_dict(FAMILY["levit_256"].to_dict() | {field: value})


def test_what_a_field_may_be():
    assert config_of("levit_128s", image_size=np.int64(64), num_classes=np.int32(3)) == config_of(
        "levit_128s", image_size=(64, 64), num_classes=3)
    assert type(config_of("levit_128s", drop_path=np.float32(0.25)).drop_path) is float
    for size in (3.5, None, "64", (64,), (64, 64, 64), (64.0, 64)):
        with pytest.raises(ConfigError) as caught:
            config_of("levit_128s", image_size=size)
        assert str(caught.value) == f"image_size: expected a whole number or (height, width), found {size!a}"
    with pytest.raises(ConfigError, match="bogus"):
        config_of("levit_128s", bogus=1)


@pytest.mark.parametrize("field, value, expected", [
    ("image_size", 32, r"\(height, width\), found 32"), ("image_size", [32, 32], r"\(height, width\), found \[32"),
    ("stem", Convolution(8), "a tuple of Convolution"), ("stem", ((8, 3, 2),), "a tuple of Convolution"),
    ("stem", [Convolution(8)], "a tuple of Convolution"), ("stem", (), "a tuple of Convolution"),
    ("stages", (8,), "a tuple of Stage"), ("stages", None, "a tuple of Stage")])
def test_a_config_made_by_hand_needs_the_right_types(field, value, expected):
    fields = {"name": "own", "stem": (Convolution(8),), "stages": (Stage(8, 1, 1),), "key_size": 4}
    assert LeViTConfig(**fields).resolutions == ((112, 112),)
    with pytest.raises(ConfigError, match=f"config 'own': {field}: expected {expected}"):
        LeViTConfig(**fields | {field: value})


def test_a_config_is_immutable_and_compared_by_value():
    one, same = (config_of("levit_128s", num_classes=3) for _ in "12")
    assert one == same and hash(one) == hash(same)
    with pytest.raises(FrozenInstanceError):
        one.num_classes = 4


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_padding_keeps_one_pixel_per_stride(kernel):
    config = config_of("levit_128s", stem=[[128, kernel, 2]], image_size=(33, 64))
    assert config.resolutions == ((17, 32), (9, 16), (5, 8))


def test_every_convolution_leaves_a_pixel():
    """The padding of the next convolution would create new pixels, but none of them from the image."""
    assert config_of("levit_128s", image_size=16).resolutions == ((1, 1),) * 3
    stem = ((16, 3, 4), (8, 4, 3), (8, 3, 3), (128, 4, 3))
    with pytest.raises(ConfigError, match=r"config 'levit_128s': an image of \(20, 36\) leaves no token"):
        config_of("levit_128s", stem=tuple(Convolution(*c) for c in stem), image_size=(20, 36))


@pytest.mark.parametrize("changes, message", [
    ({"activation": "relu"}, r"expected activation in \('hardswish', 'silu'\), found 'relu'"),
    ({"pooling": "token"}, r"expected a class token .* and one stage, found \('bias', 3\)"),
    ({"stem": (Convolution(64),)}, "expected the stem to end in 128 channels, found 64"),
    ({"num_classes": 0}, "num_classes: expected a whole number from 1 to 65536, found 0"),
    ({"key_size": "16"}, "key_size: expected a whole number from 1 to 65536, found '16'"),
    ({"stem": (Convolution(0), Convolution(128))}, "stem: expected a whole number from 1 to 65536, found 0"),
    ({"stages": (Stage(128, 2, 4), Stage(256, 3, 6))}, "stages: expected a whole number from 1 to 65536, found 0"),
    ({"classes": 10}, "expected fields among name, stem, .*, found 'classes'")])
def test_an_impossible_field_is_named(changes, message):
    with pytest.raises(ConfigError, match=rf"\Aconfig( 'levit_128s')?: {message}\Z"):
        config_of("levit_128s", **changes)


CHANNELS = [[128, 3, 1]] * 15


@pytest.mark.parametrize("name, field, sound, beyond", [
    ("levit_128s", "name", ["x", "é" * 64], ["", "x" * 65, "two\nlines", 3, None]),
    *(("levit_128s", field, [1, 65536], [0, 65537, True, 2.0, None])
      for field in ("key_size", "in_channels", "num_classes", "value_ratio", "shrink_value_ratio", "mlp_ratio")),
    ("levit_128s", "image_size", [(65536, 1)], [(0, 1), (1, 65537), (224,), (224, 224, 3), (224, 224.0), ()]),
    ("levit_128s", "stem", [[*CHANNELS, [128, 3, 2]]], [[[128, 3, 1], *CHANNELS, [128, 3, 2]], [], [[129, 3, 2]],
                                                        [[128, 0, 2]], [[128, 3, 0]]]),
    ("levit_128s", "stages", [[[128, 1000, 4], [256, 24, 6, 1]]], [[[128, 1000, 4], [256, 25, 6, 1]], [],
                                                                   [[128, 2, 4, 0], [256, 3, 6, 0]],
                                                                   [[128, 2, 0]]]),
    ("levit_128s", "drop_path", [0, 0.0, 0.999], [-0.001, 1, 1.0, True, False, "0", math.nan]),
    ("levit_128s", "distillation", [True, False], [0, 1, "yes", None]),
    ("levit_128s", "activation", ["hardswish", "silu"], ["identity"]),
    ("levit_128s", "attention_activation", ["hardswish", "silu", "identity"], ["relu"]),
    ("levit_128s", "normalization", ["batch", "layer"], ["", None]),
    ("levit_128s", "position", ["bias", "embedding"], ["both", []]),
    ("levit_128s", "pooling", ["average"], ["token", "max"]),
    ("deit_tiny", "pooling", ["average", "token"], ["max"]),
    ("deit_tiny", "position", ["embedding"], ["bias"]),
    ("deit_tiny", "stages", [[[192, 1, 3]]], [[[192, 1, 3], [192, 1, 3, 3]]])])
def test_a_field_up_to_its_bound_and_beyond(name, field, sound, beyond):
    data = (FAMILY | ABLATIONS)[name].to_dict()
    for value in sound:
        LeViTConfig.from_dict(data | {field: value})
    for value in beyond:
        with pytest.raises(ConfigError, match=r"\Aconfig[^\n]{10,200}\Z"):
            LeViTConfig.from_dict(data | {field: value})


@pytest.mark.parametrize("data", ["abc", 5, None, [1], [("stem", 1, 2)]])
def test_what_is_no_dictionary_of_fields_is_no_config(data):
    with pytest.raises(ConfigError, match=r"\Aconfig: "):
        LeViTConfig.from_dict(data)


@pytest.mark.parametrize("field", ["name", "stem", "stages", "key_size", "image_size"])
def test_a_field_that_is_missing_is_asked_for(field):
    data = FAMILY["levit_128s"].to_dict()
    with pytest.raises(ConfigError, match=f"config: expected the fields of a network, found .*missing.*{field}"):
        LeViTConfig.from_dict({key: value for key, value in data.items() if key != field})


def test_parts_may_be_plain_numbers():
    plain = config_of("levit_digits", stem=[[32, 3, 2], [64, 3, 2]], stages=((64, 1, 2),))
    assert plain == config_of("levit_digits", stages=(Stage(64, 1, 2),))
    with pytest.raises(ConfigError, match="stem: .*, found 'a'"):
        config_of("levit_digits", stem="abc")
    for wrong in (5, [5], [[1, 2, 3, 4]]):
        with pytest.raises(ConfigError, match=r"stem: expected a list of \(channels, kernel, stride\), found "):
            config_of("levit_digits", stem=wrong)
    with pytest.raises(ConfigError, match=r"stages: expected a list of \(channels, depth, .*\), found 3\Z"):
        config_of("levit_digits", stages=3)


def test_what_the_family_has_beside_its_sizes():
    """Drop path in LeViT-384 alone; a stem of stride 8 where the name says so."""
    assert {name for name, config in FAMILY.items() if config.drop_path} == {"levit_384"}
    assert FAMILY["levit_384"].drop_path == 0.1
    assert {name for name, config in FAMILY.items() if config.resolutions[0] == (28, 28)} == {
        "levit_384_s8", "levit_512_s8"}
    assert all(config.stages[0].shrink_heads == 0 for config in FAMILY.values())
