"""Random features with the lengths of a speech emotion corpus: on average 228 audio frames and 21 text tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.manifests.manifest import Utterance
from features.store.identity import StoreIdentity, create_store
from features.store.part import StoredUtterance
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter
from mervn.data.stored_sequences import Sequences
from mervn.data.stored_split import StoredSplit
from mervn.data.streams import StreamShape

WIDTHS = {"text": 768, "audio": 1024}
SHAPES = {name: StreamShape(width) for name, width in WIDTHS.items()}
CLASSES = 4


@dataclass(frozen=True)
class Corpus:
    """Random features of realistic lengths, in a store and as one file per utterance."""

    split: StoredSplit
    files: list[tuple[Path, Path]]
    targets: list[int]


def corpus_lengths(count: int, generator: np.random.Generator) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return durations in seconds (N,) and, by modality, sequence lengths (N,) of a speech emotion corpus."""
    seconds = np.clip(generator.lognormal(np.log(4.2), 0.45, count), 1.0, 15.0)
    tokens = np.clip(seconds * 4.2 * generator.uniform(0.7, 1.3, count) + 2, 5, 60).astype(int)
    return seconds, {"audio": np.clip(seconds * 50, 50, 750).astype(int), "text": tokens}


def random_identity(modality: str, width: int) -> StoreIdentity:
    """Return the identity of a store of random features, fp16."""
    return StoreIdentity(
        modality=modality,
        encoder="random",
        weights_sha256="",
        config={},
        layer=0,
        dim=width,
        encoder_precision="fp32",
        store_dtype="fp16",
        numerics_version=1,
        sample_rate=16_000 if modality == "audio" else None,
    )


def make_corpus(folder: Path, count: int) -> Corpus:
    """Write the same fp16 features to a store and to .npy files."""
    generator = np.random.default_rng(0)
    seconds, lengths = corpus_lengths(count, generator)
    targets = generator.integers(0, CLASSES, count)
    utterances = [
        Utterance(
            f"u{i}", "s", "-", Path("-"), 0.0, None, "mix", "", str(targets[i]), "train", "train.jsonl", i + 1, {}
        )
        for i in range(count)
    ]
    streams, files = {}, []
    for modality, width in WIDTHS.items():
        info = create_store(folder, random_identity(modality, width), {}, "benchmark")
        paths = []
        with StoreWriter(info) as writer:
            for i, utterance in enumerate(utterances):
                values = generator.standard_normal((lengths[modality][i], width), np.float32).astype(np.float16)
                writer.add([StoredUtterance(utterance.utterance_id, values, 0, "", "{}")])
                paths.append(folder / f"{modality}-{i}.npy")
                np.save(paths[-1], values)
        store = FeatureStore(info.path)
        streams[modality] = [Sequences.of(store, [utterance.utterance_id for utterance in utterances])]
        files.append(paths)
    split = StoredSplit("train", utterances, [], targets, streams, seconds, lengths["text"], "")
    return Corpus(split, list(zip(*files, strict=True)), targets.tolist())
