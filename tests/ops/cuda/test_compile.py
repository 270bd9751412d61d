"""nvcc compiles every kernel for all targets, in every form that the five models launch, without register spills: a
fused kernel that spills to memory is no faster than the kernels that it replaces."""

import re
import shutil
import subprocess

import pytest

from levit_np.config import FAMILY
from levit_np.ops.cuda.kernel import FOLDER, Kernel, source
from levit_np.ops.cuda.geometry import (
    BROAD, FLAT, SIZES, SMALL, SQUARE, TILES, WARPGROUP_TILES, WIDE, WIDEST_KEY, WIDEST_VALUE, head_size, resident_for)

from ...random_model import FIVE

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
TARGETS = ("sm_80", "sm_90")
TF32 = "TF32", 1  # an option of evaluation
HOPPER = "sm_90a"  # with the instructions that only Hopper has


def heads():
    """(D, V) of all attentions of the five models, padded as the kernels have them."""
    pairs = {(FAMILY[name].key_size, FAMILY[name].key_size * ratio) for name in FIVE
             for ratio in (FAMILY[name].value_ratio, FAMILY[name].shrink_value_ratio)}
    return sorted({(head_size(key), head_size(value)) for key, value in pairs})


def forms():
    """{source: the sets of definitions with which it is compiled}."""
    tiles = [tile.defines for tile in (*TILES, *WARPGROUP_TILES)]
    attention = [(("KEY_SIZE", key), ("VALUE_SIZE", value)) for key, value in heads()]
    pairs = [(("KEY_SIZE", key), ("VALUE_SIZE", value)) for key, value in heads()
             if key <= WIDEST_KEY and value <= WIDEST_VALUE]
    resident = [resident_for(200704, 512, bytes_).tile.defines for bytes_ in (256, 512, 768)]
    return {"linear": [*tiles, FLAT.defines], "resident": resident, "convolution": [*tiles, FLAT.defines],
            "attention": attention, "attention_pairs": pairs, "attention_backward": attention,
            "normalization": [(("VECTOR", n), *more) for n in (1, 4, 8) for more in ((), (("ACTIVATION", 1),))],
            "bias": [()], "pointwise": [()], "reduction": [()],
            "image": [(("SIDE", side), ("CHANNELS", 3)) for side in (1, 2)], "optimizer": [()]}


def compiled(folder, name, element, defines, target):
    """[(kernel, registers, bytes spilled)] as ptxas reports them."""
    file = folder / f"{name}-{element}-{target}.cu"
    file.write_text(Kernel(name, "", element, defines).text, encoding="utf-8")
    # 177 is the warning about an unused constant of a header.
    command = ["nvcc", "-std=c++17", "-diag-suppress=177", f"-arch={target}", "-Xptxas", "-v", "-cubin",
               str(file), "-o", str(file.with_suffix(".cubin"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used "
                       r"(\d+) registers",
                       done.stderr, re.S)
    assert found, done.stderr
    return [(kernel, int(registers), int(stores) + int(loads)) for kernel, stores, loads, registers in found]


def cases():
    every = [(name, element, defines, target) for name, all_ in forms().items() for element in SIZES for defines in all_
             for target in ((HOPPER,) if ("WARPGROUPS", 1) in defines else TARGETS[name == "attention_pairs":])
             if element != "float" or (target != HOPPER and name != "attention_pairs" and defines != WIDE.defines)]
    every += [(name, element, (*defines, TF32), target) for name, element, defines, target in every
              if element == "float" and name in ("linear", "convolution", "attention")]
    # In the fast suite: each source, the most used ones as in LeViT-256, each type and target at least once.
    often = {("linear", "float16", BROAD.defines, HOPPER),
             ("resident", "float16", resident_for(200704, 512, 512).tile.defines, HOPPER),
             ("convolution", "float16", BROAD.defines, HOPPER),
             ("convolution", "float16", FLAT.defines, HOPPER),
             ("linear", "float16", WIDE.defines, "sm_90"), ("convolution", "float16", WIDE.defines, "sm_90"),
             ("linear", "float", SMALL.defines, "sm_80"), ("convolution", "bfloat16", SQUARE.defines, "sm_80"),
             *(("attention", element, (("KEY_SIZE", 32), ("VALUE_SIZE", value)), target) for element, value, target in (
                 ("float16", 64, "sm_90"), ("float16", 128, "sm_80"), ("float", 128, "sm_90"))),
             ("attention", "float", (("KEY_SIZE", 32), ("VALUE_SIZE", 64), TF32), "sm_80"),
             ("attention_pairs", "float16", (("KEY_SIZE", 32), ("VALUE_SIZE", 64)), "sm_90"),
             ("attention_backward", "float16", (("KEY_SIZE", 32), ("VALUE_SIZE", 64)), "sm_90"),
             ("attention_backward", "bfloat16", (("KEY_SIZE", 32), ("VALUE_SIZE", 128)), "sm_90"),
             ("attention_backward", "float16", (("KEY_SIZE", 16), ("VALUE_SIZE", 32)), "sm_80"),
             *(("normalization", element, (("VECTOR", 8), ("ACTIVATION", 1)), target)
               for element, target in (("float16", "sm_80"), ("bfloat16", "sm_90"))),
             *((name, element, (("SIDE", 2), ("CHANNELS", 3)) if name == "image" else (), target)
               for name in ("bias", "pointwise", "reduction", "image", "optimizer")
               for element, target in (("float", "sm_80"), ("float16", "sm_90")))}
    assert often <= set(every)
    # Each source, for every target that it has.
    assert {(name, target) for name, *_, target in every} == {(name, target) for name, *_, target in often}
    for case in every:
        label = "-".join([*case[:2], *(str(value) for _, value in case[2]), case[3]])
        yield pytest.param(*case, id=label, marks=() if case in often else pytest.mark.slow)


@pytest.mark.parametrize("name, element, defines, target", list(cases()))
def test_every_kernel_compiles_and_none_spills(name, element, defines, target, tmp_path):
    found = compiled(tmp_path, name, element, defines, target)
    assert {kernel for kernel, _, _ in found} == set(re.findall(r"^LAUNCHABLE\((\w+)\)", source(name), re.M))
    assert [kernel for kernel, _, spilled in found if spilled] == []


def test_every_source_is_compiled():
    assert set(forms()) == {path.stem for path in FOLDER.glob("*.cu")}


def test_spills_are_detected(tmp_path):
    """With heads for which the registers do not suffice, the check sees the spills."""
    found = compiled(tmp_path, "attention", "float", (("KEY_SIZE", 64), ("VALUE_SIZE", 256)), "sm_90")
    assert found[0][2] > 0
