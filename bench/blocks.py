"""The parts of a block, as in the paper's Table 6, compared with PyTorch's: python bench/blocks.py --help

One image, one thread; microseconds, as medians of turns in one process. The first block of LeViT-256 (with folded BN)
and of DeiT-tiny (LayerNorm, a wider MLP, a class token; with Hardswish, so that only the shapes differ)."""

import argparse
import os
from contextlib import nullcontext
from statistics import median

# The rows of the table, the steps of our plan in each, and Table 6's microseconds (one core of a Xeon E5-2698). The
# paper does not divide LayerNorm and does not time the softmax. Ours computes Q, K and V in one product, and the whole
# attention in one step.
ROWS = {
    "LayerNorm, both": ("attention.norm", "mlp.norm"), "Q and K": (), "V": (), "Q, K and V": ("attention.qkv",),
    "QKᵀ": (), "softmax": (), "AV": (), "QKᵀ to AV": ("attention",), "projection": ("attention.projection",),
    "MLP": ("mlp.up", "mlp.down"),
}
PAPER = {
    "levit_256": {"Q and K": 275, "V": 275, "QKᵀ": 159, "AV": 206, "projection": 310, "MLP": 1140, "whole block": 2365},
    "deit_tiny": {"LayerNorm, both": 49, "Q and K": 299, "V": 172, "QKᵀ": 228, "AV": 161, "projection": 175,
                  "MLP": 1390, "whole block": 2474},
}


def ours(name: str) -> dict:
    """{row: call}: steps of the model's own program for one image, run separately.

    A step that adds to the residual stream adds again in each call, which changes the numbers but not the time."""
    import numpy as np

    import levit_np
    from levit_np.inference.cpu import CpuExecutor

    levit_np.set_threads(1)
    executor = CpuExecutor(levit_np.create(name, backend="cpu"))
    program = executor._take(1)
    executor._run(program, np.zeros((1, 3, 224, 224), np.float32))  # now every buffer contains what the steps expect

    def run(pieces):
        for first, last in pieces:
            executor._execute(program, first, last)

    places = [i for i, step in enumerate(program.names) if step.startswith("stages.0.blocks.0.")]
    pieces = {row: [(i, i + 1) for i in places if program.names[i].removeprefix("stages.0.blocks.0.") in parts]
              for row, parts in ROWS.items()} | {"whole block": [(places[0], places[-1] + 1)]}
    return {row: lambda found=found: run(found) for row, found in pieces.items() if found}


def pytorch(name: str) -> dict:
    """{row: call} with torch.nn.functional on arrays of the same sizes."""
    import torch
    from torch.nn import functional as F

    from levit_np.config import config_of

    config = config_of(name)
    (channels, _, heads, *_), key, value = config.stages[0], config.key_size, config.value_ratio * config.key_size
    height, width = config.resolutions[0]
    tokens, is_levit = height * width + (config.pooling == "token"), config.normalization == "batch"
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    def linear(inputs, outputs):
        weight, bias = draw(outputs, inputs), draw(outputs)
        return lambda x: F.linear(x, weight, bias)

    def norm(x):
        return x if is_levit else F.layer_norm(x, (channels,), gamma, beta, 1e-6)

    def parts(qkv):
        q, k, v = qkv.split([heads * key, heads * key, heads * value], 2)
        return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v)]

    def softmax(scores):
        return (scores + bias if is_levit else scores).softmax(-1)

    def attention(qkv):
        q, k, v = parts(qkv)
        return (softmax(q @ k.transpose(2, 3)) @ v).transpose(1, 2).flatten(2)

    def project(y):
        return projection(F.hardswish(y) if is_levit else y)

    def mlp(x):
        return down(F.hardswish(up(x)))

    def whole():
        y = x + project(attention(query_key_value(norm(x))))
        return y + mlp(norm(y))

    gamma, beta, bias = draw(channels), draw(channels), draw(heads, tokens, tokens)
    query_key, values = linear(channels, 2 * heads * key), linear(channels, heads * value)
    query_key_value = linear(channels, heads * (2 * key + value))
    projection = linear(heads * value, channels)
    up, down = linear(channels, channels * config.mlp_ratio), linear(channels * config.mlp_ratio, channels)
    x = draw(1, tokens, channels)
    qkv = query_key_value(x)
    q, k, v = parts(qkv)
    scores, y = q @ k.transpose(2, 3), attention(qkv)
    probabilities = softmax(scores)
    calls = {"Q and K": lambda: query_key(x), "V": lambda: values(x), "Q, K and V": lambda: query_key_value(x),
             "QKᵀ": lambda: q @ k.transpose(2, 3), "softmax": lambda: softmax(scores), "AV": lambda: probabilities @ v,
             "QKᵀ to AV": lambda: attention(qkv), "projection": lambda: project(y), "MLP": lambda: x + mlp(x),
             "whole block": whole}
    return calls if is_levit else {"LayerNorm, both": lambda: (norm(x), norm(x))} | calls


def main():
    from report import add_results, lacking, result_path, this_machine, write_json

    from levit_np.commands.common import whole

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="example: taskset -c 0 python bench/blocks.py --rounds 15")
    parser.add_argument("--rounds", type=whole, default=15, help="turns of each part (default: %(default)s)")
    add_results(parser)
    chosen = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    from rich.console import Console
    from rich.progress import Progress

    from levit_np.benchmark.rounds import interleaved

    makers, mode = {"ours": ours}, nullcontext
    if reason := lacking(("torch",)):
        print(f"PyTorch is left out: {reason}")
    else:
        import torch

        torch.set_num_threads(1)
        makers["PyTorch"], mode = pytorch, torch.inference_mode
    console, machine, blocks = Console(), this_machine(("numpy", "numba", "torch")), {}
    for name, paper in PAPER.items():
        with mode(), Progress(console=console, transient=True) as progress:
            task = progress.add_task(name)
            calls = {(who, row): call for who, make in makers.items() for row, call in make(name).items()}
            progress.update(task, total=len(calls) * chosen.rounds)
            times = interleaved(calls, chosen.rounds, 0.03, progress=lambda: progress.advance(task))
        blocks[name] = {who: {row: 1e6 * median(seconds) for (other, row), seconds in times.items() if other == who}
                        for who in makers} | {"paper": paper}
        console.print(_table(f"{name}, µs, {machine['processor']}", blocks[name]))
    path = result_path(chosen.results, "blocks", machine)
    write_json(path, {"machine": machine, "rounds": chosen.rounds, "microseconds": blocks})
    console.print(f"written: {path}")


def _table(title, block):
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("", "ours", "PyTorch", "paper's core"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in [*ROWS, "whole block"]:
        cells = [block.get(who, {}).get(row) for who in ("ours", "PyTorch", "paper")]
        if any(cells):
            table.add_row(row, *("" if cell is None else f"{cell:.0f}" for cell in cells))
    return table


if __name__ == "__main__":
    from report import run

    run(main)
