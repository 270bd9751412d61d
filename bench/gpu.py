"""The speed of LeViT on a GPU, compared with PyTorch: python bench/gpu.py --help

The same weights and images, in one process, taking turns, timed with the GPU's events. README.md explains the result.
--dry-run needs no GPU: it lists what would be measured, and a lower bound of each kernel's time."""

import argparse
from pathlib import Path

EXAMPLE = """examples:
  python bench/gpu.py                                                 everything: hours, most of it PyTorch's compiling
  python bench/gpu.py --minutes 9 --missing                           as much as fits; the same again goes on
  python bench/gpu.py --parts inference --models levit_256 --batches 1 1024 --precisions float16
  python bench/gpu.py --parts limits kernels training --peers eager   minutes
  python bench/gpu.py --models levit_384 --mode reduce-overhead --alone /tmp/turn &   one of several at the same time
  python bench/gpu.py --dry-run --models levit_256                    what would be measured, and is expected; no GPU
"""
PARTS = ("limits", "inference", "kernels", "training")
PEERS_OF = {"inference": ("eager", "compile", "folded", "folded-sdpa"), "training": ("eager", "compile", "graphs")}
PEERS = tuple(dict.fromkeys(PEERS_OF["inference"] + PEERS_OF["training"]))
MODES = ("max-autotune", "reduce-overhead")
LARGEST = "largest"
V100 = {"levit_128s": 12880, "levit_128": 9266, "levit_192": 8601, "levit_256": 6582, "levit_384": 4165}  # the paper's


def batch(text):
    if text == LARGEST:
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, or {LARGEST!r}, found {text!r}")
    return int(text)


def arguments(given=None):
    from report import add_results

    from levit_np.commands.common import whole

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EXAMPLE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART",
                        help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--models", nargs="+", default=list(V100), choices=list(V100), metavar="NAME",
                        help=f"of {', '.join(V100)} (default: all)")
    parser.add_argument("--batches", nargs="+", type=batch, default=[1, 64, 256, 1024, LARGEST], metavar="N",
                        help=f"(default: 1 64 256 1024 {LARGEST})")
    parser.add_argument("--precisions", nargs="+", default=["float16", "bfloat16", "float32"], metavar="NAME",
                        choices=("float16", "bfloat16", "float32", "tf32"),
                        help="of float16, bfloat16, float32, tf32 (default: all but the last)")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS, metavar="NAME",
                        help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--mode", default=MODES[0], choices=MODES,
                        help="of torch.compile; the second compiles in seconds what the first tries out for minutes "
                             "(default: %(default)s)")
    parser.add_argument("--rounds", type=whole, default=9, metavar="N", help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn (default: %(default)s)")
    parser.add_argument("--minutes", type=float, metavar="N",
                        help="begin nothing more after so many (default: no limit)")
    parser.add_argument("--alone", type=Path, metavar="FILE",
                        help="share this file's lock while preparing, and hold it alone while measuring: runs for "
                             "several models can then be started at once, and compile at once, but measure one after "
                             "the other")
    parser.add_argument("--missing", action="store_true",
                        help="skip what the result already has complete, measured at this commit")
    parser.add_argument("--dry-run", action="store_true", help="list what would be measured, without a GPU")
    add_results(parser)
    return parser.parse_args(given)


def measurements(chosen) -> list:
    """(part, what) in the order of measuring."""
    found = [("limits", (precision,)) for precision in chosen.precisions if "limits" in chosen.parts]
    for model in chosen.models:
        for precision in chosen.precisions:
            if "inference" in chosen.parts:
                found += [("inference", (model, size, precision)) for size in chosen.batches]
    if "kernels" in chosen.parts:
        found += [("kernels", (model, 256, precision)) for model in chosen.models if model == "levit_256"
                  for precision in chosen.precisions]
    if "training" in chosen.parts:
        found += [("training", (model, 256, precision)) for model in chosen.models if model == "levit_256"
                  for precision in chosen.precisions if precision != "tf32"]
    return found


def say(text: str) -> None:
    """Prints at once, so that an interrupted run has printed what it had."""
    print(text, flush=True)


def main(given=None) -> None:
    chosen = arguments(given)
    planned = measurements(chosen)
    if chosen.dry_run:
        from gpu_predictions import prediction_table

        for part, what in planned:
            peers = [peer for peer in chosen.peers if peer in PEERS_OF.get(part, ())]
            peers = ["PyTorch's operations"] if part == "kernels" else peers
            say(f"{part}: {', '.join(map(str, what))}" + (f"; beside {', '.join(peers)}" if peers else ""))
        for model in chosen.models:
            say(prediction_table(model, 1024, "float16"))
        return
    from gpu_measuring import Measuring

    take(Measuring(chosen, say), planned, chosen)


def take(measuring, planned, chosen) -> None:
    for number, (part, what) in enumerate(planned, 1):
        if chosen.missing and measuring.has(part, what):
            continue
        if measuring.over():
            say(f"{chosen.minutes:g} minutes are over before {number} of {len(planned)}; --missing goes on from there")
            break
        say(f"{number} of {len(planned)}: {part} {', '.join(map(str, what))}")
        measuring.take(part, what)
    say(f"written: {measuring.path}")


if __name__ == "__main__":
    from report import run

    run(main)
