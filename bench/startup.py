"""The time from starting a process to the first logits of LeViT-256, in child processes that take turns.

`python bench/startup.py WHICH WEIGHTS IMAGES CACHE BACKEND` is such a child;
`python bench/cpu.py --startup` starts them."""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from memory import peak_mib

MODEL = "levit_256"
LABELS = {"numpy": "import numpy alone", "compiling": "levit_np, compiling its kernels", "ours": "levit_np",
          "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
          "openvino-cached": "OpenVINO, its compiled model cached"}


def measure(folder, chosen, machine, peers, console) -> dict:
    """The median of chosen.rounds starts of each program, after one that is not counted, and one start without cached
    kernels; also prints the table."""
    import numpy as np
    from rich.box import SIMPLE
    from rich.progress import Progress, TimeElapsedColumn
    from rich.table import Table
    from runners import Job, exported, random_state

    import levit_np
    from levit_np.benchmark.machine import load_average

    config, state = random_state(MODEL)
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    np.save(folder / "images.npy", images)
    model = levit_np.create(MODEL, backend="reference")
    model.set_state(state)
    model.save(folder / "ours.h5")
    weights = {"numpy": "-", "ours": folder / "ours.h5"}
    if set(peers) & {"onnxruntime", "openvino"}:
        with console.status("exporting to ONNX"):
            onnx = exported(Job(config, state, images, 1, chosen.backend, folder))
        weights |= {"onnxruntime": onnx} if "onnxruntime" in peers else {}
        weights |= {"openvino": onnx, "openvino-cached": onnx} if "openvino" in peers else {}
    starts, before = {which: [] for which in weights}, load_average()
    with console.status("a start that compiles the kernels"):
        empty = {"LEVIT_NP_CACHE": str(folder / "no kernels")}
        starts["compiling"] = [_start("ours", weights["ours"], folder, chosen.backend, empty)]
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("whole processes", total=len(weights) * (chosen.rounds + 1))
        for turn in range(chosen.rounds + 1):
            for which, path in weights.items():
                start = _start(which, path, folder, chosen.backend)
                if turn:
                    starts[which].append(start)
                progress.advance(task)
    rows = [{"key": which, "seconds": median(s for s, _ in found), "fastest": min(s for s, _ in found),
             "slowest": max(s for s, _ in found), "peak_mib": median(m for _, m in found)}
            for which, found in starts.items()]
    table = Table(title=f"{MODEL}, from the start of a process to its first logits, one thread", title_justify="left",
                  box=SIMPLE)
    for heading in ("", "seconds", "fastest to slowest", "peak MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(LABELS[row["key"]], f"{row['seconds']:.3f}", f"{row['fastest']:.3f} {row['slowest']:.3f}",
                      f"{row['peak_mib']:.0f}", style="bold" if row["key"] == "ours" else None)
    console.print(table)
    return {"machine": machine, "model": MODEL, "rounds": chosen.rounds, "backend": chosen.backend,
            "load_average": {"before": before, "after": load_average()}, "rows": rows}


def _start(which, path, folder, backend, variables={}) -> tuple[float, float]:
    """(seconds until the child reports its logits, its peak memory in MiB)."""
    command = [sys.executable, __file__, which, str(path), str(folder / "images.npy"), str(folder / "cache"), backend]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                          env=_environment() | variables) as child:
        first = child.stdout.readline()
        seconds = time.perf_counter() - start
        rest = child.stdout.readline()
    if first != "logits\n" or child.returncode:
        raise SystemExit(f"startup of {which}: expected logits, found {first!r} and exit status {child.returncode}")
    return seconds, json.loads(rest)


def _environment():
    import os

    root = str(Path(__file__).resolve().parent.parent)
    there = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return there | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def child(which, weights, images, cache, backend):
    """Imports only what a user's own script would import."""
    import numpy as np

    if which == "numpy":
        logits = np.zeros((1, 1000))
    elif which == "ours":
        import levit_np

        logits = levit_np.load(weights, backend=backend)(np.load(images))
    elif which == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"images": np.load(images)})
    else:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        if which == "openvino-cached":
            settings["CACHE_DIR"] = cache
        logits = openvino.Core().compile_model(weights, "CPU", settings)(np.load(images))[0]
    assert logits.shape == (1, 1000)
    print("logits", flush=True)
    print(peak_mib(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 6:  # argparse would add to the time that is measured
        sys.exit(__doc__)
    child(*sys.argv[1:])
