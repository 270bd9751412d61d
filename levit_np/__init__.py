"""LeViT, forward and backward, without a deep-learning framework: the public names, each loaded when first used."""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "create": "classifier", "load": "classifier", "Classifier": "classifier",
    "LeViT": "model", "LeViTConfig": "config",
    "export": "checkpoints.loading", "rename": "checkpoints.loading",
    "set_threads": "ops.cpu.threads",
    "trace": "explain.trace", "Trace": "explain.trace",
    "LevitError": "errors", "CheckpointError": "errors", "ConfigError": "errors", "BackendError": "errors",
    "ImageError": "errors",
}
__all__ = sorted([*_HOME, "list_models", "plot"])


def __getattr__(name):
    if name == "plot":
        return import_module(".plot", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'levit_np' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})  # so that completion also offers names that are not loaded yet


def list_models() -> list[str]:
    """The model names that create() accepts."""
    from .config import ABLATIONS, FAMILY

    return [*FAMILY, *ABLATIONS]
