"""The result of model.explain(x): the page, which notebooks display and save(path) writes."""

import html

from ...storage.atomic import replacing
from .writer import assemble


class Explanation:
    """One page.  `html` is its text; save writes it to a file that opens without a network; `document` is its content
    without the numbers."""

    def __init__(self, document: dict, numbers: str):
        self.document, self._numbers = document, numbers

    @property
    def html(self) -> str:
        return assemble(self.document, self._numbers)

    def served(self, live: dict) -> str:
        """The page as served, which can ask its server for another image; live: the weights to choose from."""
        return assemble(self.document | {"live": live}, self._numbers, served=True)

    def __repr__(self):
        return f"<Explanation of {self.document['about']}: save(path) writes the page, a notebook shows it>"

    def _repr_html_(self) -> str:
        """The page for a notebook, in a sandboxed frame that runs its own scripts but cannot reach anything outside."""
        return (f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="LeViT, step by step" '
                'style="width: 100%; height: 900px; border: 1px solid #ccc"></iframe>')

    def save(self, path) -> None:
        """Writes the page to `path`.  Raises OSError if that fails."""
        with replacing(path) as file:
            file.write(self.html.encode())
