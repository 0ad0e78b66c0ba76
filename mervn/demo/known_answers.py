"""The demo: corpus, extraction, training and a table whose right values are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.report import StoreResult
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import Progress, Reporter, Say
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate import evaluate
from mervn.training.train_head import train_head

SETS = ("audio", "text", "both", "none")
ROWS = ("text", "audio", "late", "xattn")
ENCODERS = {"audio": "fourier2vec", "text": "hashed_ngrams"}
SETTINGS: dict[str, Any] = {
    "pooling": "mean",
    "dim": 64,
    "mlp": (128,),
    "dropout": 0.2,
    "loss": "ce",
    "sampling": "bucket",
    "epochs": 30,
    "patience": 8,
    "learning_rate": 1e-3,
    "amp": "off",
}
"""Chosen on valid, the same for every cell and on every machine."""


@dataclass(frozen=True)
class Answer:
    """A known answer: the best test macro-F1 of some rows on one label set must lie on one side of a bound."""

    label_set: str
    rows: tuple[str, ...]
    bound: float
    at_least: bool

    def met(self, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Tell whether the scores hold it."""
        best = max(scores[self.label_set][row] for row in self.rows)
        return best >= self.bound if self.at_least else best <= self.bound

    def __str__(self) -> str:
        side = ">=" if self.at_least else "<="
        return f"{self.label_set}: {' or '.join(self.rows)} {side} {self.bound:.2f}"


ANSWERS = (
    Answer("audio", ("audio",), 0.85, True),
    Answer("text", ("text",), 0.95, True),
    Answer("both", ("late", "xattn"), 0.85, True),
    Answer("audio", ("text",), 0.65, False),
    Answer("text", ("audio",), 0.65, False),
    Answer("both", ("text",), 0.65, False),
    Answer("both", ("audio",), 0.65, False),
    *(Answer("none", (row,), 0.65, False) for row in ROWS),
)
"""What decides a label set must be found; what knows nothing must find nothing (chance is 0.50)."""


def answers_of(fusion: str) -> tuple[Answer, ...]:
    """Return the known answers of a fusion that reads both modalities: what decides is found, and nothing else."""
    bounds = {"audio": 0.85, "text": 0.95, "both": 0.85}
    found = [Answer(label_set, (fusion,), bound, at_least=True) for label_set, bound in bounds.items()]
    return (*found, Answer("none", (fusion,), 0.65, at_least=False))


@dataclass(frozen=True)
class DemoResult:
    """Test macro-F1 by label set and row, and the known answers that were missed."""

    macro_f1: dict[str, dict[str, float]]
    n_test: int
    missed: list[str]

    @property
    def met(self) -> bool:
        """Tell whether every known answer holds."""
        return not self.missed


def extract_demo(demo: Path, say: Say, progress: Progress) -> list[StoreResult]:
    """Extract both encoders once; the four label sets share audio, transcripts and ids, hence the stores."""
    rows = read_manifests(demo / "audio", SPLITS)
    utterances = [utterance for split in SPLITS for utterance in rows[split]]
    settings = ExtractSettings(features_dir=demo / "stores")
    return [
        result
        for modality, name in ENCODERS.items()
        for result in extract_stream(utterances, parse_selector(name, modality), settings, say, progress)
    ]


def train_and_score(
    demo: Path,
    seed: int,
    reporter: Reporter,
    rows: Sequence[str] = ROWS,
    answers: Sequence[Answer] | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> DemoResult:
    """Train every row (a fusion with the demo's settings and some changes) on every label set; score it on test."""
    scores: dict[str, dict[str, float]] = {}
    n_test = 0
    for label_set in SETS:
        scores[label_set] = {}
        for row in rows:
            data, run = demo / label_set, demo / "runs" / f"{label_set}-{row}-seed{seed}"
            options = TrainHeadOptions(
                **{**SETTINGS, **changes}, fusion=row, seed=seed, features_dir=demo / "stores", output=run,
                checkpoint_every=0,
            ).with_general(changes)  # fmt: skip
            result = train_head(options, data)
            looked = EvaluateOptions(split="test", features_dir=demo / "stores", data=data)
            test = evaluate(run, looked, reporter)["test"]
            scores[label_set][row] = test["macro_f1"]
            n_test = test["n"]
            valid = result.metrics["valid"]["macro_f1"]
            reporter.say(f"{label_set:>5} {row:>5}: macro-F1 {valid:.3f} on valid, {test['macro_f1']:.3f} on test")
    missed = [str(answer) for answer in (ANSWERS if answers is None else answers) if not answer.met(scores)]
    return DemoResult(scores, n_test, missed)
