"""How long `levit-np classify` takes as a whole process, with its files in the disk cache: python bench/classify.py

Prints the median, the fastest and the slowest of 15 runs beside those of an interpreter that only imports NumPy, taking
turns, and writes bench/results/classify.json. A single time depends on the machine: only the ratio is meaningful."""

import argparse
import subprocess
import sys
from functools import partial
from statistics import median

from report import ROOT, run, this_machine, write_json

from levit_np.benchmark.rounds import interleaved

RUNS = 15
COMMANDS = {
    "levit-np classify": [sys.executable, "-m", "levit_np.cli", "classify", "weights/samples/digit_3.png"],
    "import numpy": [sys.executable, "-c", "import numpy"],
}


def main():
    about, _, details = __doc__.partition(": ")  # there are no options but --help
    argparse.ArgumentParser(description=about, epilog=f"example: {details}",
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    machine = this_machine(("numpy",))
    # A turn is one run, after one that fills the disk cache and writes byte code.
    times = interleaved({name: partial(subprocess.run, command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                         for name, command in COMMANDS.items()}, RUNS, seconds=0)
    seconds = {name: {"median": median(t), "fastest": min(t), "slowest": max(t)} for name, t in times.items()}
    write_json(ROOT / "bench/results/classify.json", {"machine": machine, "seconds": seconds})
    for name, found in seconds.items():
        print(f"{name:<20}" + "".join(f"  {key} {value:.3f} s" for key, value in found.items()))


if __name__ == "__main__":
    run(main)
