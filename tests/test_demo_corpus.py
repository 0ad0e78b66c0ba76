"""The demo corpus: what decides each label set is exact, and its files are a function of the seed."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from features.config import SPLITS
from features.errors import InputError
from features.manifest import Utterance, read_manifests
from mervn.demo import corpus
from mervn.demo.corpus import DIALECTS, LABELS, PARAMETERS, SPEAKERS, CorpusSummary, Planned, make_corpus, plan
from mervn.demo.espeak import SAMPLE_RATE, speak
from mervn.demo.sentences import CUES, sentences

Manifests = dict[str, dict[str, list[Utterance]]]
PROSODY = tuple(PARAMETERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CorpusSummary:
    pytest.importorskip("espeakng_loader")
    return make_corpus(tmp_path_factory.mktemp("demo") / "corpus", seed=0)


@pytest.fixture(scope="module")
def manifests(made: CorpusSummary) -> Manifests:
    return {label_set: read_manifests(made.path / label_set, SPLITS) for label_set in LABELS}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two speakers a split, one of them recorded at length."""
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(corpus, "SPEAKERS", {split: SPEAKERS[split][:2] for split in SPLITS})
    monkeypatch.setattr(
        corpus, "sentences", lambda split: [s for s in sentences(split) if int(s.sentence_id[-11:-9]) < 3]
    )
    yield
