"""Runs and series with planted predictions, without training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mervn.run_folder import RunConfig, write_json, write_jsonl

LABELS = ("angry", "happy", "sad")
Array = np.ndarray[Any, Any]


def make_utterances(speakers: int, each: int = 20, known: bool = True) -> list[dict[str, Any]]:
    """Return the entries of predictions without predictions: ids, speakers and labels."""
    entries = []
    for i in range(speakers * each):
        speaker = f"s{i // each:02d}" if known else None
        entries.append({"utterance_id": f"u{i:04d}", "speaker_id": speaker, "label": LABELS[i % 3]})
    return entries


def answers(entries: Sequence[Mapping[str, Any]], rate: float | Mapping[str, float], seed: int) -> list[str]:
    """Return predictions of which a fraction, in all or by speaker, is right."""
    rng = np.random.default_rng(seed)
    found = []
    for entry in entries:
        fraction = rate if isinstance(rate, float) else rate[entry["speaker_id"]]
        wrong = LABELS[(LABELS.index(entry["label"]) + int(rng.integers(1, 3))) % 3]
        found.append(entry["label"] if rng.random() < fraction else wrong)
    return found


def with_predictions(entries: Sequence[Mapping[str, Any]], predicted: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a predictions file."""
    found = []
    for entry, label in zip(entries, predicted, strict=True):
        probabilities = {name: 0.8 if name == label else 0.1 for name in LABELS}
        found.append({**entry, "prediction": label, "probabilities": probabilities})
    return found


def write_run(
    run: Path, entries: Sequence[Mapping[str, Any]], predicted: Sequence[str], *, split: str = "test", **options: Any
) -> Path:
    """Write the files of an evaluated run that `mervn compare` reads. Its data folder does not exist."""
    run.mkdir(parents=True)
    values = {"data": "/nowhere", "seed": 0, "fold": None, "fusion": "xattn", **options}
    if values["fold"] is not None:
        values["fold_file"] = "/nowhere/folds-2.json"
    streams = {"audio": {"width": 4, "stride": 320, "centre": 200.0, "layers": ["last"]}}
    inputs = {"manifests": {"train": "0", "valid": "1"}, "stores": {"audio": ["b5"]}, "folds": {"sha256": "f"}}
    write_json(run / "config.json", RunConfig("train-head", values, list(LABELS), inputs, streams).as_json())
    found = with_predictions(entries, predicted)
    write_jsonl(run / f"predictions-{split}.jsonl", found)
    fold = values["fold"]
    sources = {"manifest_sha256": "2"} if fold is None else {"fold": int(str(fold)), "folds_sha256": "f"}
    metrics = {"schema": 1, **sources, split: {"n": len(found)}}
    write_json(run / f"metrics-{split}.json", metrics)
    return run


def write_series(folder: Path, entries: Sequence[Mapping[str, Any]], by_seed: Sequence[Sequence[str]]) -> Path:
    """Write a series of seeds from 0 on."""
    for seed, predicted in enumerate(by_seed):
        write_run(folder / f"seed-{seed}", entries, predicted, seed=seed)
    write_json(folder / "summary.json", {"schema": 1, "seeds": list(range(len(by_seed))), "valid": {}})
    return folder
