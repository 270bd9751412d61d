"""How work is divided: every element of a result is computed by exactly one block, and no block needs more than a GPU
has."""

import numpy as np
import pytest

from levit_np.config import FAMILY
from levit_np.ops.cuda.kernel import FOLDER
from levit_np.ops.cuda.geometry import (
    BROAD, COLUMN_THREADS, FLAT, MOST_TERMS, PROCESSORS, SHARED_OF_HOPPER, SIZES, SMALL, TILES, WARPGROUP_TILES, WIDE,
    attention_for, ceil_div, columns_for, cut_for, head_size, heads_for, images_for, parts_for, tile_for, tiles_of,
    tokens_held)

from ...random_model import FIVE

SHARED_OF_A_BLOCK = 99 << 10  # the limit of compute capability 8.6, the lowest from 8.0 on


def test_tiles_fit():
    for tile in (*TILES, *WARPGROUP_TILES, FLAT):
        assert tile.rows % (16 * tile.down) == 0 == tile.columns % (16 * tile.across)
        assert tile.threads <= 256 and tile.shared <= SHARED_OF_A_BLOCK
        if "SPLIT" in tile.features:  # the sums of four warps go through the stages' memory
            assert tile.shared >= 4 * tile.rows * tile.columns * 4


def test_a_large_product_gets_wide_tiles_and_a_small_one_many_blocks():
    tiles = tiles_of("float16", False)
    assert tile_for(1024 * 196, 512, tiles) == WIDE
    assert tile_for(16, 512, tiles) == SMALL
    narrow = tile_for(1024 * 56 * 56, 32, tiles)
    assert narrow.columns == 32  # no result is computed in vain
    rows, columns = 196, 512
    tile = tile_for(rows, columns, tiles)
    assert ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns) > PROCESSORS / 2


@pytest.mark.parametrize("hopper", [False, True])
@pytest.mark.parametrize("element", SIZES)
@pytest.mark.parametrize("rows, columns, terms",
                         [(512, 256, 200704), (7, 3, 5), (1000, 384, 256), (64, 288, 3136), (1, 1, 1)])
def test_parts_cover_all_terms(rows, columns, terms, element, hopper):
    _, parts, length = parts_for(rows, columns, terms, element, hopper)
    assert (parts - 1) * length < terms <= parts * length
    assert length % (128 // SIZES[element]) == 0  # a step of one part never reads another part's terms


@pytest.mark.parametrize("hopper", [False, True])
@pytest.mark.parametrize("element", SIZES)
def test_no_part_has_more_pixels_than_floats_can_distinguish(element, hopper):
    """For a wide convolution with so many blocks that nothing else would divide its sums: 2048 images of 64²."""
    _, parts, length = parts_for(1024, 9 * 1024, 2048 * 64 * 64, element, hopper)
    assert (parts - 1) * length < 2048 * 64 * 64 <= parts * length and length <= MOST_TERMS


@pytest.mark.parametrize("width", [1, 3, 7, 63, 112, 255, 511, 4095])
@pytest.mark.parametrize("ulps", [-2, 2])
def test_quotients_of_floats(width, ulps):
    """As convolution.cu computes them, with a reciprocal as inexact as __fdividef's may be, at the numbers nearest to
    the next and to the previous quotient."""
    reciprocal = np.float32(1) / np.float32(width)
    reciprocal += ulps * np.spacing(reciprocal)
    multiples = np.arange(0, MOST_TERMS + 2 * width, width)
    for n in (multiples, multiples + width - 1):
        found = ((n.astype(np.float32) + np.float32(0.5)) * reciprocal).astype(np.int64)
        np.testing.assert_array_equal(found, n // width)


@pytest.mark.parametrize("rows, columns, tile",
                         [(512, 256, BROAD), (1024, 512, BROAD), (64, 288, FLAT), (32, 72, FLAT)])
def test_gradients_on_hopper_get_large_tiles_and_as_many_blocks_as_can_run(rows, columns, tile):
    found, parts, _ = parts_for(rows, columns, 50176, "float16", True)
    blocks = parts * ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns)
    assert found == tile and PROCESSORS / 2 < blocks <= 2 * PROCESSORS
    assert parts_for(rows, columns, 50176, "float", True)[0] == parts_for(rows, columns, 50176, "float16", False)[0]


@pytest.mark.parametrize("rows, columns, terms, resident", [
    (200704, 512, 256, True), (200704, 1280, 256, True), (12544, 768, 384, True), (200704, 130, 8, True),
    (50176, 1024, 512, False), (4096, 1024, 256, False)])
def test_many_rows_of_few_terms_are_resident(rows, columns, terms, resident):
    """Every tile belongs to a block, and there are no more blocks than can run at the same time."""
    cut = cut_for(BROAD, rows, columns, terms, "float16")
    assert cut.resident == resident and not cut_for(BROAD, rows, columns, terms, "float16", residual=True).resident
    if resident:
        assert cut.shared <= SHARED_OF_HOPPER and cut.tile.threads == 512 and ceil_div(terms, 64) <= 16
        assert cut.grid[0] * cut.grid[1] <= PROCESSORS and cut.grid[0] <= ceil_div(rows, cut.tile.rows)
        assert (cut.grid[1] - 1) * cut.across < ceil_div(columns, cut.tile.columns) <= cut.grid[1] * cut.across


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("images", [1, 64, 1024])
@pytest.mark.parametrize("element", SIZES)
def test_attention_of_the_five_models(name, images, element):
    config = FAMILY[name]
    tokens = [h * w for h, w in config.resolutions]
    layers = [(n, n, s.heads, config.value_ratio) for n, s in zip(tokens, config.stages)]
    layers += [(b, a, s.shrink_heads, config.shrink_value_ratio)
               for a, b, s in zip(tokens, tokens[1:], config.stages[1:])]
    for queries, keys, heads, ratio in layers:
        size = (head_size(config.key_size) + head_size(config.key_size * ratio)) * SIZES[element]
        for rows, columns in ((queries, keys), (keys, queries)):
            shape = heads_for(rows, columns, images * heads, size)
            warps, together = shape.block[0] // 32, shape.block[1]
            assert shape.grid[1] * warps * 16 >= rows and shape.grid[0] * together >= images * heads
            assert warps * together <= 8 and shape.shared <= SHARED_OF_A_BLOCK
            assert (shape.grid[1] - 1) * warps * 16 < rows  # no block without rows
        tiles = ceil_div(queries, 16) * ceil_div(keys, 16)
        parts, count = images_for(heads * tiles * 256 * SIZES[element] // 16, images)
        assert parts * count >= images > (parts - 1) * count and count >= min(8, images)


@pytest.mark.parametrize("element", SIZES)
@pytest.mark.parametrize("name", FAMILY)
def test_attention_fits_into_every_gpu(name, element):
    """Also timm's wide models, whose shrinking attention has 320 floats per token."""
    config = FAMILY[name]
    for ratio in (config.value_ratio, config.shrink_value_ratio):
        size = (head_size(config.key_size) + head_size(config.key_size * ratio)) * SIZES[element]
        for tokens in (16, 49, 196, 784):
            assert heads_for(tokens, tokens, 1000, size).shared <= SHARED_OF_A_BLOCK


@pytest.mark.parametrize("token_bytes, held", [(64, 256), (640, 128), (791, 128), (800, 112), (1280, 64), (6336, 16),
                                               (6400, 16)])
def test_tokens_in_shared_memory(token_bytes, held):
    """Whole tiles; where two do not fit, a multiple of sixteen; and always at least sixteen."""
    assert tokens_held(token_bytes) == held
    assert heads_for(16, 1000, 1, token_bytes).shared == held * token_bytes
    assert heads_for(16, 17, 1, token_bytes).shared == min(held, 32) * token_bytes


@pytest.mark.parametrize("element", SIZES)
def test_attention_with_several_pairs_per_block(element):
    """For LeViT-256's first stage with many images on Hopper; with one image the rows of a pair are divided among
    blocks."""
    for images, hopper, many in ((256, True, element != "float"), (256, False, False), (1, True, False)):
        name, shape = attention_for(196, 196, 4 * images, 32, 64, element, hopper)
        assert name == ("attention_pairs" if many else "attention")
        assert shape.shared <= (SHARED_OF_HOPPER if many else SHARED_OF_A_BLOCK)
        assert shape.grid[0] == (PROCESSORS if many else 4 * images)


def test_attention_with_one_pair_per_block():
    assert attention_for(196, 196, 1000, 64, 64, "float16", True)[0] == "attention"
    assert attention_for(196, 49, 1000, 32, 128, "float16", True)[0] == "attention"
    assert attention_for(196, 784, 1000, 32, 64, "float16", True)[0] == "attention"  # too many keys
    for few in 1, 4, 6, 7:  # so few tiles of rows that a barrier could be two rounds behind
        assert attention_for(16 * few, 196, 1000, 32, 64, "float16", True)[0] == "attention"


def test_head_sizes():
    assert [head_size(n) for n in (1, 16, 17, 19, 32, 38, 64, 256)] == [16, 16, 32, 32, 32, 64, 64, 256]


@pytest.mark.parametrize("rows, channels", [(1, 1), (7, 5), (200704, 512), (3211264, 32), (16, 768), (1024, 1000),
                                            (401408, 384), (50, 24)])
@pytest.mark.parametrize("chunk", [4, 8])
def test_columns_cover_all_rows(rows, channels, chunk):
    shape = columns_for(rows, channels, chunk)
    lanes, down = shape.block
    assert channels % shape.vector == 0 and shape.grid[0] * lanes * shape.vector >= channels
    assert (shape.parts - 1) * shape.length < rows <= shape.parts * shape.length and shape.length % down == 0
    assert lanes * down == COLUMN_THREADS and 32 % lanes == 0 and shape.parts < 65536


@pytest.mark.parametrize("channels, lanes", [(32, 4), (64, 8), (128, 16), (256, 32), (384, 16), (1920, 16)])
def test_every_thread_has_a_channel(channels, lanes):
    """LeViT-256's, in float16. (32 lanes would leave seven of eight threads idle in the first BN.)"""
    shape = columns_for(200704, channels, 8)
    assert shape.block[0] == lanes and shape.grid[0] * lanes * 8 == channels


def test_the_constants_are_the_sources():
    """The lines of CUDA C++ whose constants Python repeats."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.cu*")))
    for line in ("constexpr int WARP = 32, CHUNK_BYTES = 16;", "#define K_BYTES 128", "constexpr int TILE = 64;",
                 "constexpr int OFFSETS = 8;", "constexpr int THREADS = 256, WARPS",
                 "enum Activation { IDENTITY, HARDSWISH, SILU };"):
        assert line in text
