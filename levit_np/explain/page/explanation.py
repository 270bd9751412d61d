"""What model.explain(x) returns: the page, which a notebook shows in place."""

import html
from pathlib import Path

from ...storage.atomic import replacing
from .writer import assemble


class Explanation:
    """One page.  `html` is its text; save writes it to a file, which opens from disk without a network; `document` is
    what it shows, but for the numbers."""

    def __init__(self, document: dict, numbers: str):
        self.document, self._numbers = document, numbers

    @property
    def html(self) -> str:
        return assemble(self.document, self._numbers)

    def served(self, live: dict) -> str:
        """The page as its server gives it, with the means to ask for another image; live: what there is to choose."""
        return assemble(self.document | {"live": live}, self._numbers, served=True)

    def __repr__(self):
        return f"<Explanation of {self.document['about']}: save(path) writes the page, a notebook shows it>"

    def _repr_html_(self) -> str:
        """A frame of its own, which may run its scripts and reach nothing outside."""
        return (f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="LeViT, step by step" '
                'style="width: 100%; height: 900px; border: 1px solid #ccc"></iframe>')

    def save(self, path) -> None:
        """Replaces `path` by the page; OSError where it cannot be written."""
        with replacing(Path(path)) as file:
            file.write(self.html.encode())
