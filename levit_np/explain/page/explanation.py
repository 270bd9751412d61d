"""What model.explain(x) returns: the page, which a notebook shows in place."""

import html
from pathlib import Path

from ...storage.atomic import replacing


class Explanation:
    """One page.  `html` is its text; save writes it to a file, which opens from disk without a network."""

    def __init__(self, page: str):
        self.html = page

    def __repr__(self):
        return f"<Explanation: a page of {len(self.html.encode()) / 1e6:.1f} MB; save(path) writes it, a notebook shows it>"

    def _repr_html_(self) -> str:
        """A frame of its own, that may run its scripts and reach nothing outside."""
        return (f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="LeViT, step by step" '
                'style="width: 100%; height: 900px; border: 1px solid #ccc"></iframe>')

    def save(self, path) -> None:
        """Replaces `path` by the page; OSError where it cannot be written."""
        with replacing(Path(path)) as file:
            file.write(self.html.encode())
