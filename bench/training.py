"""One training step compared with PyTorch's, eager and compiled: python bench/training.py [--models levit_256 …]

Forward, the loss on both heads, backward and AdamW for all parameters: batch 16, one thread, float32, from the same
weights and images as transformers' network, without drop path, taking turns in one process. Also the time of each
operation in our step when it is not recorded. --memory adds the peak memory of processes that only take a few steps,
ours and theirs. Writes bench/results/training-<processor>.json, one model at a time."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from inspect import isfunction
from statistics import median
from time import perf_counter
from types import SimpleNamespace

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from memory import peak_mib  # noqa: E402
from report import add_results, earlier, lacking, result_path, run, this_machine, write_json  # noqa: E402

import levit_np  # noqa: E402
from levit_np.benchmark.rounds import interleaved, ratio  # noqa: E402
from levit_np.commands.common import whole  # noqa: E402
from levit_np.config import config_of  # noqa: E402
from levit_np.model import LeViT  # noqa: E402
from levit_np.ops import cpu  # noqa: E402
from levit_np.training.recipe import Recipe  # noqa: E402
from levit_np.training.trainer import Trainer  # noqa: E402

MODELS = levit_np.list_models()[:5]
BATCH, RATE, SMOOTHING, DECAY = 16, 1e-4, 0.1, 0.025
PEERS = "PyTorch eager", "torch.compile"
STEPS = 4  # steps of a process whose memory is measured


def ours(model, x, labels, recorded=True):
    """What Trainer.step does between its checks; the recipe has no clipping or averaging."""
    recipe = Recipe(clip=0, average=0, decay=DECAY, smoothing=SMOOTHING)
    trainer = Trainer(model, SimpleNamespace(steps=1), recipe)
    one_pass = trainer.one_pass if recorded else trainer.passed
    targets = model.ops.targets_of(labels, 1000, SMOOTHING, np.float32)

    def call():
        model.zero_gradients()
        loss, _ = one_pass(x, targets, share=1.0)
        trainer.update(model.gradients(), RATE)
        return float(loss)

    return call


def pytorch(model, x, labels, compiled):
    import torch
    from safetensors.torch import load_file
    from transformers import LevitConfig, LevitForImageClassificationWithTeacher

    torch.set_num_threads(1)
    config = model.config
    theirs = LevitForImageClassificationWithTeacher(LevitConfig(
        hidden_sizes=[s.channels for s in config.stages], depths=[s.depth for s in config.stages],
        num_attention_heads=[s.heads for s in config.stages], key_dim=[config.key_size] * 3, num_labels=1000)).train()
    with tempfile.TemporaryDirectory() as folder:
        levit_np.export(model, f"{folder}/weights.safetensors", format="transformers")
        theirs.load_state_dict(load_file(f"{folder}/weights.safetensors"), strict=False)
    # PyTorch's default is one optimizer call for all parameters. As in ours, only weights decay: here, arrays with two
    # or more axes, except attention biases.
    named = dict(theirs.named_parameters())
    decayed = [p for name, p in named.items() if p.ndim > 1 and name.endswith("weight")]
    rest = [p for name, p in named.items() if p.ndim == 1 or not name.endswith("weight")]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=RATE,
                                  weight_decay=DECAY)
    x, labels = torch.from_numpy(x), torch.from_numpy(labels)
    network = torch.compile(theirs) if compiled else theirs

    def call():
        out = network(x)
        loss = sum(torch.nn.functional.cross_entropy(o, labels, label_smoothing=SMOOTHING)
                   for o in (out.cls_logits, out.distillation_logits)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def prepared(name):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    return levit_np.create(name, backend="cpu", drop_path=0.0), x, generator.integers(0, 1000, BATCH)


def measured(name, rounds, peers):
    model, x, labels = prepared(name)
    calls = {peer: pytorch(model, x, labels, peer == PEERS[1]) for peer in peers}
    calls["levit_np"] = ours(model, x, labels)
    losses = {name: call() for name, call in calls.items()}  # here torch.compile compiles
    calls["levit_np"]()  # here ours is recorded
    times = interleaved(calls, rounds)
    fastest = min(peers, key=lambda peer: median(times[peer]), default=None)
    return {"first loss": losses, "seconds": {name: median(t) for name, t in times.items()},
            "fastest peer": fastest, "times as fast": ratio(times[fastest], times["levit_np"]) if fastest else None,
            "milliseconds by operation": by_operation(name)}


def by_operation(name):
    """{operation: milliseconds of a step spent in its calls}, as medians of a few steps that are not recorded, longest
    first."""
    _, x, labels = prepared(name)
    spent = Counter()

    def timed(operation):
        def call(*arguments, **named):
            start = perf_counter()
            result = operation(*arguments, **named)
            spent[operation.__name__] += 1000 * (perf_counter() - start)
            return result
        return call

    ops = SimpleNamespace(**{key: timed(value) if isfunction(value) else value for key, value in vars(cpu).items()})
    model = LeViT(config_of(name, drop_path=0.0), ops)
    model.set_state(levit_np.create(name, drop_path=0.0).state())
    call, steps = ours(model, x, labels, recorded=False), []
    for _ in range(STEPS):
        spent.clear()
        start = perf_counter()
        call()
        spent["everything"] = 1000 * (perf_counter() - start)
        steps.append(dict(spent))
    found = {key: median(step[key] for step in steps[1:]) for key in steps[-1]}
    return {key: round(found[key], 1) for key in sorted(found, key=found.get, reverse=True) if found[key] >= 1}


def peak_memory(name, which):
    """The peak memory in MiB of a process of its own that takes a few steps."""
    command = [sys.executable, __file__, "--models", name, "--only", which]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def only(name, which):
    model, x, labels = prepared(name)
    call = ours(model, x, labels) if which == "levit_np" else pytorch(model, x, labels, which == PEERS[1])
    if which != "levit_np":
        del model
    for _ in range(STEPS):
        call()
    print(peak_mib())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="example: taskset -c 0 python bench/training.py --memory")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=whole, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of LeViT-256's step")
    parser.add_argument("--only", choices=(*PEERS, "levit_np"), help=argparse.SUPPRESS)
    add_results(parser)
    arguments = parser.parse_args()
    if arguments.only:
        return only(arguments.models[0], arguments.only)
    machine = this_machine(("numpy", "numba", "torch", "transformers"))
    path = result_path(arguments.results, "training", machine)
    result, peers = earlier(path, {"models": {}}), PEERS
    if reason := lacking(("torch", "transformers")):
        print(f"PyTorch is left out: {reason}")
        peers = ()
    for name in arguments.models:
        found = measured(name, arguments.rounds, peers)
        result["models"][name] = {"machine": machine, "batch": BATCH, "threads": 1} | found
        for peer, seconds in found["seconds"].items():
            print(f"{name:<11} {peer:<14} {seconds:.3f} s a step  first loss {found['first loss'][peer]:.6f}")
        if peers:
            print(f"{name:<11} {found['times as fast']:.2f} times as fast as {found['fastest peer']}")
        print(f"{name:<11} ms by operation:", found["milliseconds by operation"], flush=True)
        write_json(path, result)
    if arguments.memory:
        result["peak MiB, levit_256"] = {which: peak_memory("levit_256", which) for which in (*peers, "levit_np")}
        print("peak MiB, levit_256:", result["peak MiB, levit_256"])
        write_json(path, result)


if __name__ == "__main__":
    run(main)
