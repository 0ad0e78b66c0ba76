"""Draw the scores of a `mervn demo` run beside their known answers, as two SVG files: for light and for dark pages.

python docs/figures/make_result.py demo docs/figures
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mervn.demo.known_answers import ANSWERS, FUSIONS, SETS, Answer

DECIDES = {"audio": {"audio"}, "text": {"text"}, "both": {"audio", "text"}, "none": set()}
"""By label set the modalities that decide the label. Nothing decides the set `none`."""
READS = {"text": {"text"}, "audio": {"audio"}, "late": {"audio", "text"}, "xattn": {"audio", "text"}}
TITLES = {"audio": "Prosody decides", "text": "Words decide", "both": "Both together decide", "none": "Nothing decides"}
THEMES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#ffffff", "text": "#1f2328", "muted": "#59636e", "grid": "#d1d9e0", "can": "#0969da", "not": "#afb8c1",
        "bound": "#bc4c00",
    },
    "dark": {
        "page": "#0d1117", "text": "#f0f6fc", "muted": "#9198a1", "grid": "#3d444d", "can": "#4493f8", "not": "#656c76",
        "bound": "#f0883e",
    },
}  # fmt: skip
WIDTH, HEIGHT = 880, 268
LEFT, TOP, PANEL, GAP, PLOT = 60, 84, 186, 18, 140
"""Pixels: the first panel's corner, the width of a panel, the space between two, the width of the bars' scale."""
STEP, BAR = 26, 14


def read_scores(demo: Path, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the test macro-F1 by label set and fusion, as the runs of a demo recorded it."""
    scores: dict[str, dict[str, float]] = {}
    for label_set in SETS:
        scores[label_set] = {}
        for fusion in FUSIONS:
            path = demo / "runs" / f"{label_set}-{fusion}-seed{seed}" / "metrics-test.json"
            scores[label_set][fusion] = json.loads(path.read_text("utf-8"))["test"]["macro_f1"]
    return scores


def draw(scores: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> str:
    """Return the figure as SVG: one panel per label set, one bar per fusion."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13" role="img">',
        "<title>Test macro-F1 of four fusions on the four label sets of the demo</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{colors["page"]}"/>',
        text(20, 30, "Test macro-F1 on four label sets of the same speech", colors["text"], 'font-size="16"'),
    ]
    for number, label_set in enumerate(SETS):
        lines += _panel(label_set, scores[label_set], LEFT + number * (PANEL + GAP), colors)
    for number, fusion in enumerate(FUSIONS):
        lines.append(text(LEFT - 8, TOP + number * STEP + BAR - 2, fusion, colors["text"], 'text-anchor="end"'))
    return "\n".join([*lines, *_legend(colors), "</svg>"]) + "\n"


def _panel(label_set: str, scores: Mapping[str, float], x: int, colors: Mapping[str, str]) -> Iterator[str]:
    yield text(x, TOP - 16, TITLES[label_set], colors["text"], 'font-weight="600"')
    bottom = TOP + len(FUSIONS) * STEP - STEP + BAR
    for value in (0.0, 1.0):
        yield line(x + value * PLOT, TOP - 4, bottom + 4, colors["grid"])
    for number, (fusion, score) in enumerate(scores.items()):
        y = TOP + number * STEP
        fill = colors["can" if DECIDES[label_set] and DECIDES[label_set] <= READS[fusion] else "not"]
        yield f'<rect x="{x}" y="{y}" width="{score * PLOT:.1f}" height="{BAR}" rx="2" fill="{fill}"/>'
        yield text(x + PLOT + 6, y + BAR - 2, f"{score:.3f}", colors["text"])
        for answer in ANSWERS:
            if answer.label_set == label_set and fusion in answer.fusions:
                yield _bound(answer, x, y, colors["bound"])
    yield line(x + 0.5 * PLOT, TOP - 4, bottom + 4, colors["muted"], 'stroke-dasharray="3 3"')


def _bound(answer: Answer, x: int, y: int, color: str) -> str:
    """Return a bracket at the bound of an answer; it opens to the side on which the score must lie."""
    at, arm = x + answer.bound * PLOT, 4 if answer.at_least else -4
    path = f"M{at + arm:.1f},{y - 3} H{at:.1f} V{y + BAR + 3} H{at + arm:.1f}"
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"/>'


def _legend(colors: Mapping[str, str]) -> Iterator[str]:
    y = HEIGHT - 46
    yield f'<rect x="20" y="{y - 11}" width="14" height="12" rx="2" fill="{colors["can"]}"/>'
    yield text(40, y, "reads what decides the label: can find it", colors["muted"])
    yield f'<rect x="320" y="{y - 11}" width="14" height="12" rx="2" fill="{colors["not"]}"/>'
    yield text(340, y, "does not read it: a higher score would be a leak", colors["muted"])
    below = y + 24
    for bound, x in ((0.0, 24), (0.0, 320)):
        answer = Answer("", (), bound, at_least=x == 24)
        yield _bound(answer, x + (0 if x == 24 else 8), below - 12, colors["bound"])
    yield text(40, below, "minimum that the demo requires", colors["muted"])
    yield text(340, below, "maximum that it allows", colors["muted"])
    yield line(560, below - 12, below + 2, colors["muted"], 'stroke-dasharray="3 3"')
    yield text(570, below, "0.50, chance", colors["muted"])


def text(x: float, y: float, text: str, color: str, more: str = "") -> str:
    """Return a text with its left end, or what `more` says, at (x, y)."""
    return f'<text x="{x}" y="{y}" fill="{color}" {more}>{text}</text>'


def line(x: float, top: float, bottom: float, color: str, more: str = "") -> str:
    """Return a vertical line."""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{color}" {more}/>'


def main(demo: Path, output: Path) -> None:
    """Write demo-light.svg and demo-dark.svg."""
    scores = read_scores(demo)
    for name, colors in THEMES.items():
        (output / f"demo-{name}.svg").write_text(draw(scores, colors), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
