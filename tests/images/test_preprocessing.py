"""Preprocessing, bit for bit against torchvision's arithmetic, which is written out here with torch and PIL."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levit_np.errors import ImageError
from levit_np.images.preprocessing import Preprocessing, preprocess, preprocessing_named

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = [(333, 500), (500, 333), (224, 224), (225, 1000), (1000, 225), (256, 256), (256, 259), (257, 640),
         (17, 23), (1, 1), (3, 70), (600, 601), (1024, 768)]   # (width, height)


def picture(width, height, mode="RGB"):
    """Noise on a gradient: no two pixels, rows or columns are alike."""
    rng = np.random.default_rng(width * 10007 + height)
    shape = (height, width) if mode == "L" else (height, width, 3)
    ramp = np.linspace(0, 120, width * height).reshape(height, width, *(1,) * (len(shape) - 2))
    return Image.fromarray((ramp + rng.integers(0, 136, shape)).astype(np.uint8))


def torchvision_pipeline(image, resize, crop, mean, std):
    """Resize, CenterCrop, ToTensor, Normalize as torchvision computes them for a PIL image with bicubic
    interpolation."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    if (width, height) != (new_width, new_height):
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = int(round((new_height - crop[0]) / 2.0)), int(round((new_width - crop[1]) / 2.0))
    image = image.crop((left, top, left + crop[1], top + crop[0]))
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(*crop, len(mean))
    tensor = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    return tensor.sub_(mean).div_(std).numpy()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "resize"), [("authors", 256), ("timm", 248)])
def test_bit_equal_to_torchvision(name, resize, size):
    image = picture(*size)
    x = preprocess(image, preprocessing_named(name))
    assert x.dtype == np.float32 and x.shape == (3, 224, 224) and x.flags.c_contiguous
    assert x.tobytes() == torchvision_pipeline(image, resize, (224, 224), MEAN, STD).tobytes()


@pytest.mark.parametrize("crop", [(160, 160), (288, 288), (96, 192), (192, 97)])
def test_other_crops_are_bit_equal_to_torchvision(crop):
    image = picture(301, 250)
    for name, resize in (("authors", int((256 / 224) * max(crop))), ("timm", math.floor(max(crop) / 0.9))):
        x = preprocess(image, preprocessing_named(name, crop))
        assert x.tobytes() == torchvision_pipeline(image, resize, crop, MEAN, STD).tobytes()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_transformers_differs_by_the_rounding_of_the_crop_alone(size):
    from transformers.models.levit.image_processing_pil_levit import LevitImageProcessorPil
    image = picture(*size)
    theirs = LevitImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    long = int(256 * max(size) / min(size))
    if (long - 224) % 4 == 3:   # half the margin ends in .5: they round it down; ours, to even, is up here
        vertical = size[1] > size[0]
        pad = ((0, 0), (1, 0), (0, 0)) if vertical else ((0, 0), (0, 0), (1, 0))
        ours = np.pad(preprocess(image, preprocessing_named("authors")), pad)[:, :224, :224]
        inner = np.s_[:, 1:] if vertical else np.s_[:, :, 1:]
        ours, theirs = ours[inner], theirs[inner]
    else:
        ours = preprocess(image, preprocessing_named("authors"))
    assert np.array_equal(ours, theirs)


def test_the_sizes_have_every_remainder_of_the_margin():
    margins = {(int(256 * max(size) / min(size)) - 224) % 4 for size in SIZES}
    assert margins == {0, 1, 2, 3}


def test_grey_preprocessing_is_bit_equal_to_torchvision():
    image = picture(40, 33, "L")
    x = preprocess(image, preprocessing_named("digits"))
    assert x.shape == (1, 32, 32)
    assert x.tobytes() == torchvision_pipeline(image, 32, (32, 32), [0.5], [0.5]).tobytes()
    x = preprocess(image, Preprocessing("mine", 32, (32, 32), mean=(0.1307,), std=(0.3081,), mode="L"))
    assert x.tobytes() == torchvision_pipeline(image, 32, (32, 32), [0.1307], [0.3081]).tobytes()
    x = preprocess(image, preprocessing_named("timm", channels=1))
    mean, std = sum(MEAN) / 3, sum(STD) / 3
    assert x.tobytes() == torchvision_pipeline(image, 248, (224, 224), [mean], [std]).tobytes()


def test_normalised_values_are_those_of_exact_arithmetic():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = preprocess(values, Preprocessing("quarter", 16, (16, 16), (0.25,), (0.5,), "L"))
    exact = [float((Fraction(v, 255) - Fraction(1, 4)) * 2) for v in range(256)]
    np.testing.assert_allclose(x.ravel(), exact, rtol=0, atol=2.0**-23)   # v / 255 <= 1 is rounded, then doubled


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 300),
       st.sampled_from(["RGB", "L", "RGBA", "LA", "1", "CMYK", "I;16"]),
       st.sampled_from([("authors", (64, 64)), ("timm", (48, 80)), ("digits", (32, 32))]),
       st.sampled_from([1, 3]))
def test_any_image_gives_a_finite_float32_input(width, height, mode, name_and_crop, channels):
    image = Image.new(mode, (width, height))
    image.frombytes(np.random.default_rng(width + height).bytes(len(image.tobytes())))
    x = preprocess(image, preprocessing_named(*name_and_crop, channels))
    assert x.dtype == np.float32 and x.shape == (channels, *name_and_crop[1])
    assert np.isfinite(x).all() and x.flags.c_contiguous and x.flags.writeable


@pytest.mark.parametrize("size", [(256, 300), (256, 256), (302, 256)])   # nothing to resize, even margins
def test_a_flipped_image_gives_the_flipped_input(size):
    image = picture(*size)
    x = preprocess(image, preprocessing_named("authors"))
    for method, axis in ((Image.Transpose.FLIP_LEFT_RIGHT, 2), (Image.Transpose.FLIP_TOP_BOTTOM, 1)):
        assert np.array_equal(preprocess(image.transpose(method), preprocessing_named("authors")), np.flip(x, axis))


@pytest.mark.parametrize("size", [(1, 10000), (10000, 1)])
def test_too_elongated_images_are_refused_before_they_are_resized(size):
    with pytest.raises(ImageError, match=f"^PIL image: expected at most 50 megapixels once resized, "
                                         f"found {size[0]} x {size[1]} resized to 256 x 2560000$"):
        preprocess(Image.new("L", size), preprocessing_named("authors"))


# -- preprocessing as data

def test_the_named_preprocessings():
    rest = (224, 224), tuple(MEAN), tuple(STD), "RGB", "bicubic"
    assert preprocessing_named("authors") == Preprocessing("authors", 256, *rest)
    assert preprocessing_named("timm") == Preprocessing("timm", 248, *rest)
    assert preprocessing_named("digits") == Preprocessing("digits", 32, (32, 32), (0.5,), (0.5,), "L", "bicubic")
    assert [preprocessing_named("authors", (s, s)).resize for s in (160, 192, 288, 384)] == [182, 219, 329, 438]
    assert [preprocessing_named("timm", (s, s)).resize for s in (160, 192, 288, 384)] == [177, 213, 320, 426]
    assert preprocessing_named("authors", (128, 224)).resize == preprocessing_named("authors", (224, 128)).resize == 256


@pytest.mark.parametrize("arguments", [
    ("resnet",), (None,), ("authors", (0, 224)), ("authors", (224, 5000)), ("timm", (4000, 4000)),
    ("timm", 224), ("timm", (224,)), ("timm", (224.0, 224.0)),
    ("timm", (224, 224), 2), ("timm", (224, 224), "3"),
])
def test_unknown_preprocessings_are_refused(arguments):
    with pytest.raises(ImageError, match="^preprocessing: "):
        preprocessing_named(*arguments)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 4096), st.integers(1, 4096), st.sampled_from(["RGB", "L"]), st.data())
def test_preprocessings_survive_json(height, width, mode, data):
    channels = 3 if mode == "RGB" else 1
    mean = data.draw(st.tuples(*[st.floats(-255, 255)] * channels))
    std = data.draw(st.tuples(*[st.floats(1e-4, 1e4)] * channels))
    resize = data.draw(st.integers(max(height, width), 4096))
    original = Preprocessing("a name", resize, (height, width), mean, std, mode)
    assert Preprocessing.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_numpy_numbers_become_python_numbers():
    made = Preprocessing("m", np.int64(40), [np.int32(32), 32], [np.float32(0.5)], [np.float64(0.25)], "L")
    assert json.loads(json.dumps(made.to_dict()))["mean"] == [0.5]
    assert type(made.resize) is int and type(made.crop[0]) is int and type(made.mean[0]) is float
    assert made.to_dict()["crop"] == [32, 32] and type(made.to_dict()["std"]) is list


def test_a_preprocessing_is_immutable_and_compared_by_value():
    one, same = (preprocessing_named("timm", (96, 64)) for _ in "12")
    assert one == same and hash(one) == hash(same)
    with pytest.raises(FrozenInstanceError):
        one.resize = 1
    assert replace(one, name="x" * 64).name == "x" * 64


@pytest.mark.parametrize(("field", "value", "message"), [
    ("name", "", "name: expected 1 to 64 printable characters, found ''"),
    ("name", "a\nb", "name"), ("name", "x" * 65, "name"), ("name", 3, "name"),
    ("resize", 223, "resize: expected 1 whole number from 224 to 4096"),
    ("resize", 4097, "resize"), ("resize", 256.0, "resize"), ("resize", True, "resize"),
    ("resize", None, "resize"), ("resize", 10**400, "resize"), ("resize", "256", "resize"),
    ("crop", [224], "crop: expected 2 whole numbers from 1 to 4096, found \\[224\\]"),
    ("crop", [0, 224], "crop"), ("crop", [224, -1], "crop"), ("crop", "ab", "crop"),
    ("crop", [224, 4097], "crop"), ("crop", 224, "crop"), ("crop", [[224], [224]], "crop"),
    ("crop", [True, True], "crop"), ("crop", [224] * 9999, "crop"),
    ("mean", [0.5], "mean: expected 3 numbers from -255 to 255"), ("mean", [10**400] * 3, "mean"),
    ("mean", [0.5, 0.5, math.nan], "mean"), ("mean", [0.5, 0.5, math.inf], "mean"),
    ("mean", [0.5, 0.5, "0.5"], "mean"), ("mean", [0.5, 0.5, 1j], "mean"), ("mean", 0.5, "mean"),
    ("std", [0.2, 0.2, 0], "std: expected 3 numbers from 0.0001 to 10000"), ("std", [0.2, 0.2, -0.2], "std"),
    ("std", [0.2, 0.2, math.nan], "std"), ("std", [0.2, 0.2, 1e-9], "std"),
    ("std", [0.2, 0.2, math.inf], "std"),
    ("mode", "RGBA", "mode: expected 'RGB' or 'L', found 'RGBA'"), ("mode", None, "mode"),
    ("mode", ["RGB"], "mode"), ("mode", "L", "mean: expected 1 number"),
    ("interpolation", "bilinear", "interpolation: expected 'bicubic', found 'bilinear'"),
    ("interpolation", 3, "interpolation"),
], ids=lambda value: str(value)[:20])
def test_damaged_preprocessings_are_refused(field, value, message):
    values = preprocessing_named("authors").to_dict()
    assert Preprocessing.from_dict(values) == preprocessing_named("authors")
    values[field] = value
    with pytest.raises(ImageError, match=f"^preprocessing: {message}") as caught:
        Preprocessing.from_dict(values)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


@pytest.mark.parametrize("values", [
    {}, [], None, "recipe", {1: 2}, preprocessing_named("timm").to_dict() | {"more": 1}])
def test_preprocessings_with_other_fields_are_refused(values):
    with pytest.raises(ImageError, match="^preprocessing: expected the fields"):
        Preprocessing.from_dict(values)
