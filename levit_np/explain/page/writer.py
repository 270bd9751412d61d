"""A page of one file: the document and its numbers, the styles and the scripts, and a policy that forbids the rest."""

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
# In this order, in one scope.
SCRIPTS = ("base", "text.en", "text.zh", "tensors", "draw", "panel", "network", "makes", "makes_backward", "number",
           "code", "stop", "convolution", "attention", "bias", "normalization", "answer", "overview", "diagram",
           "block", "tour", "live", "main")
LIMIT = 9_900_000  # bytes of a page


def write(model: LeViT, x: np.ndarray, labels, preprocessing=None, about: str = "", whole: bool = False,
          **classes) -> tuple[dict, str]:
    """What `assemble` makes a page of, for one image x (1, C, H, W), in as much detail as LIMIT allows; `whole`: with
    every number, however large it becomes.

    preprocessing (to_dict) makes the pixels visible again; classes: target, teacher and rival, see Pass."""
    done, details = Pass(model, x, **classes), DETAILS[:2] if whole else DETAILS
    size = 0.5  # bytes a letter that is estimated: at least
    for detail in details:
        document, tensors = done.document(detail, labels, about, preprocessing)
        if tensors.estimate() * size > LIMIT and detail is not details[-1]:
            continue
        document["tensors"], numbers = tensors.table()
        written = len(assemble(document, numbers).encode())
        if written <= LIMIT:
            break
        size = 0.98 * written / tensors.estimate()  # of one pass it changes little from detail to detail
    return document, numbers


def assemble(document: dict, numbers: str, served: bool = False) -> str:
    """The page as HTML text; one that is served may also ask its server for another."""
    style, script, frame = _sources()
    asks = "'self'" if served else "'none'"
    policy = (f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data: blob:; "
              f"connect-src {asks}; base-uri 'none'; form-action 'none'")
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    title = html.escape(f"{document['model']['name']}: {document['about']}")
    parts = {"POLICY": policy, "TITLE": title, "STYLE": style, "DOCUMENT": data, "NUMBERS": numbers, "SCRIPT": script}
    first, *rest = frame.split("@")
    # The frame alternates between text and the names of what stands there.
    return first + "".join(parts[piece] if i % 2 == 0 else piece for i, piece in enumerate(rest))


@cache
def _sources() -> tuple[str, str, str]:
    """(style, script, frame)."""
    script = "\n".join(WEB.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    style = "".join(WEB.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in ("style", "views", "stop"))
    return style, script, WEB.joinpath("page.html").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
