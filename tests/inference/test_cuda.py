"""The GPU's evaluation, on the emulated device: its error against the float64 network, and that an answer depends on
nothing but the image.  test_cuda_executor.py has how it is carried out."""

import numpy as np
import pytest

import levit_np
from levit_np.config import Convolution, LeViTConfig, Stage
from levit_np.images.preprocessing import Preprocessing
from levit_np.inference import cuda_lowering
from levit_np.inference.cuda import CudaExecutor
from levit_np.inference.reference import ReferenceExecutor
from levit_np.model import build
from levit_np.ops.cuda import operands
from levit_np.ops.cuda.device import launch
from levit_np.ops.cuda.geometry import SMALL as SMALL_TILE
from levit_np.ops.cuda.kernel import Kernel

from ..any_network import any_config
from ..distance import worst
from ..ops.cuda.conftest import compiled, emulators, one  # noqa: F401  (fixtures)
from ..random_model import random_images, random_model, random_state
from .test_plan import SMALL

pytestmark = pytest.mark.usefixtures("one")
# The error allowed, relative to the largest logit, where about forty layers round to the type.
ERROR = {"float32": 5e-5, "float16": 5e-3, "bfloat16": 4e-2}
NETWORKS = {"levit_digits": {}, "levit_128s": {"image_size": 64, "num_classes": 10}}
ODD = {  # padded channels, heads and sizes; SiLU, LayerNorm, embeddings, a class token, a patch convolution
    "levit_128s_a1": SMALL, "levit_128s_a2": SMALL, "levit_128s_a3": SMALL, "levit_128s_a5": SMALL,
    "levit_128s_a6": SMALL, "levit_128s_a7": SMALL, "levit_256d": SMALL, "deit_tiny": SMALL}


def exact(model, x):
    return ReferenceExecutor(model)(x.astype(np.float64))


@pytest.mark.parametrize("name, precision", [
    pytest.param(name, precision, marks=pytest.mark.slow if name == "levit_128s" and precision != "float16" else ())
    for name in NETWORKS for precision in ERROR])
def test_every_precision(name, precision):
    model = random_model(name, backend="reference", **NETWORKS[name])
    x = random_images(model, 3)
    logits = CudaExecutor(model, precision)(x)
    assert logits.dtype == np.float32 and type(logits) is np.ndarray
    assert worst(logits, exact(model, x)) < ERROR[precision]


@pytest.mark.parametrize("name", [n if n in ("levit_128s_a1", "levit_128s_a5") else
                                  pytest.param(n, marks=pytest.mark.slow) for n in ODD])
def test_every_kind_of_step(name):
    model = random_model(name, backend="reference", **ODD[name])
    x = random_images(model, 2)
    assert worst(CudaExecutor(model, "float16")(x), exact(model, x)) < ERROR["float16"]


def test_a_class_token():
    """The pixels' tokens follow it, and the head reads it alone; attention has no activation."""
    model = random_model(image_size=16, position="embedding", pooling="token", attention_activation="identity",
                         stem=(Convolution(36, 3, 4),), stages=(Stage(36, 1, 3),), backend="reference")
    x = random_images(model, 3)
    assert worst(CudaExecutor(model, "float16")(x), exact(model, x)) < ERROR["float16"]


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 200))])
def test_any_network(seed):
    precision = [*ERROR][seed % 3]
    model = build(any_config(seed, 60))
    model.set_state(random_state(model.specs_by_name(), seed, np.float32))
    x = random_images(model, 3)
    # With few channels, or one, nearly everything may cancel: a single class, for example, with three logits below
    # 0.01.
    expected = exact(model, x)
    difference = np.abs(CudaExecutor(model, precision)(x) - expected).max()
    assert difference / max(np.abs(expected).max(), 0.05) < 3 * ERROR[precision]


FEW = {"stages": (Stage(64, 1, 2), Stage(80, 1, 2, 3))}  # levit_digits with one block where it has several
SQUARES = {}  # two convolutions of stride 2: images are read in blocks of 2×2 pixels
PATCHES = {"stem": (Convolution(64, 8, 8),)}  # images are read pixel by pixel, as with a first convolution of stride 1
KEEPING = {"stem": (Convolution(16, 3, 1), Convolution(64, 4, 4))}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("size, channels, changes", [
    ((32, 32), 3, SQUARES), ((33, 31), 3, SQUARES), ((30, 37), 1, SQUARES), ((33, 33), 5, SQUARES),
    ((33, 31), 3, PATCHES), ((18, 17), 3, KEEPING)])
def test_every_pixel_of_every_size(size, channels, changes, precision):
    """From floats and from bytes, up to the edges: a large shift would show if the padding were normalised too. What
    follows the stem is one block of each kind."""
    model = random_model(image_size=size, in_channels=channels, backend="reference", **FEW | changes)
    mean, std = np.linspace(0.7, 0.2, channels), np.linspace(0.2, 0.3, channels)
    values = np.random.default_rng(0).integers(0, 256, (2, *size, channels), np.uint8)
    x = ((values / 255 - mean) / std).transpose(0, 3, 1, 2)
    executor, expected = CudaExecutor(model, precision), exact(model, x)
    assert worst(executor(x.astype(np.float32)), expected) < ERROR[precision]
    assert worst(executor(values, mean, std), expected) < ERROR[precision]


@pytest.fixture
def model():
    """The smallest network that has every kind of step; the following tests do not depend on its values."""
    return random_model(backend="reference", image_size=16, **FEW)


def test_images_of_a_batch_do_not_affect_each_other(model):
    """To the last bit: an answer depends neither on how a batch is split nor on earlier batches. (In much larger
    batches other tiles are used, which sum in another order; then answers agree to rounding.)"""
    x, executor = random_images(model, 7), CudaExecutor(model, "float16", most=3)
    logits = executor(x)
    for size in (1, 2, 7):
        np.testing.assert_array_equal(np.concatenate([executor(x[i : i + size]) for i in range(0, 7, size)]), logits)
    assert executor(x[:0]).shape == (0, 10)
    np.testing.assert_array_equal(CudaExecutor(model, "float16")(x), logits)


def test_every_copy_of_an_image_has_the_same_logits(one):  # noqa: F811
    """To the last bit, repeatedly: a race would spoil different copies at different times."""
    on_gpu = hasattr(one.current().arrays, "cuda")
    model = random_model("levit_256" if on_gpu else "levit_digits", backend="reference")
    copies, executor = 256 if on_gpu else 3, CudaExecutor(model, "float16")
    x = np.tile(random_images(model, 2), (copies, 1, 1, 1)).astype(np.float32)
    expected = np.tile(executor(x)[:2], (copies, 1))
    for _ in range(20 if on_gpu else 1):
        np.testing.assert_array_equal(executor(x), expected)


def test_tf32_by_choice(model):
    """In TF32 numbers have ten bits of mantissa, as in float16. Each kernel with products is compiled for it, and one
    is run; other types have no such option."""
    executor = CudaExecutor(model, tf32=True)
    kernels = {call.kernel for call in executor._program(2, False).calls}
    assert executor.tf32 and {("TF32", 1) in k.defines for k in kernels if k.source != "reduction"} == {True}
    assert not CudaExecutor(model, "float16", tf32=True).tf32 and len({kernel.source for kernel in kernels}) > 3
    x, w = (np.random.default_rng(i).standard_normal((16, 64)).astype(np.float32) for i in (0, 1))
    for tf32, least, most in (((), 0, 5e-6), ((("TF32", 1),), 1e-5, 2e-3)):
        y = operands.zeros((16, 16), np.float32)
        launch(Kernel("linear", "linear", "float", (*SMALL_TILE.defines, *tf32)), (1, 1), (SMALL_TILE.threads,),
               (operands.asarray(x), operands.asarray(w), None, None, y, 16, 16, 64, 16, 0), SMALL_TILE.shared)
        assert least <= worst(operands.to_host(y), x.astype(np.float64) @ w.T.astype(np.float64)) < most


def test_the_two_heads_apart(model):
    x = random_images(model, 2)
    apart = CudaExecutor(model, "float32", apart=True)(x)
    np.testing.assert_allclose((apart[:, :10] + apart[:, 10:]) / 2, CudaExecutor(model)(x), rtol=1e-4, atol=1e-5)


def test_tf32_rounds_the_products_of_float32_alone(model):
    """TF32 has 10 bits of mantissa; tensor cores drop the others."""
    x = random_images(model, 2)
    expected = exact(model, x)
    executor = CudaExecutor(model, "float32", tf32=True)
    assert executor.tf32 and 10 * ERROR["float32"] < worst(executor(x), expected) < ERROR["bfloat16"]
    assert not CudaExecutor(model, "float16", tf32=True).tf32


def test_a_nan_stays_in_its_image(model):
    executor, x = CudaExecutor(model, "float16"), random_images(model, 3)
    clean = executor(x)
    x[1, 0, 7, 7] = np.nan
    spoilt = executor(x)
    assert np.isnan(spoilt[1]).all() and np.array_equal(spoilt[[0, 2]], clean[[0, 2]])


def test_a_nan_does_not_stay_in_padding():
    """The normalized tokens of two stages share memory, and one stage's padding is where the other has numbers."""
    stages, key = (Stage(12, 1, 2), Stage(17, 1, 2, 2)), {"key_size": 4, "normalization": "layer"}
    model = build(LeViTConfig("odd", (Convolution(12, 4, 4),), stages, image_size=(12, 12), in_channels=1,
                              num_classes=5, **key))
    model.set_state(random_state(model.specs_by_name(), 0, np.float32))
    executor, x = CudaExecutor(model, "float16"), random_images(model, 3)
    clean = executor(x)
    for place in (0, 2):
        spoilt = x.copy()
        spoilt[place] = np.nan
        found, others = executor(spoilt), [n for n in range(3) if n != place]
        assert np.isnan(found[place]).all() and np.array_equal(found[others], clean[others])
        np.testing.assert_array_equal(executor(x), clean)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_normalised_on_the_gpu(channels, monkeypatch):
    """With the model's current mean and deviation, and not on the host."""
    model = random_model(in_channels=channels, backend="cuda", dtype="float32", image_size=16, **FEW)
    values = np.random.default_rng(0).integers(0, 256, (3, 16, 16, channels), np.uint8)
    monkeypatch.setattr(levit_np.classifier, "normalise", None)
    for mean, std in (((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), ((0.1, 0.9, 0.2), (0.5, 0.6, 0.7))):
        mean, std = mean[:channels], std[:channels]
        model.preprocessing = Preprocessing("mine", 16, (16, 16), mean, std, "RGB" if channels == 3 else "L")
        x = ((values / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
        expected = model(x)
        assert worst(model(values), expected) < 1e-5
        assert worst(model.ops.to_host(model(model.ops.asarray(values))), expected) < 1e-5


def test_weights_are_rounded_to_the_nearest():
    """Cut off, their errors would all point towards 0, and be twice as large."""
    values = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    for name in ("float16", "bfloat16"):
        kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)
        np.testing.assert_array_equal(cuda_lowering.rounded(values, name), values.astype(kind).view(np.uint16))


def test_results_are_of_the_kind_of_array_that_was_given():
    """For NumPy arrays NumPy arrays, though the GPU computes, and for the GPU's arrays the GPU's; with the same
    numbers."""
    model = random_model(backend="cuda", dtype="float32", image_size=16, **FEW)
    x = random_images(model.to("reference"), 2)
    upstream = [np.random.default_rng(i).standard_normal((2, 10)).astype(np.float32) for i in (0, 1)]
    found = []
    for given in (np.asarray, model.ops.asarray):
        outputs, saved = model.forward(given(x), training="frozen")
        found.append([model(given(x)), *model.heads(given(x)), *outputs, model.forward(given(x))[0],
                      model.backward([given(dy) for dy in upstream], saved), *model.features(given(x)).values(),
                      *model.attention_maps(given(x)).values()])
        assert {type(array) for array in found[-1]} == {type(given(x))}
    for one_kind, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one_kind, model.ops.to_host(other))


def test_a_classifier_computes_on_the_gpu():
    model = random_model(backend="cuda", dtype="float32")
    x = random_images(model.to("reference"), 2)
    expected = exact(model.to("reference"), x)
    assert worst(model(x), expected) < ERROR["float32"]
    assert worst(model.ops.to_host(model.forward(x)[0]), expected) < 2e-5  # the layers, one by one
    model.precision = "bfloat16"
    model.written()
    assert 1e-5 < worst(model(x), expected) < ERROR["bfloat16"]
    model.head.bias = model.head.bias + 1  # the change is seen
    assert np.abs(model(x) - expected).max() > 0.3
    pytest.importorskip("PIL")
    assert model.predict(np.zeros((32, 32), np.uint8))[0][0]
