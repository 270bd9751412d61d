"""The architecture, read from the source: which part may import which, no heavy imports at the start, and docstrings
for all public names."""

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import levit_np
from levit_np import ops

PACKAGE = Path(levit_np.__file__).resolve().parent
# What each part of the package may import from other parts. (A part may import itself.)
BASE = {"config", "errors", "layers", "ops"}
MODEL = BASE | {"model"}
MAY_IMPORT = {
    "errors": set(),
    "cache": set(),
    "lock": set(),
    "config": {"errors"},
    "ops": {"errors", "cache", "lock"},
    "storage": {"errors"},
    "images": {"errors"},
    "layers": {"errors"},  # their operations are passed to them
    "model": BASE,
    "inference": MODEL,
    "training": MODEL | {"images", "lock", "plot", "storage"},
    "checkpoints": MODEL | {"cache", "images", "storage"},
    "explain": MODEL | {"images", "storage"},
    "benchmark": MODEL | {"inference"},
    "classifier": MODEL | {"checkpoints", "explain", "images", "inference", "lock"},
    "plot": MODEL | {"storage"},
    "__init__": {"classifier", "config"},
}
HEAVY = {"numba", "cupy", "h5py", "torch", "scipy", "sklearn", "transformers", "rich", "PIL", "safetensors",
         "mpi4py", "matplotlib"}


def modules(part):
    """The source files of one part: a module or a folder."""
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


def imports(path):
    """The absolute names of everything that a file imports, even within functions: levit_np.ops.reference, numpy, …"""
    package = ("levit_np", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    names = {name.split(".")[1] for name in imports(path) if name.startswith("levit_np.")}
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


PARTS = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
               - {"__main__", "cli", "commands"})


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_only_what_they_may(part):
    """Nothing imports cli, its commands, bench or tests."""
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    for path in modules(part):
        assert parts_imported(path) - {part} <= MAY_IMPORT[part], path.relative_to(PACKAGE)
        assert not {name.split(".")[0] for name in imports(path)} & {"tests", "bench"}


def test_imports_are_found():
    """If `imports` found nothing, test_parts_import_only_what_they_may would always pass."""
    assert parts_imported(PACKAGE / "model.py") == {"config", "errors", "layers", "ops"}
    assert parts_imported(PACKAGE / "layers/attention.py") == {"layers"}
    assert "levit_np.errors" in set(imports(PACKAGE / "ops/__init__.py"))


def test_layers_know_neither_numpy_nor_backends():
    for path in modules("layers"):
        assert {name.split(".")[0] for name in imports(path)} <= {"levit_np", "typing"}, path
        words = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Name)}
        assert not words & {"np", "numpy", "reference", "cpu", "cuda"}, path


def test_heavy_packages_are_imported_where_they_are_needed():
    """Importing levit_np does not import numba, cupy, torch or the readers of files; their first use does."""
    code = ("import sys, levit_np; levit_np.list_models(); levit_np.LeViTConfig; levit_np.LevitError; "
            f"print(*sorted({HEAVY!r} & set(sys.modules)))")
    found = subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert found.stdout.split() == []


def test_lines_fit_a_page():
    for folder in PACKAGE, Path(__file__).parent:
        for path in folder.rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert len(line) <= 120, f"{path}:{number}"


def test_the_floating_point_mode_is_not_changed():
    """Neither the import nor an evaluation makes denormal numbers zero or changes NumPy's error handling."""
    code = ("import numpy as np, levit_np; before = np.geterr(); x = np.full(4, 1e-40, np.float32);"
            "levit_np.create('levit_digits')(np.zeros((1, 1, 32, 32), np.float32));"
            "assert (x / 2 > 0).all() and float(x[0]) / 2 > 0 and np.geterr() == before")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_no_framework_is_imported_and_compilers_only_by_the_operations():
    for path in PACKAGE.rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)}
        assert not {"torch", "transformers", "timm", "sklearn"} & found, path
        assert not {"numba", "cupy"} & found or path.is_relative_to(PACKAGE / "ops"), path


def public():
    """(name, function or class) of all that is public: names, their public methods, and every operation."""
    for name in levit_np.__all__:
        thing = getattr(levit_np, name)
        yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            yield from ((f"{name}.{key}", getattr(thing, key)) for key, value in vars(thing).items()
                        if not key.startswith("_") and callable(getattr(thing, key)))
    reference = ops.backend("reference")
    yield from ((f"ops.{name}", value) for name, value in vars(reference).items()
                if inspect.isfunction(value) and value.__module__.startswith("levit_np"))


@pytest.mark.parametrize("name, thing", [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_every_public_name_says_what_it_does(name, thing):
    assert (thing.__doc__ or "").strip(), f"{name} has no docstring"
    if name.startswith("ops.") or not inspect.isfunction(thing):
        return
    if {"x", "images"} & set(inspect.signature(thing).parameters):
        stated = any(form in thing.__doc__ for form in ("(B, ", "(C, ", "(H, "))
        assert stated, f"{name}: expected the shapes of its arrays"
    source = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    raised = {node.exc.func.id for node in ast.walk(source) if isinstance(node, ast.Raise)
              and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)}
    for error in raised:
        assert error in thing.__doc__, f"{name}: expected a word about when it raises {error}"
