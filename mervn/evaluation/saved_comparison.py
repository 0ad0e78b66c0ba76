"""comparison.json: a comparison with everything that its report shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import read_object, write_json
from features.errors import InputError
from mervn.config import CompareOptions
from mervn.evaluation.compare import Comparison, UnitDifference, seed_scores, unit_difference
from mervn.evaluation.intervals import METRICS, Units, group_units, score, unit_confusions, unit_name
from mervn.evaluation.paired_predictions import PairedPredictions
from mervn.evaluation.series import Series, read_series
from mervn.evaluation.verdict import document
from mervn.result_folder import locked, require_same
from mervn.run_folder import ENVIRONMENT_FILE

Array = np.ndarray[Any, Any]
COMPARISON_FILE = "comparison.json"
SCHEMA = 1
MAX_DISAGREEMENTS = 40
"""Maximum number of utterances that comparison.json lists for which A and B differ."""
OWN_KEYS = ("schema", "request", "labels", "data", "scores", "per_class", "confusions", "unit_differences")
LATER_KEYS = ("differing", "disagreements", "runs", "sentence", "difference", "seed_remark", "configuration")


@contextmanager
def comparison_folder(folder: Path, a: Path, b: Path, options: CompareOptions) -> Iterator[None]:
    """Create and lock a folder for the comparison of A and B.

    The same comparison may be written again. UsageError if the folder holds another one, or other
    files.
    """
    with locked(folder, COMPARISON_FILE, "comparison"):
        if (folder / COMPARISON_FILE).is_file():
            require_same(folder, "comparison", read_comparison(folder)["request"], _request(a, b, options))
        yield


def write_comparison(folder: Path, found: Comparison, options: CompareOptions) -> None:
    """Write comparison.json into a folder that `comparison_folder` locks."""
    document_of_page = comparison_document(found, _request(found.a, found.b, options))
    write_json(folder / COMPARISON_FILE, document_of_page)


def read_comparison(folder: Path) -> dict[str, Any]:
    """Read the comparison.json of a folder; InputError if it is damaged or of another version."""
    path = folder / COMPARISON_FILE
    saved = read_object(path, "a comparison")
    missing = [key for key in (*OWN_KEYS, *LATER_KEYS) if key not in saved]
    if missing or saved["schema"] != SCHEMA:
        lacking = f"lacks {', '.join(missing)}" if missing else f"has schema {saved['schema']}"
        raise InputError(
            f"{path} must hold a comparison of schema {SCHEMA}, but {lacking}; remove it and compare again: "
            "mervn compare A B --output FOLDER"
        )
    return saved


def _request(a: Path, b: Path, options: CompareOptions) -> dict[str, Any]:
    """Return the request: both paths, split, metric and units."""
    return {
        "a": str(a.resolve()),
        "b": str(b.resolve()),
        "split": options.split,
        "metric": options.metric,
        "unit": list(options.unit),
    }


def comparison_document(found: Comparison, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of comparison.json: the document of `mervn compare --json`, and its details."""
    paired, series_a, series_b = found.paired, read_series(found.a), read_series(found.b)
    labels = list(paired.labels)
    differing = np.flatnonzero(_right(paired, paired.a) != _right(paired, paired.b))
    return {
        **document(found),
        "schema": SCHEMA,
        "request": dict(request),
        "labels": labels,
        "data": str(series_a.first.options["data"]),
        "scores": [_metric_scores(paired, request["unit"], metric) for metric in METRICS],
        "per_class": _class_scores(paired),
        "confusions": {"a": _confusion(paired, paired.a).tolist(), "b": _confusion(paired, paired.b).tolist()},
        "unit_differences": unit_values(found),
        "differing": len(differing),
        "disagreements": _disagreements(paired, differing),
        "runs": {"a": _environment(series_a), "b": _environment(series_b)},
    }


def _metric_scores(paired: PairedPredictions, keys: Sequence[str], metric: str) -> dict[str, Any]:
    """Return a metric of A and B, as means over seeds, and their difference by the most cautious unit."""
    by_unit: list[UnitDifference] = []
    for key in keys:
        predictions, units = (paired.a, paired.b), group_units(paired.units[key], key)
        by_unit.append(unit_difference(paired.targets, predictions, key, units, metric, len(paired.labels)))
    interval = max(by_unit, key=lambda each: each.caution).paired.interval
    a, b = (float(np.mean(seed_scores(paired, side, metric))) for side in (paired.a, paired.b))
    bounds = {"low": None, "high": None} if interval is None else {"low": interval.low, "high": interval.high}
    return {"metric": metric, "a": a, "b": b, "difference": a - b, **bounds}


def _class_scores(paired: PairedPredictions) -> list[dict[str, Any]]:
    """Return support and F1 of each label, for A and B, as means over seeds."""
    found = []
    for number, label in enumerate(paired.labels):
        entry: dict[str, Any] = {"label": label, "support": int((paired.targets == number).sum())}
        for name, seeds in (("a", paired.a), ("b", paired.b)):
            f1 = []
            for predictions in seeds:
                right = int(((predictions == number) & (paired.targets == number)).sum())
                f1.append(2 * right / max(1, entry["support"] + int((predictions == number).sum())))
            entry[name] = float(np.mean(f1))
        found.append(entry)
    return found


def _confusion(paired: PairedPredictions, seeds: Sequence[Array]) -> Array:
    """Return counts (C, C), [true][predicted], summed over seeds."""
    num_classes = len(paired.labels)
    total = np.zeros(num_classes**2, np.int64)
    for predictions in seeds:
        total += np.bincount(paired.targets * num_classes + predictions, minlength=num_classes**2)
    return total.reshape(num_classes, num_classes)


def unit_values(found: Comparison) -> list[dict[str, Any]]:
    """Return the scores of A and B on each unit of the deciding key, by name; none without units.

    They are means over seeds, and count the classes that occur on the unit or that A or B predicts
    for it.
    """
    units = found.decisive.units
    if units.independent:
        return []
    paired = found.paired
    a, b = (_unit_confusions(paired, seeds, units) for seeds in (paired.a, paired.b))  # (S, G, C, C)
    names = sorted(set(map(unit_name, paired.units[found.decisive.key])))
    entries = []
    for number, name in enumerate(names):
        counts_a, counts_b = a[:, number], b[:, number]  # (S, C, C)
        total = (counts_a + counts_b).sum(0)
        present = np.flatnonzero(total.sum(0) + total.sum(1))
        means = []
        for counts in (counts_a, counts_b):
            means.append(float(score(counts[:, present][:, :, present], found.metric).mean()))
        size, difference = int(counts_a[0].sum()), means[0] - means[1]
        entries.append({"name": name, "n": size, "a": means[0], "b": means[1], "difference": difference})
    return entries


def _unit_confusions(paired: PairedPredictions, seeds: Sequence[Array], units: Units) -> Array:
    """Return counts (S, G, C, C) of each seed and unit, [true][predicted]."""
    num_classes = len(paired.labels)
    return np.stack([unit_confusions(paired.targets, predictions, units, num_classes) for predictions in seeds])


def _right(paired: PairedPredictions, seeds: Sequence[Array]) -> Array:
    """Return for how many seeds each utterance is classified correctly, (N,) int64."""
    right: Array = np.sum([predictions == paired.targets for predictions in seeds], axis=0)
    return right


def _disagreements(paired: PairedPredictions, differing: Array) -> list[dict[str, Any]]:
    """Return utterances for which A and B are right with different numbers of seeds.

    The largest difference of the probability of the true label comes first.
    """
    a, b = paired.probabilities_a, paired.probabilities_b
    gap = np.abs(a - b)[np.arange(len(a)), paired.targets]  # (N,)
    right_a, right_b = _right(paired, paired.a), _right(paired, paired.b)
    found = []
    for index in differing[np.argsort(-gap[differing], kind="stable")][:MAX_DISAGREEMENTS].tolist():
        entry = paired.entries[index]
        found.append(
            {
                "utterance_id": str(entry["utterance_id"]),
                "speaker_id": entry.get("speaker_id"),
                "label": entry["label"],
                "a": _answer(paired, a[index], int(right_a[index])),
                "b": _answer(paired, b[index], int(right_b[index])),
            }
        )
    return found


def _answer(paired: PairedPredictions, probabilities: Array, right: int) -> dict[str, Any]:
    """Return the label of the highest mean probability, that probability, and how many seeds are right."""
    return {
        "prediction": paired.labels[int(probabilities.argmax())],
        "probability": float(probabilities.max()),
        "right": right,
    }


def _environment(series: Series) -> dict[str, Any]:
    """Return hash and environment.json of the first run of a series, without its machine-readable inputs."""
    run = series.runs[series.seeds[0], series.folds[0]]
    found: dict[str, Any] = {"command": series.first.command, "hash": series.first.hash, "runs": len(series.runs)}
    path = run / ENVIRONMENT_FILE
    if path.is_file():
        saved = read_object(path, "the environment of a run")
        for key in ("time", "device", "commit", "seconds", "parameters", "threads", "versions"):
            if key in saved:
                found[key] = saved[key]
    return found
