"""Draw the pictures of docs/concepts.md from the measurements of make_concepts.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from make_result import line, text

WIDTH = 880
LEFT = 20
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13" role="img"'
BOLD = 'font-weight="600"'
Colors = Mapping[str, str]


def picture(title: str, height: int, colors: Colors, shapes: Sequence[str]) -> str:
    """Return an SVG with a title on the background of the page."""
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    background = f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{colors["page"]}"/>'
    heading = text(LEFT, 30, title, colors["text"], 'font-size="16"')
    return "\n".join([f"{start} {FONT}>", f"<title>{title}</title>", background, heading, *shapes, "</svg>"]) + "\n"


def box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    """Return a rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" {more}/>'


def small(value: float) -> str:
    """Return a number in the form 3.2e-06, or with two decimals."""
    return f"{value:.1e}" if value < 0.01 else f"{value:.2f}"


def draw_padding(measured: Mapping[str, Any], colors: Colors) -> str:
    """Draw utterances packed one after another, and as a padded batch with its mask."""
    frames = measured["frames"]
    longest, total = max(frames), sum(frames)
    scale, packed = 600 / longest, 840 / total
    shapes = [text(LEFT, 60, f"Packed: {total} frames, {len(frames)} lengths", colors["text"], BOLD)]
    x = float(LEFT)
    for number, length in enumerate(frames):
        shapes.append(box(x, 70, length * packed - 2, 22, colors["can"], f'opacity="{1 - 0.14 * number:.2f}" rx="2"'))
        x += length * packed
    padded = longest * len(frames)
    shapes.append(text(LEFT, 124, f"Padded, for attention and convolution: {padded} frames", colors["text"], BOLD))
    for number, length in enumerate(frames):
        y = 136 + 26 * number
        opacity = f'opacity="{1 - 0.14 * number:.2f}" rx="2"'
        outline = f'stroke="{colors["muted"]}" stroke-dasharray="3 3" rx="2"'
        shapes.append(box(LEFT, y, longest * scale, 20, "none", outline))
        shapes.append(box(LEFT, y, length * scale, 20, colors["can"], opacity))
        shapes.append(
            text(LEFT + longest * scale + 14, y + 15, f"{length} real, {longest - length} padding", colors["muted"])
        )
    y = 136 + 26 * len(frames) + 24
    deviation = f"The features have a standard deviation of {measured['deviation']:.2f}."
    with_mask, without = small(measured["with_mask"]), small(measured["without_mask"])
    shapes += [
        text(
            LEFT,
            y,
            f"Maximum difference between a feature alone and in this batch: {with_mask} with the mask,",
            colors["text"],
        ),
        text(LEFT, y + 20, f"{without} if the padding is encoded like real audio. {deviation}", colors["text"]),
    ]
    return picture("Five utterances, packed and padded", y + 40, colors, shapes)


FIELDS = (
    "encoder", "weights_sha256", "config", "layer", "dim", "encoder_precision", "store_dtype", "sample_rate",
    "numerics_version",
)  # fmt: skip


def draw_identity(measured: Sequence[Mapping[str, Any]], colors: Colors) -> str:
    """Draw the identities of stores as a table; what differs from the first one is marked."""
    first, width = measured[0]["identity"], 174
    shapes = []
    for number, field in enumerate(FIELDS):
        shapes.append(text(LEFT, 96 + 24 * number, field, colors["muted"]))
    bottom = 96 + 24 * len(FIELDS)
    shapes.append(text(LEFT, bottom + 14, "hash of all of it", colors["text"], BOLD))
    for column, store in enumerate(measured):
        x = 166 + column * (width + 4)
        shapes.append(text(x, 66, escape(store["change"] or "default"), colors["text"], f'{BOLD} font-size="12"'))
        for number, field in enumerate(FIELDS):
            y, differs = 96 + 24 * number, store["identity"][field] != first[field]
            if differs:
                shapes.append(
                    box(x - 6, y - 16, width - 10, 22, "none", f'stroke="{colors["bound"]}" stroke-width="2" rx="3"')
                )
            shapes.append(text(x, y, _short(store["identity"][field]), colors["text"]))
        shapes.append(text(x, bottom + 14, store["hash"], colors["can"], 'font-weight="600" font-family="monospace"'))
    shapes.append(line(LEFT, bottom - 8, bottom - 8, colors["grid"]).replace(f'x2="{LEFT}.0"', f'x2="{WIDTH - LEFT}"'))
    title = "Four extractions, four identities, four stores"
    return picture(title, bottom + 36, colors, shapes)


def _short(value: Any) -> str:
    """Return a value of an identity in a few letters."""
    if isinstance(value, Mapping):
        return f"{len(value)} settings"
    return f"{str(value)[:8]}..." if len(str(value)) > 20 else escape(str(value))


def draw_sampling(measured: Mapping[str, Any], colors: Colors) -> str:
    """Draw the padding of each batch of an epoch, random and by length, and how often a rare label is drawn."""
    shapes: list[str] = []
    highest = max(batch["longest"] for each in measured["epochs"].values() for batch in each["batches"])
    for panel, (name, epoch) in enumerate(measured["epochs"].items()):
        left, count = LEFT + 300 * panel, len(epoch["batches"])
        title = f"{name}: {100 * epoch['efficiency']:.0f} % real frames"
        shapes.append(text(left, 62, title, colors["text"], BOLD))
        for number, batch in enumerate(epoch["batches"]):
            x, width = left + number * 264 / count, 264 / count - 3
            height, real = 130 * batch["longest"] / highest, 130 * batch["mean"] / highest
            dashed = f'stroke="{colors["muted"]}" stroke-dasharray="3 3" rx="1"'
            shapes.append(box(x, 206 - height, width, height, "none", dashed))
            shapes.append(box(x, 206 - real, width, real, colors["can"], 'rx="1"'))
        shapes.append(text(left, 226, f"{count} batches: mean and maximum length", colors["muted"]))
    shapes += _draws(measured, 640, colors)
    return picture("One epoch: batches of similar length, and draws by class", 246, colors, shapes)


def _draws(measured: Mapping[str, Any], left: int, colors: Colors) -> Iterator[str]:
    yield text(left, 62, f"Draws of the rare label {escape(measured['labels'][1])}", colors["text"], BOLD)
    for number, (name, fraction) in enumerate(measured["rare"].items()):
        y = 84 + 32 * number
        yield text(left, y + 12, name, colors["text"])
        yield box(left + 70, y, 100 * fraction, 16, colors["can"], 'rx="2"')
        yield text(left + 180, y + 12, f"{100 * fraction:.0f} %", colors["text"], 'text-anchor="end"')
    yield line(left + 120, 76, 206, colors["muted"], 'stroke-dasharray="3 3"')
    yield text(left + 120, 226, "50 %", colors["muted"], 'text-anchor="middle"')


def draw_evidence(measured: Mapping[str, Any], colors: Colors) -> str:
    """Draw the score of each speaker with two intervals, and how often each kind contains the truth."""
    low = min([*measured["speakers"].values(), measured["speaker"]["interval"]["low"]])
    low = max(0.0, int(low * 20) / 20 - 0.05)

    def place(value: float) -> float:
        return 130 + 290 * (value - low) / (1 - low)

    names = list(measured["speakers"])
    shapes = [text(LEFT, 62, "Accuracy on test, one dot per speaker", colors["text"], BOLD)]
    for number, name in enumerate(names):
        y = 86 + 20 * number
        shapes.append(text(LEFT, y + 4, escape(name), colors["muted"]))
        shapes.append(f'<circle cx="{place(measured["speakers"][name]):.1f}" cy="{y}" r="5" fill="{colors["can"]}"/>')
    top = 86 + 20 * len(names) + 8
    for number, kind in enumerate(("speaker", "utterance")):
        y, interval = top + 26 * number, measured[kind]["interval"]
        color = colors["can"] if kind == "speaker" else colors["bound"]
        shapes.append(text(LEFT, y + 4, f"{measured[kind]['units']} {kind}s", colors["text"]))
        ends = place(interval["low"]), place(interval["high"])
        shapes.append(
            f'<path d="M{ends[0]:.1f},{y - 6} v12 m0,-6 H{ends[1]:.1f} m0,-6 v12" stroke="{color}" fill="none"/>'
        )
        shapes.append(f'<circle cx="{place(measured["score"]):.1f}" cy="{y}" r="4" fill="{color}"/>')
    for value in (low, 1.0):
        shapes.append(line(place(value), 74, top + 40, colors["grid"]))
        shapes.append(text(place(value), top + 58, f"{value:.2f}", colors["muted"], 'text-anchor="middle"'))
    shapes += _coverage(measured["coverage"], 500, top + 40, colors)
    return picture("The unit of evidence is the speaker", top + 96, colors, shapes)


def _coverage(coverage: Mapping[str, Mapping[str, float]], left: int, bottom: int, colors: Colors) -> Iterator[str]:
    height = bottom - 84
    yield text(left, 62, "95 % intervals that contain the truth (simulated)", colors["text"], BOLD)
    for number, group in enumerate(coverage["speaker"]):
        for offset, kind in enumerate(("speaker", "utterance")):
            x, value = left + 84 * number + 32 * offset, coverage[kind][group]
            color = colors["can"] if kind == "speaker" else colors["bound"]
            yield box(x, bottom - height * value, 28, height * value, color, 'rx="2"')
            inside = bottom - height * value + 15
            yield text(x + 14, inside, f"{100 * value:.0f}", colors["page"], 'text-anchor="middle" font-size="12"')
        yield text(left + 84 * number + 30, bottom + 18, f"{group} speakers", colors["muted"], 'text-anchor="middle"')
    for number, kind in enumerate(("speaker", "utterance")):
        x, color = left + 150 * number, colors["can"] if kind == "speaker" else colors["bound"]
        yield box(x, bottom + 29, 12, 12, color, 'rx="2"')
        yield text(x + 18, bottom + 40, f"over {kind}s", colors["muted"])
    target = bottom - height * 0.95
    yield f'<path d="M{left},{target:.1f} H{left + 330}" stroke="{colors["muted"]}" stroke-dasharray="3 3"/>'


PICTURES: dict[str, Callable[[Any, Colors], str]] = {
    "padding": draw_padding, "identity": draw_identity, "sampling": draw_sampling, "evidence": draw_evidence,
}  # fmt: skip
