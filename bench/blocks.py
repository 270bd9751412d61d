"""The parts of a block, as in the paper's Table 6, ours beside PyTorch's: python bench/blocks.py --help

One image, one thread, 14 × 14 tokens; microseconds, medians of turns taken in one process.  A LeViT-256 stage-1 block
(BN folded) and a DeiT-tiny block (LayerNorm, a wider MLP, Hardswish so that only the shapes differ).
"""

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this checkout, whatever else is installed
TOKENS, GRID = 196, (14, 14)


class Kind(NamedTuple):
    """paper: Table 6's microseconds on one core of a Xeon E5-2698, in the order of ROWS."""

    channels: int
    heads: int
    key: int
    value: int
    hidden: int
    norm: bool  # LayerNorm before each branch; without it, the attention has a bias and a Hardswish
    paper: tuple


KINDS = {"LeViT-256 stage 1": Kind(256, 4, 32, 64, 512, False, (None, 275, 275, 159, None, 206, None, 310, 1140, 2365)),
         "DeiT-tiny": Kind(192, 3, 64, 64, 768, True, (49, 299, 172, 228, None, 161, None, 175, 1390, 2474))}
ROWS = ("LayerNorm, both", "Q and K", "V", "QKᵀ", "softmax", "AV", "QKᵀ to AV as one", "projection", "MLP", "whole block")


def arrays_of(kind: Kind) -> dict:
    import numpy as np

    generator = np.random.default_rng(0)

    def draw(*shape):
        return (generator.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)

    keys, values = kind.heads * kind.key, kind.heads * kind.value
    sizes = {"qk": (2 * keys, kind.channels), "v": (values, kind.channels), "projection": (kind.channels, values),
             "up": (kind.hidden, kind.channels), "down": (kind.channels, kind.hidden)}
    found = {name: draw(*shape) for name, shape in sizes.items()}
    found |= {f"{name}_bias": draw(shape[0]) for name, shape in sizes.items()}
    found |= {"gamma": draw(kind.channels) + 1, "beta": draw(kind.channels), "x": draw(1, TOKENS, kind.channels) * 16}
    return found | {"bias": None if kind.norm else draw(kind.heads, TOKENS, TOKENS)}


def ours(kind: Kind, a: dict, ops) -> dict:
    """{row: call} with our operations; the products inside the attention have no rows of their own, it is one
    operation."""
    scale = kind.key**-0.5

    def norm(x):
        return ops.layer_norm(x, a["gamma"], a["beta"], 1e-6) if kind.norm else x

    def query_key(x):
        return ops.linear(x, a["qk"], a["qk_bias"])

    def value(x):
        return ops.linear(x, a["v"], a["v_bias"])

    def attention(qk, v):
        q, k = ops.split_heads(qk, kind.heads, (kind.key, kind.key))
        (v,) = ops.split_heads(v, kind.heads, (kind.value,))
        return ops.merge_heads(ops.attention(q, k, v, a["bias"], scale)[0])

    def project(y):
        return ops.linear(y if kind.norm else ops.hardswish(y), a["projection"], a["projection_bias"])

    def mlp(x):
        return ops.linear(ops.hardswish(ops.linear(x, a["up"], a["up_bias"])), a["down"], a["down_bias"])

    def whole(x):
        h = norm(x)
        x = x + project(attention(query_key(h), value(h)))
        return x + mlp(norm(x))

    x = a["x"]
    qk, v = query_key(x), value(x)
    y = attention(qk, v)
    calls = {"Q and K": lambda: query_key(x), "V": lambda: value(x), "QKᵀ to AV as one": lambda: attention(qk, v),
             "projection": lambda: project(y), "MLP": lambda: mlp(x), "whole block": lambda: whole(x)}
    return ({"LayerNorm, both": lambda: (norm(x), norm(x))} if kind.norm else {}) | calls


def pytorch(kind: Kind, a: dict) -> dict:
    """{row: call} with torch.nn.functional."""
    import torch
    from torch.nn import functional as F

    a = {name: array if array is None else torch.from_numpy(array) for name, array in a.items()}
    scale = kind.key**-0.5

    def norm(x):
        return F.layer_norm(x, x.shape[-1:], a["gamma"], a["beta"], 1e-6) if kind.norm else x

    def query_key(x):
        return F.linear(x, a["qk"], a["qk_bias"])

    def value(x):
        return F.linear(x, a["v"], a["v_bias"])

    def heads(qk, v):
        q, k = qk.unflatten(2, (kind.heads, 2 * kind.key)).transpose(1, 2).split(kind.key, 3)
        return q, k, v.unflatten(2, (kind.heads, kind.value)).transpose(1, 2)

    def attention(qk, v):
        q, k, v = heads(qk, v)
        bias = None if a["bias"] is None else a["bias"][None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).transpose(1, 2).flatten(2)

    def project(y):
        return F.linear(y if kind.norm else F.hardswish(y), a["projection"], a["projection_bias"])

    def mlp(x):
        return F.linear(F.hardswish(F.linear(x, a["up"], a["up_bias"])), a["down"], a["down_bias"])

    def whole(x):
        h = norm(x)
        x = x + project(attention(query_key(h), value(h)))
        return x + mlp(norm(x))

    x = a["x"]
    qk, v = query_key(x), value(x)
    q, k, parted = heads(qk, v)
    y, scores = attention(qk, v), q @ k.transpose(2, 3)
    probabilities = scores.softmax(-1)
    calls = {"Q and K": lambda: query_key(x), "V": lambda: value(x), "QKᵀ": lambda: q @ k.transpose(2, 3),
             "softmax": lambda: (scores * scale if kind.norm else scores * scale + a["bias"]).softmax(-1),
             "AV": lambda: probabilities @ parted, "QKᵀ to AV as one": lambda: attention(qk, v),
             "projection": lambda: project(y), "MLP": lambda: mlp(x), "whole block": lambda: whole(x)}
    return ({"LayerNorm, both": lambda: (norm(x), norm(x))} if kind.norm else {}) | calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="example: taskset -c 0 python bench/blocks.py --rounds 15")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each part (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results", metavar="FOLDER",
                        help="where blocks-<processor>.json goes (default: bench/results)")
    chosen = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    import torch
    from report import result_path
    from rich.console import Console
    from rich.progress import Progress

    from levit_np.benchmark.machine import describe
    from levit_np.benchmark.rounds import interleaved
    from levit_np.storage.atomic import replacing

    torch.set_num_threads(1)
    backend, ops = _fastest()
    console, machine, blocks = Console(), describe(("numpy", "numba", "torch")), {}
    for name, kind in KINDS.items():
        arrays = arrays_of(kind)
        with torch.inference_mode(), Progress(console=console, transient=True) as progress:
            parts = {"ours": ours(kind, arrays, ops), "PyTorch": pytorch(kind, arrays)}
            error = abs(parts["ours"]["whole block"]() - parts["PyTorch"]["whole block"]().numpy()).max()
            if not error < 1e-3:
                raise SystemExit(f"{name}: expected both blocks to agree within 1e-3, found {error}")
            calls = {(who, row): call for row in ROWS for who, found in parts.items() if (call := found.get(row))}
            task = progress.add_task(name, total=len(calls) * chosen.rounds)
            times = interleaved(calls, chosen.rounds, 0.03, progress=lambda: progress.advance(task))
        blocks[name] = {who: {row: 1e6 * median(times[who, row]) for row in ROWS if (who, row) in times}
                        for who in parts} | {"paper": dict(zip(ROWS, kind.paper))}
        console.print(_table(f"{name}, µs, {machine['processor']}", backend, blocks[name]))
    chosen.results.mkdir(parents=True, exist_ok=True)
    path = result_path(chosen.results, "blocks", machine["processor"])
    with replacing(path) as file:
        file.write((json.dumps({"machine": machine, "backend": backend, "rounds": chosen.rounds,
                                "microseconds": blocks}, indent=1) + "\n").encode())
    console.print(f"written: {path}")


def _fastest():
    """(name, operations) of our fastest backend on this processor."""
    from levit_np.errors import BackendError
    from levit_np.ops import backend

    try:
        return "cpu", backend("cpu")
    except BackendError:
        return "reference", backend("reference")


def _table(title, backend, block):
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("", f"ours ({backend})", "PyTorch", "paper's core"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in ROWS:
        cells = [block[who].get(row) for who in ("ours", "PyTorch", "paper")]
        if any(cells):
            table.add_row(row, *("" if cell is None else f"{cell:.0f}" for cell in cells))
    return table


if __name__ == "__main__":
    main()
