"""The summary of a corpus: its counts and quantiles are those of loops over the utterances."""

import json
import math
import statistics
from collections import Counter

import numpy as np
import pytest
from faulty_corpus import clean_corpus

from features.audit.corpus import Corpus
from features.audit.corpus_summary import QUANTILES, UNLABELLED, summarize_corpus


def test_counts_and_medians_are_those_of_loops() -> None:
    made = clean_corpus(2)
    for index in made.of("test")[:7]:
        made.change(index, emotion=None, speaker_id=None)
    made.measure(made.of("valid")[0], problem="truncated", seconds=0.0, sample_rate=0)
    made.measure(made.of("train")[3], rms=0.0)
    found = summarize_corpus(made.corpus())
    assert list(found.splits) == ["train", "valid", "test"]
    for split, of_split in found.splits.items():
        members = made.of(split)
        sizes = Counter(made.utterances[i].speaker_id for i in members if made.utterances[i].speaker_id)
        assert of_split.utterances == len(members) and of_split.speakers == len(sizes)
        effective = sum(sizes.values()) ** 2 / sum(size * size for size in sizes.values())
        assert of_split.effective_speakers == pytest.approx(effective, abs=1e-4)
        assert of_split.largest_speaker == max(sizes.values())
        assert of_split.unknown_speaker == len(members) - sum(sizes.values()) == (7 if split == "test" else 0)
        assert of_split.without_words == sum(made.utterances[i].transcript == "" for i in members) > 0
        classes = Counter(made.utterances[i].emotion or UNLABELLED for i in members)
        assert of_split.classes == dict(classes)
        usable = [i for i in members if made.facts[i].problem is None]
        assert of_split.unknown_duration == len(members) - len(usable) == (1 if split == "valid" else 0)
        assert of_split.seconds == pytest.approx(sum(made.facts[i].seconds for i in usable), abs=1e-3)
        for label in classes:
            seconds = [made.facts[i].seconds for i in usable if (made.utterances[i].emotion or "") == label]
            low, _, median, _, high = of_split.durations[label]
            assert median == pytest.approx(statistics.median(seconds), abs=1e-4)
            assert min(seconds) <= low < median < high <= max(seconds)
    rates = Counter(str(fact.sample_rate) for fact in made.facts if fact.problem is None)
    assert found.sample_rates == dict(rates) and found.channels == {"1": len(made.facts) - 1}
    levels = found.splits["train"].levels
    assert all(one[2] == pytest.approx(20 * math.log10(0.1), abs=1e-3) for one in levels.values())
    assert min(one[0] for one in levels.values()) > -120  # a single silent utterance
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["sample_rates"] == found.sample_rates


def test_what_is_not_measured_has_the_times_of_the_manifest_or_none() -> None:
    made = clean_corpus(3)
    made.change(0, end=2.5, emotion="sad")
    for index in range(1, len(made.utterances)):
        made.change(index, emotion="happy")
    found = summarize_corpus(Corpus(made.utterances, [None] * len(made.utterances))).splits["train"]
    assert found.durations == {"sad": (2.5,) * len(QUANTILES)} and found.levels == {} and found.seconds == 2.5
    assert found.unknown_duration == found.utterances - 1


def test_quantiles_are_those_of_a_sorted_list() -> None:
    made = clean_corpus(4)
    train = made.of("train")[:101]
    values = np.random.default_rng(0).permutation(101).tolist()
    for index, value in zip(train, values, strict=True):
        made.change(index, emotion="sad")
        made.measure(index, seconds=float(value))
    corpus = Corpus([made.utterances[i] for i in train], [made.facts[i] for i in train])
    assert summarize_corpus(corpus).splits["train"].durations["sad"] == (5.0, 25.0, 50.0, 75.0, 95.0)
