"""Results of measurements: as a file, as tables and as a plot; and what all scripts share."""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this checkout, for every script, comes before an installed package

from levit_np.benchmark.machine import describe  # noqa: E402
from levit_np.errors import LevitError  # noqa: E402
from levit_np.storage.atomic import replacing  # noqa: E402

# Published ImageNet top-1, the paper's Table 3.
TOP1 = {"levit_128s": 76.6, "levit_128": 78.6, "levit_192": 80.0, "levit_256": 81.6, "levit_384": 82.6}
COLORS = {"ours": "#c0392b", "ours-bf16": "#e67e22", "eager": "#95a5a6", "compile": "#566573", "onnxruntime": "#2980b9",
          "openvino": "#27ae60", "openvino-bf16": "#82c99d"}

# The names of vector instructions in a machine's features and in names of results, widest first. avx512 includes
# AVX512-BF16; avx512f does not.
WIDEST = {"amx-bf16": "amx", "avx512bf16": "avx512", "avx512f": "avx512f", "avx2": "avx2", "neon": "neon"}


def result_path(folder: Path, what: str, machine: dict) -> Path:
    """The file for a GPU, or for a processor and its widest instructions, which differ between virtual machines with
    the same processor name."""
    widest = next((name for feature, name in WIDEST.items() if feature in (machine["features"] or ())), "")
    name = re.sub(r"\((r|tm)\)", "", machine.get("device", f"{machine['processor']} {widest}").lower())
    return folder / f"{what}-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}.json"


def run(main) -> None:
    """Runs main and ends the script; if it is interrupted, refuses or lacks something, one line says so."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; what was complete is in the results", file=sys.stderr)
        sys.exit(130)
    except LevitError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except ImportError as error:
        sys.exit(f"{sys.argv[0]}: {error}; bench/README.md says what each script needs")


def add_results(parser) -> None:
    parser.add_argument("--results", type=_writable, default=str(ROOT / "bench/results"), metavar="FOLDER",
                        help="where the result goes (default: bench/results)")


def _writable(text: str) -> Path:
    """The folder, created if necessary. Checked before a long run, not after it."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"expected a folder to write into, found {text}: {error.strerror}") from None
    return folder


def lacking(packages) -> str:
    """Why a peer that needs these packages is left out; "" if they are all installed."""
    absent = ", ".join(name for name in packages if find_spec(name) is None)
    return absent and f"{absent} not installed; pip install '.[bench]'"


def earlier(path: Path, empty: dict) -> dict:
    """The results to which this run adds: `empty` if there are none. A file with other fields ends the script."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return empty
    except ValueError as error:
        raise SystemExit(f"{path}: expected earlier results as JSON, found {error}; move it away") from None
    if not isinstance(content, dict) or not content.keys() >= empty.keys():
        raise SystemExit(f"{path}: expected earlier results with {', '.join(empty)}, found others; move it away")
    return content


def write_json(path: Path, content) -> None:
    """Replaces `path` atomically."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def this_machine(packages) -> dict:
    """What is measured, and on what: levit_np.benchmark.machine.describe, and this checkout's commit."""
    return describe(packages) | {"commit": commit()}


def commit() -> str | None:
    """This checkout's commit, with '-dirty' if anything but results was changed."""
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, text=True, capture_output=True).stdout

    try:
        found = git("describe", "--always").strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results")
    except OSError:
        return None
    return (found + "-dirty" * bool(changed)) or None


class Results:
    """The file of one processor. A group (model, batch, threads) is measured and replaced as a whole. Groups have their
    own date, load and limits, since results of different days are not comparable."""

    def __init__(self, path: Path, implementations: dict):
        self.path, self.implementations = path, implementations
        self.content = earlier(path, {"groups": [], "startup": None})

    def add(self, group: dict) -> None:
        def key(g):
            return g["threads"], list(TOP1).index(g["model"]), g["batch"]

        others = [g for g in self.content["groups"] if key(g) != key(group)]
        self.content["groups"] = sorted([*others, group], key=key)
        self.write()

    def write(self) -> None:
        write_json(self.path, self.content)

    def plot(self) -> bool:
        """Draws the plot beside the file; False without matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return False
        image = io.BytesIO()
        figure = Figure(figsize=(13, 5.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        threads = min(group["threads"] for group in self.content["groups"])
        groups = [group for group in self.content["groups"] if group["threads"] == threads]
        self._bars(left, groups)
        self._accuracy(right, groups)
        figure.suptitle(title(groups[0]["machine"]["processor"], threads))
        figure.savefig(image, format="png", dpi=120)
        with replacing(self.path.with_suffix(".png")) as file:
            file.write(image.getvalue())
        return True

    def _bars(self, axes, groups):
        keys = [key for key in self.implementations if any(key == row["key"] for g in groups for row in g["rows"])]
        width = 0.8 / len(keys)
        for at, group in enumerate(groups):
            for row in group["rows"]:
                place = keys.index(row["key"])
                axes.bar(at - 0.4 + (place + 0.5) * width, row["images_per_second"], width, color=COLORS[row["key"]])
        axes.set_xticks(range(len(groups)),
                        [f"{g['model'].removeprefix('levit_')}\nbatch {g['batch']}" for g in groups], fontsize=8)
        axes.set_ylabel("images / s")
        axes.legend(handles=[axes.bar(0, 0, color=COLORS[key], label=label(key, self.implementations)) for key in keys],
                    fontsize=8)
        axes.set_title("Speed")

    def _accuracy(self, axes, groups):
        from matplotlib.ticker import LogLocator

        batch = max(group["batch"] for group in groups)
        for key in self.implementations:
            points = [(row["images_per_second"], TOP1[group["model"]]) for group in groups if group["batch"] == batch
                      for row in group["rows"] if row["key"] == key]
            if points:
                axes.plot(*zip(*points), "o-", color=COLORS[key], label=label(key, self.implementations))
        axes.set(xscale="log", xlabel=f"images / s at batch {batch}", ylabel="published ImageNet top-1, %",
                 title="Speed and accuracy, as in the paper's Figure 1")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))  # labels of all nine would overlap
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=8)
        axes.grid(alpha=0.3, which="both")


def _table(text: str):
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(title=text, title_justify="left", box=SIMPLE)


def group_table(group: dict, implementations: dict):
    table = _table(title(group["model"], f"batch {group['batch']}", group["threads"]))
    table.add_column("")
    for heading in ("images/s", "ms/image", "fastest to slowest", "of the limit", "error"):
        table.add_column(heading, justify="right")
    for row in group["rows"]:
        share, seconds = row["share_of_limit"], row["seconds_per_image"]
        table.add_row(label(row["key"], implementations), f"{row['images_per_second']:.1f}",
                      f"{1000 * seconds['median']:.2f}",
                      f"{1000 * seconds['fastest']:.2f} {1000 * seconds['slowest']:.2f}",
                      "?" if share is None else f"{share:.1%}", f"{row['error']:.1e}",
                      style="bold" if row["key"].startswith("ours") else None)
    return table


def summary_table(groups: list[dict], implementations: dict):
    """Images/s of each implementation on each model, and the ratio of ours to the fastest peer, for one number of
    threads."""
    batches = list(dict.fromkeys(group["batch"] for group in groups))
    of = {(group["model"], group["batch"]): {row["key"]: row for row in group["rows"]} for group in groups}
    models = list(dict.fromkeys(group["model"] for group in groups))
    table = _table(title(f"images/s at batch {' | '.join(map(str, batches))}", groups[0]["threads"]))
    table.add_column("")
    for model in models:
        table.add_column(model, justify="right")

    def line(name, key, shown, **style):
        cells = [" | ".join(shown(of[model, batch][key]) if key in of[model, batch] else "-" for batch in batches)
                 for model in models]
        if any(key in rows for rows in of.values()):
            table.add_row(name, *cells, **style)

    for key in implementations:
        line(label(key, implementations), key, lambda row: f"{row['images_per_second']:.1f}")
    for key in ("ours", "ours-bf16"):
        line(f"× fastest {implementations[key].precision} peer", key,
             lambda row: f"{row['ratio']:.2f}" if row["ratio"] else "-", style="bold")
    return table


def label(key: str, implementations: dict) -> str:
    one = implementations[key]
    return f"{one.label} {one.precision}"


def title(*parts) -> str:
    *words, threads = parts
    return ", ".join([*words, f"{threads} thread{'s' * (threads > 1)}"])
