"""The page of `mervn predict --explain`: timelines, waveforms, attention and contributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.atomic_files import write_atomically
from features.regular_files import read_regular
from features.signals import check_interrupted
from mervn.report.attention_figures import BLUE, WIDTH, plot_cross, plot_pooling
from mervn.report.page import render
from mervn.report.svg import COLOURS, draw
from mervn.use.explanation import Explanation, explain
from mervn.use.result_files import Prediction
from mervn.use.scoring import Scorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mervn.use.predict import Predictions

Array = np.ndarray[Any, Any]
NOTE = (
    "The probabilities are those of the model. Whether they are right on your recordings, only labelled recordings of "
    "yours can tell."
)
"""Sentences of every page, by which a page is recognised."""
MAX_EXPLAINED = 20
"""Number of inputs that the page explains; all are in the results and in the timelines."""
MAX_TIMELINES = 20
MAX_FRAMES = 1500
"""Audio frames above which the weights of single frames are not drawn: 30 s at 50 Hz."""
COLUMNS = 600
"""Parts of a timeline that are drawn; each shows the mean of the segments that cover it."""


def write_page(found: Predictions, scorer: Scorer, output: Path) -> Path:
    """Write the page beside the output, under its name with .html, and return its path.

    Explanations are computed on the unchanged labels of the model, one input at a time.
    """
    usable = [one for one in found.predictions if one.probabilities is not None]
    explained = []
    for number, one in enumerate(usable[:MAX_EXPLAINED]):
        check_interrupted()
        explained.append(_details(f"clip-{number}", one, found.labels, explain(scorer, one.clip)))
    page = render(
        "prediction.html",
        title=output.name,
        note=NOTE,
        run=str(found.model.path),
        modalities=" and ".join(found.model.modalities),
        labels=found.labels,
        count=len(found.predictions),
        failed=[(one.clip.file, str(one.fault)) for one in found.failed],
        timelines=timelines(found.predictions, found.labels),
        explained=explained,
        unexplained=max(0, len(usable) - MAX_EXPLAINED),
    )
    path = output.with_suffix(".html")
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def is_page(path: Path) -> bool:
    """Tell whether a file is a page of `mervn predict --explain`; raises OSError if it cannot be read."""
    return NOTE.encode() in read_regular(path)


def timelines(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return caption and SVG element for each recording with several segments."""
    by_file: dict[str, list[Prediction]] = {}
    for one in predictions:
        if one.probabilities is not None and one.seconds:
            by_file.setdefault(one.clip.file, []).append(one)
    found: list[tuple[str, str]] = []
    for file, segments in by_file.items():
        if len(segments) > 1 and len(found) < MAX_TIMELINES:
            found.append((file, plot_timeline(f"timeline-{len(found)}", file, segments, labels)))
    return found


def plot_timeline(name: str, file: str, segments: Sequence[Prediction], labels: Sequence[str]) -> str:
    """Draw the probability of each label over the time of a recording; return the SVG element."""
    end = max(one.clip.start + one.seconds for one in segments)
    shades = timeline(segments, end, len(labels))

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        image = np.empty((*shades.shape, 4))
        image[..., :3], image[..., 3] = BLUE, shades
        axes.imshow(image, aspect="auto", interpolation="nearest", extent=(0, end, len(labels) - 0.5, -0.5))
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("seconds")

    description = f"Probability of each label over the time of {file}"
    return draw(name, description, (WIDTH, 0.8 + 0.25 * len(labels)), plot)


def timeline(segments: Sequence[Prediction], end: float, num_labels: int) -> Array:
    """Return mean probabilities (K, P) of the segments that cover each of P equal parts; 0 without any."""
    sums, counts = np.zeros((num_labels, COLUMNS)), np.zeros(COLUMNS)
    for one in segments:
        first = int(one.clip.start / end * COLUMNS)
        last = max(first + 1, int(np.ceil((one.clip.start + one.seconds) / end * COLUMNS)))
        sums[:, first:last] += np.asarray(one.probabilities)[:, None]
        counts[first:last] += 1
    mean: Array = sums / np.maximum(counts, 1)
    return mean


def _details(name: str, one: Prediction, labels: Sequence[str], found: Explanation) -> dict[str, Any]:
    """Return everything that the page shows about one input."""
    title = one.clip.file or "text"
    if one.seconds:
        title += f", {one.clip.start:.2f} to {one.clip.start + one.seconds:.2f} s"
    scores = sorted(zip(labels, np.asarray(one.probabilities).tolist(), strict=True), key=lambda pair: -pair[1])
    figures = []
    if found.envelope.size:
        figures.append(plot_waveform(f"{name}-wave", found))
    attention = found.attention
    if attention is not None and attention.sizes.get("audio", 0) <= MAX_FRAMES:
        tokens = found.tokens if attention.sizes.get("text", 0) else ["missing"]
        both = all(attention.sizes.values())  # a missing modality has one learned frame: there is nothing to see
        for number, cross in enumerate(attention.cross if both else ()):
            figures.append(plot_cross(f"{name}-cross-{number}", cross, tokens, found.stride_s))
        for number, pooling in enumerate(attention.pooling):
            figures.append(plot_pooling(f"{name}-pooling-{number}", pooling, tokens, found.stride_s))
    return {
        "title": title,
        "prediction": scores[0][0],
        "text": one.clip.text or "",
        "scores": [(label, f"{score:.3f}") for label, score in scores],
        "predicted": found.prediction,
        "contributions": contributions(found),
        "words": shaded_tokens(found),
        "source": found.source,
        "figures": figures,
    }


def contributions(found: Explanation) -> list[tuple[str, ...]]:
    """Return for each modality the probability of the predicted label with and without it, as text."""
    lines: list[tuple[str, ...]] = []
    for modality, without in found.without.items():
        other = max(without, key=without.__getitem__)
        with_all, left = found.probabilities[found.prediction], without[found.prediction]
        lines.append((modality, f"{with_all:.3f}", f"{left:.3f}", f"{left - with_all:+.3f}", other))
    return lines


def shaded_tokens(found: Explanation) -> list[tuple[str, float]]:
    """Return the text of each token and its weight relative to the largest, in percent."""
    if found.tokens is None or found.token_weights is None or len(found.tokens) != len(found.token_weights):
        return []
    peak = max(float(found.token_weights.max()), 1e-12)
    return [
        (text, round(60 * float(weight) / peak)) for text, weight in zip(found.tokens, found.token_weights, strict=True)
    ]


def plot_waveform(name: str, found: Explanation) -> tuple[str, str]:
    """Draw the waveform and, if there are some, the weights of the audio frames; caption and SVG."""
    weights: Array | None = found.frame_weights

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        low, high = found.envelope
        places = (np.arange(len(low)) + 0.5) / len(low) * found.seconds
        axes.fill_between(places, low, high, color=COLOURS["muted"], linewidth=0)
        peak = max(float(np.abs(found.envelope).max()), 1e-6)
        axes.set_ylim(-1.05 * peak, 1.05 * peak)
        axes.set_xlim(0, found.seconds)
        axes.set_yticks([])
        axes.set_xlabel("seconds")
        if weights is not None and found.stride_s:
            above = axes.twinx()
            times = (np.arange(len(weights)) + 0.5) * found.stride_s
            above.plot(times, weights, color=COLOURS["accent"], linewidth=1)
            above.set_ylim(0, None)
            above.set_yticks([])

    caption = "Waveform."
    if weights is not None:
        caption = f"Waveform, and as a line the weight of each audio frame in {found.source}."
    return caption, draw(name, caption, (WIDTH, 1.8), plot)
