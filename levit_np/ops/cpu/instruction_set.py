"""The vector instruction sets that the kernels can be compiled for, the register tile that suits each, and which one is
used."""

import ctypes
import os
import sys
from typing import NamedTuple

from ...errors import BackendError
from . import processor


class InstructionSet(NamedTuple):
    """lanes: float32 numbers a vector. rows × vectors: the largest register tile. tail: vectors of a narrow panel, the
    last one. double_rows: rows of a tile that spans two panels, 0 where there are not registers enough.

    bfloat16: how it is multiplied: "dot" (dot products of pairs, AVX512-BF16), "tiles" (AMX's tile registers),
    "widened" (only the weights are bfloat16, and become float32 in registers) or "", not at all. cpu: LLVM's name of
    the oldest processor with these instructions; "" is the one this runs on."""

    name: str
    lanes: int
    rows: int
    vectors: int
    tail: int
    double_rows: int
    bfloat16: str
    cpu: str

    @property
    def pair_rows(self) -> int:
        """Rows of a tile of bfloat16 products. AMX has room for 32, but 14 × 14 tokens and lines of 56 or 28 pixels are
        multiples of 28, and give two threads the same number of tiles."""
        return 28 if self.bfloat16 == "tiles" else self.rows

    @property
    def bfloat16_inputs(self) -> bool:
        """Whether a product's left operand may be bfloat16 too, or parts of float32."""
        return self.bfloat16 in ("dot", "tiles")

    @property
    def width(self) -> int:
        """Columns of a packed panel of weights."""
        return self.lanes * self.vectors


# Registers: rows × vectors accumulators, `vectors` of weights and one of the left operand: 31 of AVX-512's 32, 15 of
# AVX2's 16, 25 of NEON's 32. NEON cannot multiply by a number in memory, so LLVM loads ahead, and with 29 registers in
# use spills accumulators. A panel is at least 16 columns wide, as the narrowest layer of the family is.
SETS = {
    "avx512_amx": InstructionSet("avx512_amx", 16, 14, 2, 1, 6, "tiles", ""),
    "avx512_bf16": InstructionSet("avx512_bf16", 16, 14, 2, 1, 6, "dot", ""),
    "avx512_widened": InstructionSet("avx512_widened", 16, 14, 2, 1, 6, "widened", ""),
    "avx512": InstructionSet("avx512", 16, 14, 2, 1, 6, "", ""),
    "avx2": InstructionSet("avx2", 8, 6, 2, 2, 0, "", "haswell"),
    "neon": InstructionSet("neon", 4, 5, 4, 4, 0, "", ""),
}
# CPU flags by Linux's names, without underscores.
AVX512 = ("avx512f", "avx512vl", "avx512bw", "avx512dq")
NEEDS = {"avx512_amx": (*AVX512, "avx512bf16", "amxbf16", "amxtile"), "avx512_bf16": (*AVX512, "avx512bf16"),
         "avx512_widened": (*AVX512, "avx512bf16"), "avx512": AVX512, "avx2": ("avx2", "fma")}


def available() -> list[str]:
    """The names in SETS that this processor has, best first."""
    if processor.is_arm():
        return ["neon"]
    found = [name for name, needs in NEEDS.items() if processor.features() >= set(needs)]
    if "avx512_bf16" in found and not processor.is_amd():
        # Intel's cores do a quarter as many dot products of pairs a cycle as multiply-adds, AMD's as many.
        at = found.index("avx512_bf16")
        found[at : at + 2] = reversed(found[at : at + 2])
    return [name for name in found if name != "avx512_amx" or tiles_permitted()]


def tiles_permitted() -> bool:
    """Whether Linux lets this process use the tile registers, which must be requested: arch_prctl(ARCH_REQ_XCOMP_PERM,
    XTILEDATA)."""
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None, use_errno=True).syscall(158, 0x1023, 18) == 0


def chosen() -> InstructionSet:
    """The best instruction set of this processor, or the one that LEVIT_NP_INSTRUCTIONS names. Raises BackendError
    where the processor lacks it."""
    there = available()
    if not there:
        raise BackendError("cpu: expected a processor with AVX2 or NEON, found neither; use backend='reference'")
    wanted = os.environ.get("LEVIT_NP_INSTRUCTIONS") or there[0]
    if wanted not in there:
        raise BackendError(f"LEVIT_NP_INSTRUCTIONS: expected one of {', '.join(there)} on this processor, "
                           f"found {wanted!r}")
    return SETS[wanted]
