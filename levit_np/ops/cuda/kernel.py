"""A kernel, its source and its launch as plain data, independent of a GPU."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
ELEMENTS = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}  # NumPy's name: the name in the kernels


class Kernel(NamedTuple):
    """A function of a .cu file, and the macros that the file is compiled with."""

    source: str
    name: str
    element: str = "float"
    defines: tuple = ()

    @property
    def text(self) -> str:
        """The source with its macros as #define lines. As compiler options they would cost each process a run of the
        compiler for each set of them: CuPy compiles an empty file with the options before it looks into its cache."""
        defines = ("ELEMENT", self.element), *self.defines
        return "".join(f"#define {key} {value}\n" for key, value in defines) + source(self.source)


class View(NamedTuple):
    """An array whose strides the kernel is told: an argument that need not be contiguous."""

    array: object


class Launch(NamedTuple):
    """A kernel with all it needs to run. Arguments are contiguous arrays, Views, None, or NumPy scalars."""

    kernel: Kernel
    grid: tuple
    block: tuple
    shared: int
    arguments: tuple


@cache
def source(name: str) -> str:
    """The text of a .cu file with its headers included: the key of CuPy's cache."""
    return _flattened(f"{name}.cu", set())


def _flattened(name, seen):
    if name in seen:
        return ""
    seen.add(name)
    text = (FOLDER / name).read_text(encoding="utf-8")
    text = text.replace("#pragma once\n", "")
    return re.sub(r'^#include "(\w+\.cuh)"$', lambda found: _flattened(found[1], seen), text, flags=re.M)
