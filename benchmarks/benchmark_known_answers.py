"""Measure whether every fusion learns the known cause of the labels, and nothing from random labels.

    python benchmarks/benchmark_known_answers.py [--first-seed N] [--tiny] [--json]

Uses the four label sets of `mervn demo`: the cause of the label is prosody (audio), words (text),
only both together (both), or chance (none). The figure is the test macro-F1 of each fusion, with
the demo's settings and `CHANGES` to them, for the worst of three seeds: the minimum if the labels
have a cause, the maximum if they do not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import click
from report import Figure, MessagesOnly, report

from features.progress import SILENT
from mervn.demo import corpus
from mervn.demo.corpus import make_corpus
from mervn.demo.known_answers import answers_of, extract_demo, train_and_score

FUSIONS = ("xattn", "bilstm_attn", "cnn_bilstm_attn")
CHANGES: dict[str, Any] = {
    "rnn_hidden": 32,
    "loss": "label_smoothing",
    "learning_rate": 5e-4,
    "input_dropout": 0.2,
    "epochs": 60,
    "patience": 15,
}
"""A BiLSTM with the output width of the demo, 64, and a longer training with a lower learning rate.

benchmarks/README.md describes how they were chosen."""
TINY: dict[str, Any] = {"epochs": 1, "dim": 8, "rnn_hidden": 4}
TINY_SPEAKERS = {split: names[:2] for split, names in corpus.SPEAKERS.items()}
TINY_TEMPLATES = dict.fromkeys(corpus.TEMPLATES_PER_PASS, 2)


def measure(folder: Path, seeds: range, changes: dict[str, Any]) -> list[Figure]:
    """Train every fusion on every label set with every seed."""
    make_corpus(folder, 0)
    extract_demo(folder, SILENT)
    macro_f1 = [train_and_score(folder, seed, MessagesOnly(), FUSIONS, (), changes).macro_f1 for seed in seeds]
    figures = []
    for fusion in FUSIONS:
        for answer in answers_of(fusion):
            scores = [of_seed[answer.label_set][fusion] for of_seed in macro_f1]
            worst, better = (min(scores), "higher") if answer.at_least else (max(scores), "lower")
            what = f"test macro-F1, {'minimum' if answer.at_least else 'maximum'} of {len(seeds)} seeds"
            figures.append(Figure(f"known.{fusion}.{answer.label_set}", what, worst, answer.bound, better))
    return figures


@click.command()
@click.option("--first-seed", default=0, show_default=True, help="The first of the three seeds.")
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(first_seed: int, tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        if tiny:
            speakers = mock.patch.dict(corpus.SPEAKERS, TINY_SPEAKERS)
            with speakers, mock.patch.dict(corpus.TEMPLATES_PER_PASS, TINY_TEMPLATES):
                figures = measure(Path(name) / "demo", range(1), TINY)
        else:
            figures = measure(Path(name) / "demo", range(first_seed, first_seed + 3), CHANGES)
    report("known_answers", figures, as_json)


if __name__ == "__main__":
    main()
