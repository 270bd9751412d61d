"""The program (the table of kernel steps) for every instruction set. It can be made on any processor."""

import ctypes
from collections import Counter

import numpy as np
import pytest

from levit_np.config import Convolution, Stage
from levit_np.inference import cpu, plan, program
from levit_np.inference.lowering import Lowering
from levit_np.inference.packing import nested, to_bfloat16
from levit_np.inference.program import GROUP, Program
from levit_np.ops.cpu.instruction_set import SETS
from levit_np.ops.cpu.step import PARTS, Kind, Product

from ..random_model import random_model

WAYS = [(name, half) for name, one in SETS.items() for half in (False, True)[: 1 + bool(one.bfloat16)]]


def lowered(model, name, half=False):
    return Lowering(plan.steps_of(model, pooled_early=True), model.config, SETS[name], half)


def program_of(model, batch, name, half=False):
    return Program(lowered(model, name, half).sections, batch, SETS[name].width, SETS[name].rows, cpu.GROUP_ROWS)


@pytest.mark.parametrize("name, half", WAYS)
def test_what_is_bfloat16(name, half):
    """How many numbers represent each factor of a product, and how two weights share 32 bits."""
    made = lowered(random_model(), name, half)
    assert (made.parts, made.pairs) == {
        ("tiles", True): (1, to_bfloat16), ("tiles", False): (PARTS, None), ("dot", True): (1, to_bfloat16),
        ("widened", True): (0, nested)}.get((SETS[name].bfloat16, half), (0, None))


@pytest.mark.parametrize("segments, length, longest, grain", [
    ((0,), 288, 144, 1), ((0, 400, 800), 96, 144, 1), ((0,), 4336, 288, 2), ((0, 5000), 1056, 144, 1), ((8,), 7, 3, 1)])
def test_a_long_sum_is_cut_into_even_parts(segments, length, longest, grain):
    """In order and in whole grains: for example, the sixteenth part of 4336 is odd, and so no whole number of pairs."""
    starts, part, groups = program._groups(segments, length, longest, 4, grain)
    assert groups == len(starts) and part <= longest and part % grain == 0
    places, cut = (np.add.outer(at, 4 * np.arange(count)).ravel() for at, count in ((segments, length), (starts, part)))
    assert np.array_equal(places, cut)


def test_a_sum_that_is_not_too_long_stays_one():
    assert program._groups((0, 400), 72, 144, 4, 1) == ((0, 400), 72, 1)


@pytest.mark.parametrize("name, half", WAYS)
def test_long_products_are_computed_in_parts_that_fit_the_cache(name, half):
    """Sums that stay in registers are short enough for little rounding and for their panel to fit into the L1 cache;
    together they make up the whole panel. With 13008 terms a tile's rows alone exceed the limit for one pass; a 48th of
    them is an odd number."""
    model = random_model(image_size=16, mlp_ratio=813, stem=(Convolution(24, 3, 4), Convolution(16, 3, 2)),
                         stages=(Stage(16, 2, 1),))
    made, width = program_of(model, 2, name, half), SETS[name].width
    products = [n for n, step in enumerate(made.table) if step[0] == Kind.PRODUCT]
    assert len(products) > 8
    for n in products:
        step = made.table[n].tolist()
        groups, count, length, parts = (step[column] for column in (Product.GROUPS, Product.COUNT, Product.LENGTH,
                                                                    Product.PARTS))
        row = 4 * width * (2 if parts == PARTS else 1)  # bytes of the panel for one word of a
        assert groups * count * length * row == step[Product.B_PANEL] and step[Product.BLOCK] > 0
        pairs = step[Product.PAIRS]
        # bfloat16 rounds the numbers themselves more than a long sum does.
        assert parts == 1 or count * length * (1 + (pairs or parts == PARTS)) <= GROUP * (1 + pairs)
        assert parts != PARTS or length % 16 == 0  # whole rows of AMX's registers
        if "convolution" not in made.names[n]:  # the terms are adjacent in memory
            offsets = (ctypes.c_int64 * (groups * count)).from_address(step[Product.SEGMENTS])
            word = 8 if pairs and not parts else 4
            assert list(offsets) == [word * length * i for i in range(groups * count)]


def test_images_are_processed_together_in_late_stages():
    """In a stage with few tokens. The maps of the stem and of stages with many tokens are larger than the caches."""
    model = random_model("levit_128s", image_size=112, num_classes=10)
    names = Counter(program_of(model, 16, "avx2").names)
    tokens = [height * width for height, width in model.config.resolutions]
    assert tokens == [49, 16, 4] and cpu.GROUP_ROWS // 49 == 8
    assert [names[name] for name in ("stem.convolutions.3", "stages.0.blocks.0.mlp.up", "stages.1.blocks.0.mlp.up")
            ] == [16, 2, 1]


@pytest.mark.parametrize("name", [name for name, half in WAYS if half])
def test_the_head_is_multiplied_in_float32(name):
    """Also the layer that makes its single token: they cost little, and no later layer averages their rounding."""
    made = program_of(random_model(image_size=16, stages=(Stage(64, 1, 2),)), 2, name, half=True)
    exact = {"stages.0.blocks.0.mlp.down", "head"}
    for step, step_name in zip(made.table, made.names):
        if step[0] == Kind.PRODUCT and step_name in exact:
            assert step[Product.PARTS] == step[Product.PAIRS] == 0, step_name
    assert exact <= set(made.names)
