"""Measure what the pictures of docs/concepts.md show, on the corpus and a run of docs/tutorial.md, and draw them.

python docs/figures/make_concepts.py tutorial/both runs/late docs/figures

The measurements go to concepts.json. Without arguments the pictures are drawn from it again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from draw_concepts import PICTURES
from make_result import THEMES

from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.extraction.encoder_input import read_audio, transcript_of
from features.extraction.settings import ExtractSettings, store_identity
from features.manifests.manifest import Utterance, read_manifests
from features.ragged import Ragged
from features.store.reader import FeatureStore
from features.text.normalize import syllables
from mervn.config import TrainHeadOptions
from mervn.evaluation.intervals import group_units, jackknife_interval, score, unit_confusions
from mervn.evaluation.saved_predictions import predictions_path
from mervn.registry import SAMPLINGS
from mervn.training.sampling import BatchSize, epoch_batches, mixed_lengths, padding_efficiency, sampling_weights

FILE = "concepts.json"
ENCODER = "fourier2vec"
OPTIONS = TrainHeadOptions()
SHOWN = 5
"""Number of utterances in the picture of masks."""
BATCH, RARE = 32, 4
"""Utterances per batch; of the second label, one of so many utterances is kept."""


def measure_padding(data: Path) -> dict[str, Any]:
    """Encode some utterances of valid alone, in one batch, and padded with zeros that no mask hides."""
    utterances = read_manifests(data, ("valid",))["valid"]
    encoder = load_encoder(parse_selector(ENCODER, "audio"))
    inputs = [encoder.prepare(read_audio(utterance)[0]) for utterance in utterances]
    order = sorted(range(len(inputs)), key=lambda i: (len(inputs[i]), utterances[i].utterance_id))
    places = np.linspace(0, len(order) - 1, SHOWN).round().astype(int)
    chosen = [inputs[order[place]] for place in places]
    longest = max(map(len, chosen))
    padded = [torch.nn.functional.pad(samples, (0, longest - len(samples))) for samples in chosen]
    with torch.inference_mode():
        alone = [encoder(Ragged.from_sequences([samples])).values for samples in chosen]
        together = encoder(Ragged.from_sequences(chosen)).split()
        unmasked = encoder(Ragged.from_sequences(padded)).split()
    return {
        "frames": list(map(len, alone)),
        "with_mask": _maximum_difference(alone, together),
        "without_mask": _maximum_difference(alone, unmasked),
        "deviation": float(torch.cat(alone).std()),
    }


def _maximum_difference(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Return the maximum difference over the real frames of all sequences (T, D)."""
    differences = [(a - b[: len(a)]).abs().max() for a, b in zip(expected, found, strict=True)]
    return float(torch.stack(differences).max())


def measure_identity() -> list[dict[str, Any]]:
    """Return the identity of the stores of four extractions, which differ in one option each."""
    plain = ExtractSettings(features_dir=Path("stores"))
    changes = [
        ("", ENCODER, plain),
        ("@2", f"{ENCODER}@2", plain),
        ("--encoder-precision bf16", ENCODER, replace(plain, encoder_precision="bf16")),
        ("--store-dtype fp32", ENCODER, replace(plain, store_dtype="fp32")),
    ]
    stores = []
    for change, text, settings in changes:
        selector = parse_selector(text, "audio")
        encoder = load_encoder(selector)
        (layer,) = selector.layers or ("last",)
        identity = store_identity(encoder, selector, layer, settings)
        stores.append({"change": change, "identity": identity.as_json(), "hash": identity.hash})
    return stores


def measure_sampling(data: Path) -> dict[str, Any]:
    """Return the batches of one epoch of train by sampling, and what is drawn if one label is rare."""
    utterances = read_manifests(data, ("train",))["train"]
    labels = sorted({str(utterance.emotion) for utterance in utterances})
    targets, audio, seconds, words = _lengths(data, utterances, labels)
    batch_size = BatchSize(audio[None], utterances=BATCH)
    mixed = mixed_lengths(seconds, words, OPTIONS.alpha)
    batches = {}
    for sampling in ("random", "bucket"):
        order = epoch_batches(sampling, mixed, np.ones(len(mixed)), batch_size, 0, 0)
        shown = [{"longest": int(audio[batch].max()), "mean": float(audio[batch].mean())} for batch in order]
        batches[sampling] = {"batches": shown, "efficiency": padding_efficiency(audio, order)}
    second = np.flatnonzero(targets == 1)
    kept = np.sort(np.concatenate([np.flatnonzero(targets == 0), second[::RARE]]))
    drawn = {}
    for sampling in SAMPLINGS:
        weights = sampling_weights(targets[kept], mixed[kept], OPTIONS.beta)
        few = BatchSize(audio[None][:, kept], utterances=BATCH)
        order = epoch_batches(sampling, mixed[kept], weights, few, 0, 0)
        drawn[sampling] = float(np.mean(targets[kept][np.concatenate(order)] == 1))
    return {"labels": labels, "epochs": batches, "rare": drawn}


def _lengths(data: Path, utterances: Sequence[Utterance], labels: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Return targets, audio frames, seconds and syllables (N,) of the utterances."""
    store = FeatureStore(next((data / "stores" / "audio").glob(f"{ENCODER}-*")))
    targets, frames, seconds, words = [], [], [], []
    for utterance in utterances:
        targets.append(labels.index(str(utterance.emotion)))
        frames.append(store.num_frames(utterance.utterance_id))
        seconds.append(store.info.identity.duration_s(store.utterance_info(utterance.utterance_id).num_inputs))
        words.append(len(syllables(transcript_of(utterance))))
    return np.array(targets), np.array(frames), np.array(seconds), np.array(words)


def measure_evidence(run: Path, benchmarks: Path) -> dict[str, Any]:
    """Return the scores of each speaker of a run on test, two intervals, and the coverage of both kinds."""
    entries = [json.loads(line) for line in predictions_path(run, "test").read_text("utf-8").splitlines()]
    labels = list(entries[0]["probabilities"])
    targets = np.array([labels.index(entry["label"]) for entry in entries])
    predictions = np.array([labels.index(entry["prediction"]) for entry in entries])
    found: dict[str, Any] = {}
    for name, values in (("speaker", "speaker_id"), ("utterance", "utterance_id")):
        units = group_units([entry[values] for entry in entries], values)
        confusions = unit_confusions(targets, predictions, units, len(labels))
        interval = jackknife_interval(confusions, units, "accuracy")
        found[name] = {"interval": interval and interval.as_json(), "units": units.num}
        if name == "speaker":
            names = sorted({str(entry["speaker_id"]) for entry in entries})
            found["speakers"] = dict(zip(names, score(confusions, "accuracy").tolist(), strict=True))
            found["score"] = float(score(confusions.sum(0), "accuracy"))
    figures = json.loads((benchmarks / "intervals.json").read_text("utf-8"))["figures"]
    values = {figure["id"]: figure["value"] for figure in figures}
    kinds = {"speaker": "intervals.coverage.{}.equal", "utterance": "intervals.bootstrap.{}"}
    found["coverage"] = {kind: {g: values[key.format(g)] for g in (5, 10, 20, 30)} for kind, key in kinds.items()}
    return found


def rounded(value: Any) -> Any:
    """Return a document with numbers of six significant digits."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def measure(data: Path, run: Path) -> dict[str, Any]:
    """Return everything that the pictures show."""
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    return rounded(
        {
            "padding": measure_padding(data),
            "identity": measure_identity(),
            "sampling": measure_sampling(data),
            "evidence": measure_evidence(run, results),
        }
    )


def draw_all(measured: dict[str, Any], output: Path) -> None:
    """Write each picture for light and for dark pages."""
    for name, draw in PICTURES.items():
        for theme, colors in THEMES.items():
            (output / f"{name}-{theme}.svg").write_text(draw(measured[name], colors), "utf-8")


if __name__ == "__main__":
    folder = Path(__file__).parent
    if len(sys.argv) > 1:
        folder = Path(sys.argv[3])
        document = measure(Path(sys.argv[1]), Path(sys.argv[2]))
        (folder / FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draw_all(json.loads((folder / FILE).read_text("utf-8")), folder)
