"""How long `levit-np classify` takes as a whole process, with its files in the disk cache: python bench/classify.py

Prints the median, the fastest and the slowest of 15 runs beside those of an interpreter that only imports NumPy, taking
turns, and writes bench/results/classify.json. A single time depends on the machine: only the ratio is meaningful."""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from report import commit, run, write_json

from levit_np.benchmark.machine import processor

ROOT = Path(__file__).resolve().parent.parent
RUNS = 15
COMMANDS = {
    "levit-np classify": [sys.executable, "-m", "levit_np.cli", "classify", "weights/samples/digit_3.png"],
    "import numpy": [sys.executable, "-c", "import numpy"],
}


def main():
    about, _, details = __doc__.partition(": ")  # there are no options but --help
    argparse.ArgumentParser(description=about, epilog=f"example: {details}",
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    times = {name: [] for name in COMMANDS}
    for run in range(RUNS + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            if run:  # the first run fills the disk cache and writes byte code
                times[name].append(time.perf_counter() - start)
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    result = {
        "date": datetime.date.today().isoformat(), "commit": commit(), "cpu": processor(), "cores": os.cpu_count(),
        "python": platform.python_version(), "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}, OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', 'unset')}",
        "seconds": {name: {"median": round(statistics.median(t), 3), "fastest": round(min(t), 3),
                           "slowest": round(max(t), 3)} for name, t in times.items()},
    }
    write_json(ROOT / "bench/results/classify.json", result)
    for name, seconds in result["seconds"].items():
        print(f"{name:<20}" + "".join(f"  {key} {value:.3f} s" for key, value in seconds.items()))


if __name__ == "__main__":
    run(main)
