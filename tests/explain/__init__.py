"""Explaining a pass: the trace, and how it is shown on a terminal and in a browser."""

from pathlib import Path

DIGIT = Path(__file__).resolve().parents[2] / "weights/samples/digit_3.png"
