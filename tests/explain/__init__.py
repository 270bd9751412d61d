from pathlib import Path

DIGIT = Path(__file__).resolve().parents[2] / "weights/samples/digit_3.png"
