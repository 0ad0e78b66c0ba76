"""Figures as inline SVG that takes its colours from the page: one drawing for light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"ink": "#010203", "muted": "#010204", "accent": "#010205", "second": "#010206", "grid": "#010207"}
"""Colours to draw with; each stands for the CSS variable of its name."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "text.parse_math": False,  # a label may contain $
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw(name: str, description: str, size: tuple[float, float], plot: Callable[[Figure], None]) -> str:
    """Return the SVG element of a figure.

    `name` makes its ids unique on the page, `description` is its text for screen readers, `size` is
    in inches of 72 units, and `plot` draws into the empty figure.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        plot(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, description)


def _inline(document: str, name: str, description: str) -> str:
    """Return the SVG element of a document, with ids of its own and the colours of the page."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    for variable, colour in COLOURS.items():
        element = element.replace(colour, f"var(--{variable})")
    start, end = element.split(">", 1)
    start = re.sub(r' (?:width|height|version|xmlns:xlink)="[^"]*"', "", start)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'{start} role="img" aria-label="{label}">{end.strip()}'
