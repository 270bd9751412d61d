"""One training step of LeViT-256, batch 16, one thread, float32, ours beside PyTorch eager: python bench/training.py

Forward, cross-entropy on both heads, backward, AdamW over every parameter; the same starting weights and images on
transformers' network, taking turns in one process.  Writes bench/results/training-<processor>.json.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from report import result_path  # noqa: E402

import levit_np  # noqa: E402
from levit_np.benchmark.machine import describe  # noqa: E402
from levit_np.benchmark.rounds import interleaved, ratio  # noqa: E402

BATCH, ROUNDS, RATE, DECAY = 16, 9, 1e-4, 0.025


def ours(model, x, labels):
    ops, targets, moments, step = model.ops, model.ops.targets_of(labels, 1000, 0.1, np.float32), {}, [0]

    def call():
        step[0] += 1
        outputs, saved = model.forward(x, training=True)
        model.zero_gradients()
        model.backward([ops.cross_entropy_backward(o, targets) for o in outputs], saved)
        state = model.state()
        for name, gradient in model.gradients().items():
            first, second = moments.get(name) or (np.zeros_like(gradient), np.zeros_like(gradient))
            state[name], *moments[name] = ops.adamw(state[name], gradient, first, second, step[0], RATE, decay=DECAY)
        model.set_state(state)
        return float(sum(ops.cross_entropy(o, targets) for o in outputs))

    return call


def pytorch(model, x, labels):
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
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, weight_decay=DECAY)
    x, labels = torch.from_numpy(x), torch.from_numpy(labels)

    def call():
        out = theirs(x)
        loss = sum(torch.nn.functional.cross_entropy(o, labels, label_smoothing=0.1)
                   for o in (out.cls_logits, out.distillation_logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def main():
    generator = np.random.default_rng(0)
    model = levit_np.create("levit_256", backend="cpu")
    x = generator.standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    labels = generator.integers(0, 1000, BATCH)
    calls = {"PyTorch eager": pytorch(model, x, labels), "levit_np": ours(model, x, labels)}
    losses = {name: call() for name, call in calls.items()}
    times = interleaved(calls, ROUNDS)
    result = {"machine": describe(("numpy", "numba", "torch", "transformers")), "batch": BATCH, "threads": 1,
              "first loss": losses, "seconds": {name: median(t) for name, t in times.items()},
              "times as fast": ratio(times["PyTorch eager"], times["levit_np"])}
    path = result_path(ROOT / "bench/results", "training", result["machine"]["processor"])
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for name, seconds in result["seconds"].items():
        print(f"{name:<14} {seconds:.3f} s a step  first loss {losses[name]:.6f}")
    print(f"{result['times as fast']:.2f} times as fast as PyTorch eager; written: {path.name}")


if __name__ == "__main__":
    main()
