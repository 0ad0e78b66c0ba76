"""Lengths of the stored sequences of a run, and the fraction of its batches that is padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from features.errors import InputError
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.model.saved_run import data_and_streams
from mervn.report.run_data import RunData
from mervn.report.svg import COLOURS, draw
from mervn.run_folder import options_of
from mervn.training.setup import read_labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 24
"""Number of bins of the histogram of lengths."""
Lengths = Mapping[str, Mapping[str, Sequence[int]]]
"""By stream and split, the number of frames or tokens of each utterance."""


def read_lengths(data: RunData) -> Lengths | None:
    """Return the lengths of train, and of the split of the report, from the stores of a run.

    None for a run without stores (finetune), and if its stores or its manifests are missing or have
    changed.
    """
    if data.config.command != "train-head":
        return None
    try:
        options = options_of(data.path, data.config.options, TrainHeadOptions)
        labelled = read_labelled(options, Path(str(data.config.options["data"])))
        _, streams = data_and_streams(data.config, EvaluateOptions())
    except InputError:
        return None  # the report is of the run; other commands explain what is wrong with its data
    if labelled.sources["manifests"] != data.config.inputs.get("manifests"):
        return None
    ids = {"train": [utterance.utterance_id for utterance in labelled.utterances["train"]]}
    ids[data.split] = [str(entry["utterance_id"]) for entry in data.predictions.entries]
    found: dict[str, dict[str, list[int]]] = {}
    for name, stream in streams.items():
        found[name] = {}
        for split, names in ids.items():
            found[name][split] = [stream.first.num_frames(one) for one in names if one in stream]
    return found


def padding(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return by stream the fraction of padding in the batches of training, as a mean over epochs."""
    real: dict[str, list[float]] = {}
    for entry in history:
        for stream, fraction in entry.get("drawn", {}).get("padding_efficiency", {}).items():
            real.setdefault(stream, []).append(fraction)
    return {stream: 1 - fmean(fractions) for stream, fractions in real.items()}


def plot_lengths(lengths: Lengths) -> str:
    """Draw, for each stream, the fraction of utterances by length, a line for each split."""
    colours = [COLOURS["muted"], COLOURS["accent"]]

    def plot(figure: Figure) -> None:
        panels = figure.subplots(len(lengths), 1, squeeze=False)[:, 0]
        for axes, (stream, by_split) in zip(panels, lengths.items(), strict=True):
            longest = max(max(values, default=0) for values in by_split.values())
            for colour, (split, values) in zip(colours, by_split.items(), strict=False):
                weights = [1 / max(1, len(values))] * len(values)
                limits = (0.0, float(max(1, longest)))
                axes.hist(values, BINS, range=limits, weights=weights, histtype="step", color=colour, label=split)
            axes.set_xlabel("tokens" if stream == "text" else f"frames of {stream}")
            axes.set_ylabel("utterances")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axes.legend(fontsize=8)

    return draw("lengths", "Lengths by split", (4.6, 1.8 * len(lengths)), plot)


def lengths_caption(lengths: Lengths, of_padding: Mapping[str, float]) -> str:
    """Return what the figure shows, and the cost of padding, in words."""
    caption = f"Frames or tokens of each utterance; the longest has {_longest(lengths)}."
    if of_padding:
        parts = [f"{fraction:.0%} of the {stream} positions" for stream, fraction in of_padding.items()]
        caption += f" Padding fills {' and '.join(parts)} in the batches of training; no score depends on it."
    return caption


def _longest(lengths: Lengths) -> str:
    parts = []
    for stream, by_split in lengths.items():
        longest = max(max(values, default=0) for values in by_split.values())
        parts.append(f"{longest} {'tokens' if stream == 'text' else f'frames of {stream}'}")
    return " and ".join(parts)
