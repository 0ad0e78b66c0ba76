"""The report of a run: one self-contained HTML page, without a request to anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import write_atomically
from features.manifests.manifest import Utterance
from mervn.config import ReportOptions
from mervn.evaluation.baselines import baselines
from mervn.evaluation.intervals import Interval, Units, jackknife_interval, unit_name
from mervn.evaluation.saved_predictions import SavedPredictions
from mervn.report.embedded_audio import EmbeddedAudio, embed_audio
from mervn.report.figures import NAMES, plot_bars, plot_confusion, plot_curves, plot_reliability, plot_units
from mervn.report.findings import support, verdict, warnings
from mervn.report.lengths import lengths_caption, padding, plot_lengths, read_lengths
from mervn.report.page import REPORT_FILE, render
from mervn.report.run_data import RunData, group_confusions, group_keys, read_run, speakers
from mervn.report.transcripts import read_utterances, transcript

MAX_MISTAKES = 20
"""Maximum number of mistakes in a report."""
DEFAULTS = ReportOptions()
"""Options of a report that nobody asked for more of."""


def write_report(run: Path, options: ReportOptions = DEFAULTS) -> Path:
    """Write report.html into a complete run and return its path.

    The split is test if it was evaluated, else valid. It is not scored again, and no look at test
    is recorded. Raises the errors of `read_run` and, with `attention`, of `draw_attention`.
    """
    path = run / REPORT_FILE
    page = render_run(read_run(run, options.split), options)
    write_atomically(path, page.encode())
    return path


def render_run(data: RunData, options: ReportOptions = DEFAULTS) -> str:
    """Return the HTML page of a run."""
    units = speakers(data.predictions)
    confusions = group_confusions(data.predictions, units)
    intervals = {metric: jackknife_interval(confusions, units, metric) for metric in NAMES}
    return render(
        "run.html",
        title=data.path.resolve().name,
        split=data.split,
        verdict=verdict(data, units, intervals),
        warnings=warnings(data, units, intervals),
        scores=score_rows(data, intervals),
        units=units,
        figures=run_figures(data, units, confusions, intervals),
        groups=group_rows(data.predictions),
        with_transcripts=options.transcripts,
        **_mistakes_and_media(data, options),
        findings=data.findings,
        settings=settings(data),
        environment_rows=environment_rows(data),
        command=shlex.join(["mervn", data.config.command, "--config", str(data.path / "config.json")]),
    )


def score_rows(data: RunData, intervals: Mapping[str, Interval | None]) -> list[tuple[str, str, str, str, str]]:
    """Return the rows metric, score, interval, chance and score of the most frequent label."""
    found = baselines(support(data), data.config.labels)
    rows = []
    for metric, name in NAMES.items():
        interval = intervals[metric]
        shown = "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
        chance, majority = f"{found['chance'][metric]:.3f}", f"{found['majority'][metric]:.3f}"
        rows.append((name, f"{data.scores[metric]:.3f}", shown, chance, majority))
    for key, name in (("nll", "NLL"), ("ece", "ECE")):
        rows.append((name, f"{data.scores[key]:.3f}", "", "", ""))
    return rows


def run_figures(
    data: RunData, units: Units, confusions: Any, intervals: Mapping[str, Interval | None]
) -> list[tuple[str, str]]:
    """Return the caption and the SVG element of each figure."""
    predictions, labels = data.predictions, data.config.labels
    f1 = {label: found["f1"] for label, found in data.scores["per_class"].items()}
    dots = f" A dot below it is one {units.name.removesuffix('_id')}." if not units.independent else ""
    figures = [
        (
            f"Scores on {data.split}; a line is a 95 % interval.{dots}",
            plot_units(confusions, units, intervals, 1 / len(labels)),
        ),
        ("Confusion matrix: counts, and fractions of the true label.", plot_confusion(confusions.sum(0), labels)),
        (
            "F1 of each label.",
            plot_bars("classes", "F1 by label", f1),
        ),
        ("Reliability: accuracy over confidence.", plot_reliability(predictions.targets, predictions.probabilities)),
    ]
    if data.history:
        selected = int(data.metrics["selected_epoch"])
        figures.insert(1, (f"Training; epoch {selected} was chosen on valid.", plot_curves(data.history, selected)))
    lengths = read_lengths(data)
    if lengths is not None:
        figures.append((lengths_caption(lengths, padding(data.history)), plot_lengths(lengths)))
    for stream, weights in data.metrics["layer_weights"].items():
        bars = plot_bars(f"layers-{stream}", f"Layer weights of {stream}", weights, None)
        figures.append((f"Learned weight of each {stream} layer.", bars))
    return figures


def group_rows(predictions: SavedPredictions) -> list[tuple[str, str, int, str]]:
    """Return the rows key, value, number of utterances and accuracy, for the extra keys that group utterances."""
    right = predictions.predictions == predictions.targets
    rows = []
    for key in group_keys(predictions):
        values = np.array([unit_name(entry.get(key)) for entry in predictions.entries])
        for value in sorted(set(values.tolist())):
            chosen = values == value
            rows.append((key, value, int(chosen.sum()), f"{right[chosen].mean():.3f}"))
    return rows


def _mistakes_and_media(data: RunData, options: ReportOptions) -> dict[str, Any]:
    """Return the mistakes of a run with their audio and attention, if asked for, for the template."""
    chosen = confident_mistakes(data.predictions)
    utterances: dict[str, Utterance] = {}
    if options.transcripts or options.with_audio:
        root = data.config.options.get("audio_root")
        utterances = read_utterances(Path(str(data.config.options["data"])), Path(root) if root else None)
    found: dict[str, Any] = {"mistakes": mistakes(data, chosen, utterances if options.transcripts else {})}
    audio = EmbeddedAudio({}, [])
    if options.with_audio:
        audio = embed_audio([entry["id"] for entry in found["mistakes"]], utterances)
    attention: list[Any] = []
    if options.attention and chosen:
        from mervn.report.attention_figures import draw_attention

        entries = [data.predictions.entries[index] for index in chosen[: options.attention]]
        attention = draw_attention(data, entries, options.transcripts, options.trust_code)
    return {**found, "audio": audio, "with_audio": options.with_audio, "attention": attention}


def confident_mistakes(predictions: SavedPredictions) -> list[int]:
    """Return the indices of the wrong predictions of the highest confidence, the highest first."""
    confidence = predictions.probabilities.max(1)
    wrong = np.flatnonzero(predictions.predictions != predictions.targets)
    chosen: list[int] = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES].tolist()
    return chosen


def mistakes(data: RunData, chosen: Sequence[int], utterances: Mapping[str, Utterance]) -> list[dict[str, Any]]:
    """Return the predictions at `chosen` as text, with transcripts where they are known."""
    predictions, labels = data.predictions, data.config.labels
    found = []
    for index in chosen:
        entry = predictions.entries[index]
        found.append(
            {
                "id": entry["utterance_id"],
                "speaker": entry.get("speaker_id") or "",
                "label": entry["label"],
                "prediction": labels[int(predictions.predictions[index])],
                "confidence": f"{predictions.probabilities[index].max():.3f}",
                "transcript": transcript(utterances, str(entry["utterance_id"])),
            }
        )
    return found


def settings(data: RunData) -> list[tuple[str, str]]:
    """Return the rows that say what was run on what."""
    options, environment = data.config.options, data.environment
    rows = [("command", data.config.command), ("data", str(options["data"]))]
    for name, model in data.config.models.items():
        rows.append((name, str(model.get("extract") or model.get("model") or model.get("imported") or "")))
    for name, origin in data.metrics.get("features", {}).items():
        rows.append((f"weights of {name}", str(origin)))
    for key in ("fusion", "pooling", "dim", "loss", "sampling", "batch_size", "learning_rate", "epochs", "seed"):
        if options.get(key) is not None:
            rows.append((key.replace("_", " "), str(options[key])))
    rows.append(("parameters", f"{environment['parameters']:,}" if "parameters" in environment else ""))
    rows.append(("configuration hash", data.config.hash))
    return [(name, value) for name, value in rows if value]


def environment_rows(data: RunData) -> list[tuple[str, str]]:
    """Return the rows of cost, machine and versions."""
    environment = data.environment
    rows = [("training", f"{environment.get('seconds', 0):.0f} s, {len(data.history)} epochs")]
    rows.append(("device", str(environment.get("device", ""))))
    if "peak_memory_gb" in environment:
        rows.append(("peak memory", f"{environment['peak_memory_gb']:.2f} GB"))
    last = data.history[-1] if data.history else {}
    for stream, share in last.get("drawn", {}).get("padding_efficiency", {}).items():
        rows.append((f"real frames in {stream} batches", f"{share:.0%}"))
    rows.append(("commit", str(environment.get("commit") or "unknown")))
    for name, version in environment.get("versions", {}).items():
        rows.append((name, str(version)))
    return rows
