"""levit-np train: trains a model on images.  This file handles the command line and assembles the parts; training/ does
the work."""

import argparse
import json
import os
import warnings
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import fields
from pathlib import Path

from ..errors import ConfigError, ImageError, LevitError, TrainingError, shown
from ..training.recipe import RECIPES, Recipe
from .common import BACKENDS, from_zero, opened, use_threads, whole

# The settings of a run, besides its recipe. Most of them cannot change when it is resumed.
DEFAULTS = {"model": "levit_128s", "heads": None, "image_size": None, "seed": 0, "backend": "cpu", "dtype": "float32",
            "teacher": None, "validation": None, "bad_files": "stop"}
# These can: files may have moved, and their contents are compared by fingerprint.
MAY_CHANGE = "teacher", "validation", "bad_files"
MAY_BE_NONE = {"heads": int, "image_size": int, "teacher": str, "validation": str}


def add(verbs):
    train = verbs.add_parser(
        "train", help="train a model on a folder of images", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a fresh model, or existing weights further, on images in one folder per\n"
        "class. However it ends, --resume continues from the last checkpoint, with the\n"
        "same result as without the interruption. Writes into OUTPUT: last.h5 and, from\n"
        "the epoch with the best top-1 on the images of --validation, best.h5 (weights\n"
        "for every other verb), log.jsonl (a line per epoch), curves.png, checkpoints/.",
        epilog="examples:\n"
        "  levit-np train flowers --model levit_256.h5 --recipe small --epochs 20 --output run\n"
        "  levit-np train flowers --output run --resume\n"
        "  levit-np train imagenet --model levit_256 --teacher levit_384.h5 --output run\n"
        "  mpiexec -n 2 levit-np train flowers --recipe small --output run")
    train.add_argument("data", metavar="DATA", help="a folder with a folder of images for each class, or a folder with "
                       "train/ and val/ of that kind, or a file written by levit-np pack")
    train.add_argument("--validation", metavar="DATA",
                       help="images to evaluate on after each epoch (default: DATA/val)")
    train.add_argument("--output", default="run", metavar="OUTPUT",
                       help="the folder to write into (default: %(default)s)")
    train.add_argument("--resume", action="store_true", help="continue the run in OUTPUT; its settings and recipe need "
                       "not be repeated, and must not differ; images and the teacher may have moved")
    train.add_argument("--model", help="a model name for fresh weights, or a weight file to start from (default: "
                       f"{DEFAULTS['model']})")
    train.add_argument("--teacher", metavar="WEIGHTS", help="a weight file to distil from, or a file written by "
                       "levit-np teach, or FILE.py:NAME, a Python function: images (B, C, H, W), as the student sees "
                       "them -> logits (B, classes), the classes sorted by name")
    train.add_argument("--heads", type=int, choices=(1, 2), help="number of heads; a teacher needs two (default: the "
                       "model's)")
    train.add_argument("--image-size", type=whole, metavar="N", help="(default: the model's own)")
    train.add_argument("--seed", type=from_zero, metavar="N", help="(default: 0)")
    train.add_argument("--bad-files", choices=("stop", "skip"), help="what to do with an image that cannot be used "
                       "(default: stop); skipped ones are listed in OUTPUT/skipped.txt")
    train.add_argument("--backend", "--device", choices=BACKENDS, help="(default: cpu)")
    train.add_argument("--dtype", choices=("float32", "float64", "float16", "bfloat16"),
                       help="type of the activations; 16-bit types need --backend cuda (default: float32)")
    train.add_argument("--threads", type=whole, default=1, metavar="N",
                       help="number of computing threads (default: %(default)s); with another number, NumPy's matrix "
                       "products (--backend reference, --dtype float64) round differently")
    train.add_argument("--workers", type=from_zero, metavar="N", help="processes that decode and augment, and as "
                       "many again for validation; 0 for none (default: one less than each rank's share of the cores, "
                       "at most 8)")
    train.add_argument("--save-every", type=_seconds, default=600.0, metavar="SECONDS", help="time between checkpoints "
                       "within an epoch (default: %(default)g)")
    recipe = train.add_argument_group("the recipe", "Each hyperparameter can be changed; 0 switches most features off.")
    recipe.add_argument("--recipe", metavar="NAME", help=f"{', '.join(RECIPES)}, or a JSON file with what differs "
                        "from the paper's recipe (default: paper)")
    for part in fields(Recipe):
        recipe.add_argument(f"--{part.name.replace('_', '-')}", **_option(part))
    train.set_defaults(run=_run, wrong_use=train.error)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise argparse.ArgumentTypeError(f"expected a number from 0, found {text!r}")


def _option(part) -> dict:
    """The argparse options of a recipe's field."""
    default = part.default
    usual = ", ".join(f"{name}: {_shown_value(value)}" for name, recipe in RECIPES.items()
                      if (value := getattr(recipe, part.name)) != default or name == "paper")
    options = {"help": f"{part.metadata['help']} ({usual})".replace("%", "%%")}
    if isinstance(default, bool):
        return options | {"action": argparse.BooleanOptionalAction}
    if part.name == "freeze":
        return options | {"type": lambda text: text.split(","), "metavar": "PARTS"}
    if isinstance(default, tuple):
        return options | {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    kind = float if default is None else type(default)
    words = part.metadata["check"][1].replace(" or ", "|")
    return options | {"type": kind, "metavar": {str: words, int: "N"}.get(kind, "X")}


def _shown_value(value) -> str:
    """A field's value as shown in the help."""
    if isinstance(value, tuple):
        return " ".join(f"{n:.3g}" for n in value) or "none"
    return {None: "the model's own", False: "no"}[value] if value is None or value is False else str(value)


def _run(arguments) -> int:
    # NumPy's BLAS reads these variables once, when NumPy is first imported.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(arguments.threads))

    from ..training.folder import RunFolder
    from ..training.interrupt import Stopped
    from ..training.mpi import mpi_ranks, started_by_mpi
    from ..training.progress import Screen
    from ..training.ranks import SingleRank

    use_threads(arguments)
    folder = RunFolder(arguments.output)
    settings = None if arguments.resume else _settings(arguments, None)  # reports wrong use before creating a folder
    with mpi_ranks() if started_by_mpi() > 1 else nullcontext(SingleRank()) as ranks, warnings.catch_warnings():
        if ranks.rank:
            warnings.simplefilter("ignore")  # rank 0 prints the same warnings
        _image_folders(arguments)  # its checks, before creating a folder
        with ExitStack() as lock, ExitStack() as open_things:
            ranks.first(lambda: lock.enter_context(folder.locked(fresh=not arguments.resume)))
            before = ranks.first(lambda: folder.read_config() if arguments.resume else None)
            settings = settings or _settings(arguments, before)
            try:
                _train(arguments, settings, before, folder, ranks, open_things)
            except Stopped as stopped:
                Screen(quiet=ranks.rank > 0).note(
                    f"{stopped}: saved; levit-np train … --output {arguments.output} --resume continues")
                return stopped.status
    return 0


def _settings(arguments, before: dict | None) -> dict:
    """The settings of the run: from the command line, else from the run being resumed, else the defaults."""
    from ..training.folder import require_same

    given = {key: getattr(arguments, key) for key in DEFAULTS if getattr(arguments, key) is not None}
    given |= {key: _absolute(given[key]) for key in ("teacher", "validation") if key in given}
    parts = {part.name: value for part in fields(Recipe) if (value := getattr(arguments, part.name)) is not None}
    try:
        _require_utf8(given)
        if before is None:
            given["recipe"] = Recipe.from_dict(parts, _recipe(arguments.recipe or "paper")).to_dict()
            return DEFAULTS | given
        settings = before["settings"]
        base = _recipe(arguments.recipe) if arguments.recipe else _begun(settings["recipe"], arguments.output)
        given["recipe"] = Recipe.from_dict(parts, base).to_dict()
        now = {key: given.pop(key, settings.get(key, DEFAULTS[key])) for key in MAY_CHANGE}
        require_same({key: settings[key] for key in given}, given, arguments.output)
        settings = {key: settings[key] for key in (*DEFAULTS, "recipe") if key not in now} | now
        _require_kinds(settings, f"{arguments.output}/config.json")
        return settings
    except ConfigError as error:
        arguments.wrong_use(str(error))
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{arguments.output}: expected the settings of a run in config.json, found none of {error}"
                            ) from None


def _require_utf8(given: dict) -> None:
    """Raises ConfigError for a path that is not UTF-8, which config.json cannot hold: otherwise the error would come
    only after reading the data and writing the first checkpoint."""
    for key, value in given.items():
        if str(value).encode(errors="ignore").decode() != str(value):
            raise ConfigError(f"{key}: expected a path in UTF-8, as config.json holds it, found {value!a:.100}")


def _require_kinds(settings: dict, place: str) -> None:
    """Raises TrainingError if an edited config.json has a value that the command line would not accept."""
    for key, default in DEFAULTS.items():
        kind, found = MAY_BE_NONE.get(key, type(default)), settings[key]
        if found is None and key in MAY_BE_NONE:
            continue
        if type(found) is not kind or kind is int and found < 0:
            raise TrainingError(f"{place}: {key}: expected {'a number from 0' if kind is int else 'text'}, found "
                                f"{found!a:.60}")


def _begun(recipe, output: str) -> Recipe:
    """A run's own recipe; if it is invalid, the error is about config.json, not about the command line."""
    try:
        return Recipe.from_dict(recipe)
    except ConfigError as error:
        raise TrainingError(f"{output}/config.json: {error}") from None


def _absolute(place: str) -> str:
    """A file, or FILE.py:NAME, as an absolute path, so that the run can be resumed from another folder; a name that is
    no file (of a download) unchanged."""
    file = place.rpartition(":")[0] if ".py:" in place else place
    return os.path.abspath(place) if os.path.exists(file) else place


def _recipe(name: str) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(".json"):
        raise ConfigError(f"recipe: expected {', '.join(RECIPES)} or a file that ends in .json, found {name!a:.100}")
    from ..storage import strict_json

    try:
        return Recipe.from_dict(strict_json.loads(Path(name).read_bytes(), name))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _train(arguments, settings, before, folder, ranks, open_things) -> None:
    from ..checkpoints.loading import preprocessing_of, require_room
    from ..training.data import open_source
    from ..training.data.loader import EvaluationLoader, Loader
    from ..training.folder import require_same
    from ..training.progress import Screen
    from ..training.run import Run
    from ..training.trainer import Trainer

    recipe, workers = Recipe.from_dict(settings["recipe"]), _workers(arguments, ranks)
    source, looked_at = _sources(arguments, settings["validation"], open_source)
    if before:  # first of all, as the network would only say how many labels it expects
        require_same({"labels": before.get("labels")}, {"labels": list(source.classes)}, arguments.output)
    model = _network(settings, before, list(source.classes))
    preprocessing = model.preprocessing = preprocessing_of(model)
    require_room(model, f"{shown(arguments.data)}: classes")  # now, rather than when weights are written after an epoch
    loader = open_things.enter_context(Loader(
        source, recipe, image_size=model.config.image_size, in_channels=model.config.in_channels, batch=recipe.batch,
        seed=settings["seed"], workers=workers, rank=ranks.rank, ranks=ranks.size, preprocessing=preprocessing,
        bad_files=settings["bad_files"]))
    teacher = _teacher(settings, source, recipe, preprocessing)
    trainer = Trainer(model, loader, recipe, seed=settings["seed"], ranks=ranks, teacher=teacher)
    screen = Screen(quiet=ranks.rank > 0)
    run = Run(trainer, folder, screen=screen, save_seconds=arguments.save_every)
    if looked_at:
        images = open_things.enter_context(EvaluationLoader(
            looked_at, preprocessing, batch=recipe.batch, workers=workers, rank=ranks.rank, ranks=ranks.size,
            bad_files=settings["bad_files"]))
        run.validate = _validation(images, run, len(source.classes))
    else:  # which is unexpected if the folder beside train/ is called validation/, say
        screen.note("no validation images (DATA/val or --validation): there will be no best.h5")
    if model.config.distillation and not teacher:
        screen.note("no teacher: both heads learn from the labels")
    if teacher and teacher.note:
        screen.note(f"teacher: {teacher.note}")
    config = {"settings": settings, "ranks": ranks.size, "network": model.config.to_dict(),
              "preprocessing": preprocessing.to_dict(), "labels": list(source.classes),
              "teacher": teacher and teacher.fingerprint, "data": _identity(source),
              "validation": looked_at and _identity(looked_at)}
    if before:
        begun = before | {"settings": settings}
        require_same(*(json.loads(json.dumps(one | {"teacher": None})) for one in (begun, config)), arguments.output)
        if begun.get("teacher") != config["teacher"]:  # two hashes, which would tell a user nothing
            expected, found = ("the one that", "another in ") if begun.get("teacher") else ("none as", "")
            raise TrainingError(f"{arguments.output}: teacher: expected {expected} the run began with, found "
                                f"{found}{settings['teacher']!a:.100}")
        run.resume()
        if begun != before:
            ranks.first(lambda: folder.write_config(config))
    else:
        run.begin(config)
    try:
        run.train()
    except ImageError as error:
        raise ImageError(f"{error}; --bad-files skip would skip it") from None


def _workers(arguments, ranks) -> int:
    if arguments.workers is not None:
        return arguments.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, cores // ranks.local_size - 1))


def _image_folders(arguments) -> tuple:
    """The path of the training images, and DATA/val or None.  Raises LevitError for an OUTPUT among the class folders,
    as it would count as a class."""
    from ..storage.atomic import resolved
    from ..training.data.folder import are_parts
    from ..training.folder import RunFolder

    data, output = Path(arguments.data), Path(resolved(arguments.output))
    # This run may lie beside train/, and so may earlier ones.
    folders = [path.name for path in (data.iterdir() if data.is_dir() else ()) if path.is_dir() and path.name[0] != "."
               and Path(os.path.realpath(path)) != output and not RunFolder(path).config.exists()]
    parts = are_parts(folders)
    images, looked_at = (data / "train", data / "val" if "val" in folders else None) if parts else (data, None)
    for folder in filter(None, (data, images, arguments.validation or looked_at)):
        root = Path(os.path.realpath(folder))
        inside = (root in output.parents and not output.relative_to(root).parts[0].startswith(".")
                  and not (parts and folder is data))  # beside train/ it is fine
        if inside or output == root:
            raise LevitError(f"{shown(arguments.output)}: expected an --output outside {shown(str(folder))}, whose "
                             f"folders are the classes, found {'it inside' if inside else 'that folder itself'}")
    return images, looked_at


def _sources(arguments, validation, open_source) -> tuple:
    """The training images, and the validation images or None."""
    images, where = _image_folders(arguments)
    source, where = open_source(images), validation or where
    looked_at = open_source(where) if where else None
    if looked_at and list(looked_at.classes) != list(source.classes):
        found = [f"{'no' if name in source.classes else 'also'} {name!a:.100}"
                 for name in sorted(set(source.classes) ^ set(looked_at.classes))[:3]]
        raise LevitError(f"{where}: expected the classes of {images}, found {', '.join(found) or 'another order'}")
    return source, looked_at


def _identity(source) -> dict:
    return {"images": len(source), "fingerprint": source.fingerprint}


def _network(settings, before, classes):
    """The model to train: fresh, from a weight file, or, for a resumed run, one that the checkpoint will fill."""
    from .. import ops
    from ..checkpoints.reading import is_fused
    from ..config import LeViTConfig
    from ..images.preprocessing import Preprocessing
    from ..training.trainer import require_precision

    require_precision(ops.backend(settings["backend"]), settings["dtype"])
    name, kind = settings["model"], {"backend": settings["backend"], "dtype": settings["dtype"]}
    changes = {"num_classes": len(classes), "image_size": settings["image_size"],
               "distillation": settings["heads"] and settings["heads"] == 2}
    changes = {key: value for key, value in changes.items() if value is not None}
    if before:
        model = _empty(LeViTConfig.from_dict(before["network"]), **kind)
        model.preprocessing = Preprocessing.from_dict(before["preprocessing"])
    else:
        model = opened(name, seed=settings["seed"], **kind, **changes)
        if is_fused(model.numpy_state()):
            raise LevitError(f"{name}: expected weights with BN's statistics to train further, found a fused file: BN "
                             "is folded into the layer before, which is good for inference alone")
        _order_heads(model, classes)
    model.labels = classes
    return model


def _order_heads(model, classes) -> None:
    """Gives each of the data's classes that the model knows its rows of the heads; the rows left over go to the other
    classes, in order."""
    labels = model.labels or ()
    if len(labels) != len(classes):  # the heads have no names, or start anew
        return
    at = {label: n for n, label in enumerate(labels)}
    left = iter(sorted(set(range(len(labels))) - {at.get(name) for name in classes}))
    order = [at[name] if name in at else next(left) for name in classes]
    rows = "head.weight", "head.bias", "head_dist.weight", "head_dist.bias"
    state = model.state()
    model.set_state(state | {name: model.ops.to_host(state[name])[order] for name in rows if name in state})


def _empty(config, backend, dtype):
    """A model of a configuration, with arbitrary weights."""
    from .. import ops
    from ..classifier import Classifier
    from ..model import build, initial_state

    stored, model = ops.stored_type(backend, dtype), build(config, backend, Classifier)
    model.set_state(initial_state(model, 0, stored))
    model.precision = dtype
    return model


def _teacher(settings, source, recipe, preprocessing):
    if not settings["teacher"]:
        return None
    import levit_np

    from ..checkpoints.loading import preprocessing_of
    from ..training.teacher import FunctionTeacher, NetworkTeacher, WrittenTeacher, is_logits

    path = settings["teacher"]
    if ".py:" in path:
        return FunctionTeacher.of(path, len(source.classes))
    if path.endswith(".py"):
        raise LevitError(f"{path}: expected FILE.py:NAME, a Python function, found no name after the file's")
    if Path(path).is_file() and is_logits(path):
        return WrittenTeacher(path, source, recipe, settings["bad_files"] == "skip")
    model = levit_np.load(path, backend=settings["backend"])
    return NetworkTeacher(model, model.labels, preprocessing_of(model), list(source.classes), preprocessing)


def _validation(images, run, classes: int):
    """A function network -> its results on the images of a loader, called after each epoch."""
    from ..training.evaluation import evaluate

    def batches(dtype):
        try:
            for batch in images:
                run.record_skipped((name, f"validation: {reason}") for name, reason in batch.skipped)
                if len(batch.indices):
                    yield batch.images.astype(dtype, copy=False), batch.targets.argmax(1)
        except ImageError as error:  # another image of the same name may be among those trained on
            raise ImageError(f"validation: {error}") from None

    return lambda model: evaluate(model.heads, batches(model.dtype), classes, run.trainer.ranks).average.to_dict()
