"""Evaluation's kernels stay within their arrays: each lies against a page that must not be touched, in a child process.

Addresses are all that the kernels know, so NUMBA_BOUNDSCHECK has nothing to check in them; here the processor does, for
what the compiled code itself reads and writes.  fenced.py also compares each answer with an unfenced one.
"""

import signal
import sys

import pytest

import levit_np
from levit_np.ops.cpu.instruction_set import chosen
from levit_np.ops.cpu.library import library

from ..forked import forked
from .fenced import evaluated

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
# All kinds of step.
NAMES = "levit_digits", "levit_192", "levit_128s", "levit_128s_a1", "levit_128s_a3", "levit_128s_a5", "levit_128s_a7"
KINDS = {"PRODUCT", "ATTENTION", "PAD", "ROWS", "SUM", "LAYER_NORM", "ADD"}


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Once, before there are children with a limit of time."""
    library()


def every_kind(names, half, side):
    found = set()
    for name in names:
        print(name, file=sys.stderr, flush=True)  # the last one is the one that a crash is about
        found |= evaluated(name, half, side)
    plain = not half and chosen().bfloat16 != "tiles"  # else there are no convolutions by minimal filtering
    return found >= KINDS | ({"FILTERING"} if plain else set())


@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("names", [NAMES, pytest.param(levit_np.list_models(), marks=pytest.mark.slow)],
                         ids=("some", "every model"))
def test_nothing_outside_is_touched(side, precision, names):
    if precision == "bfloat16" and not chosen().bfloat16:
        pytest.skip("no bfloat16 products on this processor")
    assert forked(lambda: every_kind(names, precision == "bfloat16", side), patience=1200) == 0


@pytest.mark.parametrize("side", ["end", "start"])
def test_the_fence_stands(side):
    """Arrays of which a cache line lies behind the fence."""
    assert forked(lambda: evaluated("levit_digits", False, side, 64)) in (-signal.SIGSEGV, -signal.SIGBUS)
