"""The page of the notebook: its text and its code, without outputs."""

from __future__ import annotations

import json
from pathlib import Path

from pages import ROOT, page_map, translate

NAME = "docs/notebook.ipynb"


def cells(path: Path) -> list[tuple[str, str]]:
    """Return the (type, source) of each cell of a notebook."""
    document = json.loads(path.read_text("utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]]


def write_notebook_page(folder: Path) -> None:
    """Write notebook.md into the folder of the pages."""
    parts = []
    for kind, source in cells(ROOT / NAME):
        parts.append(source if kind == "markdown" else f"```python\n{source}\n```")
    text = translate("\n\n".join(parts) + "\n", NAME, page_map())
    (folder / "notebook.md").write_text(text, "utf-8")
