"""Attention weights of the most confident mistakes, for the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.audio.resampling import SAMPLE_RATE
from features.command_lines import recorded_settings
from features.encoders.base import Encoder, load_encoder
from features.errors import InputError
from features.extraction.encoder_input import transcript_of
from features.manifests.manifest import Utterance
from features.progress import SILENT
from mervn.config import EvaluateOptions
from mervn.data.streams import StreamShape
from mervn.evaluation.attention import CrossMap, PoolingMap, UtteranceAttention, read_attention
from mervn.evaluation.open_run import OpenedRun, open_run
from mervn.model.end_to_end import EndToEnd
from mervn.model.saved_run import data_and_streams
from mervn.report.run_data import RunData
from mervn.report.svg import COLOURS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
WIDTH = 6.0
"""Width of a figure in inches."""
BLUE = (31 / 255, 95 / 255, 191 / 255)
"""Colour of an image; its opacity is the weight, so that it fits light and dark pages."""


def draw_attention(
    data: RunData, chosen: Sequence[Mapping[str, Any]], with_tokens: bool, trust_code: bool
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return, for each of the chosen predictions, a title and its figures with captions.

    The features are read again; nothing is scored, and no look at test is recorded. With
    `with_tokens`, tokens have their text if the encoder gives it. Raises the errors of `open_run`
    and `read_attention`.
    """
    opened = open_run(
        data.path, EvaluateOptions(split=data.split, device="cpu", trust_code=trust_code, allow_missing=True), SILENT
    )
    saved = {str(entry["utterance_id"]): entry["probabilities"] for entry in chosen}
    encoder = _text_encoder(opened) if with_tokens else None
    utterances = {utterance.utterance_id: utterance for utterance in opened.split.utterances}
    found = []
    for number, attention in enumerate(read_attention(opened, saved)):
        entry = chosen[number]
        title = f"{attention.utterance_id}: {entry['label']}, predicted {entry['prediction']}"
        tokens = _tokens(encoder, utterances[attention.utterance_id], attention)
        found.append((title, _figures(f"attention-{number}", attention, tokens, _stride_s(data))))
    return found


def _text_encoder(opened: OpenedRun) -> Encoder | None:
    """Return the encoder of the text stream, for its tokens; None without one that can be loaded."""
    if "text" not in opened.config.streams:
        return None
    if isinstance(opened.loaded.model, EndToEnd):
        return opened.loaded.model.encoder("text")
    try:
        _, streams = data_and_streams(opened.config, EvaluateOptions())
        stream = streams["text"]
        if stream.imported:
            return None
        return load_encoder(stream.selector, recorded_settings(stream.first.info.identity.config))
    except InputError:
        return None  # the model is not on this machine: tokens have numbers


def _tokens(encoder: Encoder | None, utterance: Utterance, attention: UtteranceAttention) -> list[str] | None:
    """Return the text of each token; None if unknown or of another number than the features."""
    size = attention.sizes.get("text", 0)
    if not size:
        return ["missing"]
    texts = None if encoder is None else encoder.token_texts(transcript_of(utterance))
    return texts if texts is not None and len(texts) == size else None


def _stride_s(data: RunData) -> float | None:
    """Return the seconds from one audio frame to the next; None without audio."""
    audio = data.config.streams.get("audio")
    return None if audio is None else StreamShape(**audio).stride / SAMPLE_RATE


def _figures(
    name: str, attention: UtteranceAttention, tokens: Sequence[str] | None, stride_s: float | None
) -> list[tuple[str, str]]:
    """Return captions and SVG elements of the maps of one utterance."""
    found = []
    for number, cross in enumerate(attention.cross):
        found.append(plot_cross(f"{name}-cross-{number}", cross, tokens, stride_s))
    for number, pooling in enumerate(attention.pooling):
        found.append(plot_pooling(f"{name}-pooling-{number}", pooling, tokens, stride_s))
    return found


def plot_cross(name: str, cross: CrossMap, tokens: Sequence[str] | None, stride_s: float | None) -> tuple[str, str]:
    """Draw tokens by audio frames; return caption and SVG element. The darkest cell is the largest weight."""
    from_text = cross.name.endswith("text_to_audio")
    weights = cross.weights if from_text else cross.weights.T  # (tokens, frames)

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        image = np.empty((*weights.shape, 4))
        image[..., :3], image[..., 3] = BLUE, weights / weights.max()
        end = _end(weights.shape[1], stride_s)
        axes.imshow(image, aspect="auto", interpolation="nearest", extent=(0, end, len(weights) - 0.5, -0.5))
        axes.set_yticks(range(len(weights)), _names(tokens, len(weights)), fontsize=8)
        axes.set_xlabel(_unit(stride_s))
        axes.tick_params(axis="y", length=0)

    sums = "tokens attend to audio: the weights of a token sum to 1"
    if not from_text:
        sums = "audio frames attend to tokens: the weights of a frame sum to 1"
    caption = f"{cross.name}, mean over the heads; {sums}."
    size = (WIDTH, min(12.0, 0.8 + 0.17 * len(weights)))
    return caption, draw(name, caption, size, plot)


def plot_pooling(
    name: str, pooling: PoolingMap, tokens: Sequence[str] | None, stride_s: float | None
) -> tuple[str, str]:
    """Draw the weights of each part of a pooled sequence; return caption and SVG element."""
    parts = pooling.parts

    def plot(figure: Figure) -> None:
        for axes, (modality, weights) in zip(np.atleast_1d(figure.subplots(1, len(parts))), parts.items(), strict=True):
            if modality == "text":
                _plot_tokens(axes, weights, tokens)
            else:
                places = (np.arange(len(weights)) + 0.5) * _end(1, stride_s if modality == "audio" else None)
                axes.plot(places, weights, color=COLOURS["accent"], linewidth=1)
                axes.set_ylim(0, None)
                axes.set_xlabel(_unit(stride_s if modality == "audio" else None))
            axes.set_title(f"{modality}: {weights.sum():.0%}", fontsize=9, color=COLOURS["ink"])

    caption = "Attentive pooling; the weights of all parts together sum to 1."
    height = max(2.0, min(12.0, 0.9 + 0.17 * len(parts.get("text", ()))))
    return caption, draw(name, caption, (WIDTH, height), plot)


def _plot_tokens(axes: Axes, weights: Array, tokens: Sequence[str] | None) -> None:
    """Draw a bar for the weight of each token."""
    axes.barh(range(len(weights)), weights, color=COLOURS["accent"], height=0.7)
    axes.set_yticks(range(len(weights)), _names(tokens, len(weights)), fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _names(tokens: Sequence[str] | None, count: int) -> list[str]:
    """Return the text of each token, or their numbers from 0."""
    return list(tokens) if tokens is not None and len(tokens) == count else [str(number) for number in range(count)]


def _end(count: int, stride_s: float | None) -> float:
    """Return where a number of frames ends on the time axis: seconds, or frames without a stride."""
    return count * (stride_s or 1.0)


def _unit(stride_s: float | None) -> str:
    return "frame" if stride_s is None else "seconds"
