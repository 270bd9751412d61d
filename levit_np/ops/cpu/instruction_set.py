"""Which vector instructions the kernels are written in, and the register tile that fits them."""

import os
import platform
from typing import NamedTuple

from ...errors import BackendError


class InstructionSet(NamedTuple):
    """lanes: float32 numbers a vector; rows × vectors: the largest register tile.  cpu: what LLVM calls the oldest
    processor that has these instructions; "" is the processor this runs on."""

    name: str
    lanes: int
    rows: int
    vectors: int
    tail: int
    cpu: str

    @property
    def width(self) -> int:
        """Columns of one packed panel of weights."""
        return self.lanes * self.vectors


# rows × vectors accumulators, `vectors` registers of weights and one of the input: 31 of 32, 15 of 16, 29 of 32.
# A panel is at least 16 columns wide: the narrowest layer of the family.
SETS = {
    "avx512": InstructionSet("avx512", 16, 14, 2, 1, ""),
    "avx2": InstructionSet("avx2", 8, 6, 2, 2, "haswell"),
    "neon": InstructionSet("neon", 4, 6, 4, 4, ""),
}


def available() -> list[str]:
    """The names in SETS that this processor has, best first."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ["neon"]
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    found = [("avx512", ("avx512f", "avx512vl", "avx512bw", "avx512dq")), ("avx2", ("avx2", "fma"))]
    return [name for name, needs in found if all(features.get(need) for need in needs)]


def chosen() -> InstructionSet:
    """The best there is, or what LEVIT_NP_INSTRUCTIONS says.  Raises BackendError where the processor lacks it."""
    there = available()
    if not there:
        raise BackendError("cpu: expected a processor with AVX2 or NEON, found neither; use backend='reference'")
    wanted = os.environ.get("LEVIT_NP_INSTRUCTIONS") or there[0]
    if wanted not in there:
        raise BackendError(f"LEVIT_NP_INSTRUCTIONS: expected one of {', '.join(there)} on this processor, found {wanted!r}")
    return SETS[wanted]
