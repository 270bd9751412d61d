"""Assembles a page in one HTML file: document, numbers, styles, scripts, and a content policy that forbids anything
else."""

import base64
import hashlib
import html
import json
from functools import cache
from pathlib import Path

import numpy as np

from ...model import LeViT
from .collect import Pass
from .detail import DETAILS

WEB = Path(__file__).with_name("web")
# Concatenated in this order, in one scope.
SCRIPTS = ("base", "text.en", "text.zh", "tensors", "draw", "panel", "network", "makes", "makes_backward", "number",
           "code", "stop", "convolution", "attention", "bias", "normalization", "answer", "overview", "diagram",
           "block", "tour", "live", "main")
LIMIT = 9_900_000  # bytes per page


def write(model: LeViT, x: np.ndarray, labels, preprocessing=None, about: str = "", whole: bool = False,
          **classes) -> tuple[dict, str]:
    """The arguments of `assemble` for one image x (1, C, H, W), in as much detail as LIMIT allows, or in the least;
    `whole`: with every number, however large the page becomes.

    preprocessing (to_dict) is needed to show the image's pixels; classes: target, teacher and rival, see Pass."""
    done, details = Pass(model, x, **classes), DETAILS[:2] if whole else DETAILS
    size = 0.5  # bytes per estimated character: seldom fewer
    for detail in details:
        document, tensors = done.document(detail, labels, about, preprocessing)
        if tensors.estimate() * size > LIMIT and detail is not details[-1]:
            continue
        document["tensors"], numbers = tensors.table()
        written = len(assemble(document, numbers).encode())
        if written <= LIMIT:
            break
        size = 0.98 * written / tensors.estimate()  # for one pass it changes little between details
    return document, numbers


def assemble(document: dict, numbers: str, served: bool = False) -> str:
    """The page as HTML text; a served page may also send requests to its server."""
    style, script, frame = _sources()
    asks = "'self'" if served else "'none'"
    policy = (f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data: blob:; "
              f"connect-src {asks}; base-uri 'none'; form-action 'none'")
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    title = html.escape(f"{document['model']['name']}: {document['about']}")
    parts = {"POLICY": policy, "TITLE": title, "STYLE": style, "DOCUMENT": data, "NUMBERS": numbers, "SCRIPT": script}
    first, *rest = frame.split("@")
    # The frame alternates between text and the names of what to insert.
    return first + "".join(parts[piece] if i % 2 == 0 else piece for i, piece in enumerate(rest))


@cache
def _sources() -> tuple[str, str, str]:
    """(style, script, frame)."""
    script = "\n".join(WEB.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    style = "".join(WEB.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in ("style", "views", "stop"))
    return style, script, WEB.joinpath("page.html").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
