"""Evaluation's kernels stay within their arrays. Each array is placed beside a protected page, in a child process, so
that the processor checks every access; fenced.py also compares each answer with an unfenced one.

NUMBA_BOUNDSCHECK would check nothing, as the kernels work with addresses."""

import signal
import sys

import pytest

import levit_np
from levit_np.ops.cpu.instruction_set import chosen
from levit_np.ops.cpu.library import library

from ..forked import forked
from .fenced import evaluated

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
# Together they have all kinds of step.
NAMES = "levit_digits", "levit_192", "levit_128s", "levit_128s_a1", "levit_128s_a3", "levit_128s_a5", "levit_128s_a7"
KINDS = {"PRODUCT", "ATTENTION", "PAD", "ROWS", "SUM", "LAYER_NORM", "ADD"}


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Compiled once, before children with a time limit are started."""
    library()


def every_kind(names, half, side):
    found = set()
    for name in names:
        print(name, file=sys.stderr, flush=True)  # the last name printed is the one that crashed
        found |= evaluated(name, half, side)
    plain = not half and chosen().bfloat16 != "tiles"  # otherwise there are no convolutions by minimal filtering
    return found >= KINDS | ({"FILTERING"} if plain else set())


@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("names", [NAMES, pytest.param(levit_np.list_models(), marks=pytest.mark.slow)],
                         ids=("some", "every model"))
def test_nothing_outside_of_an_array_is_accessed(side, precision, names):
    if precision == "bfloat16" and not chosen().bfloat16:
        pytest.skip("no bfloat16 products on this processor")
    assert forked(lambda: every_kind(names, precision == "bfloat16", side), patience=1200) == 0


@pytest.mark.parametrize("side", ["end", "start"])
def test_an_access_outside_crashes(side):
    """With arrays that extend 64 bytes into the protected page, the child crashes."""
    assert forked(lambda: evaluated("levit_digits", False, side, 64)) in (-signal.SIGSEGV, -signal.SIGBUS)
