"""How long it takes until LeViT-256's page can be used, and its size: python bench/page.py

A page of one image with both losses is opened from disk in nine new headless Chromiums. By the browser's clock, the
time is taken from the start of navigation until the page reports that its overview is drawn and responds. Writes
bench/results/page-<processor>.json."""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from report import ROOT, result_path, run, this_machine, write_json

RUNS = 9


def main():
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="example: python bench/page.py").parse_args()
    from tests.explain.chromium import PROGRAM, Chromium
    from tests.random_model import random_images, random_model

    if PROGRAM is None:
        sys.exit("bench/page.py: expected chromium, chromium-browser or google-chrome on the path, found none")
    machine = this_machine(("numpy",))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        model = random_model("levit_256", backend="reference")
        print("writing the page …", flush=True)
        model.explain(random_images(model, 1)[0], target=3, teacher=5).save(path)
        size, seconds = path.stat().st_size, []
        for run in range(RUNS):
            with Chromium() as browser:
                browser.open(path.as_uri())
                seconds.append(browser.js("performance.now()") / 1000)
            print(f"{run + 1}/{RUNS}: {seconds[-1]:.2f} s", flush=True)
        assert browser.requests == [path.as_uri()] and browser.errors == [], (browser.requests, browser.errors)
    result = {"machine": machine, "bytes": size, "seconds to use": {
        "median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}}
    print(f"{size / 1e6:.2f} MB, ready after {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    write_json(result_path(ROOT / "bench/results", "page", machine), result)


if __name__ == "__main__":
    run(main)
