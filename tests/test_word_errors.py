"""Word error rates: against an independent edit distance, and intervals against a jackknife by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tiny_extraction import utterance

from mervn.data.corrupted import edit_distance
from mervn.transcription.word_errors import comparable_text, count_word_errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tôi  VUI, lắm!", "tôi vui lắm"),
        ("hòa thuỷ quý", "hoà thuỷ quý"),
        ("Sinh_viên wi-fi 20%", "sinh viên wi fi 20"),
        ("a\u0301o \u200bdài…", "áo dài"),
        ("?!", ""),
    ],
)
def test_case_punctuation_form_and_tone_style_are_no_errors(text: str, expected: str) -> None:
    assert comparable_text(text) == expected


def test_a_wrong_tone_is_an_error() -> None:
    assert comparable_text("má") != comparable_text("mà")


def corpus(count: int) -> tuple[list, dict[str, str]]:
    """Return utterances of five speakers with random texts of up to 6 of 4 words, and texts with random changes."""
    rng = np.random.default_rng(3)
    words = np.array(["một", "hai", "ba", "bốn"])
    utterances, texts = [], {}
    for i in range(count):
        reference, heard = (" ".join(rng.choice(words, rng.integers(low, 7))) for low in (1, 0))
        utterances.append(replace(utterance(f"u{i}"), transcript=reference, speaker_id=f"s{i % 5}"))
        texts[f"u{i}"] = heard.upper()
    return utterances, texts


def test_the_rate_is_the_sum_of_edit_distances_per_word() -> None:
    utterances, texts = corpus(60)
    found = count_word_errors(utterances, texts)
    errors = [edit_distance(one.transcript.split(), texts[one.utterance_id].lower().split()) for one in utterances]
    words = [len(one.transcript.split()) for one in utterances]
    assert found.substitutions + found.deletions + found.insertions == sum(errors)
    assert found.deletions - found.insertions == sum(words) - sum(len(text.split()) for text in texts.values())
    assert (found.words, found.utterances, found.rate) == (sum(words), 60, sum(errors) / sum(words))


def test_the_interval_leaves_out_one_speaker_at_a_time() -> None:
    utterances, texts = corpus(60)
    found = count_word_errors(utterances, texts)
    rates = []
    for speaker in range(5):
        others = [one for one in utterances if one.speaker_id != f"s{speaker}"]
        rates.append(count_word_errors(others, texts).rate)
    error = math.sqrt(4 / 5 * ((np.array(rates) - np.mean(rates)) ** 2).sum())
    half = stats.t.ppf(0.975, 4) * error
    assert found.interval is not None and found.rate is not None and found.speakers == 5
    assert (found.interval.low, found.interval.high) == pytest.approx((found.rate - half, found.rate + half))


def test_a_rate_above_one_keeps_its_interval() -> None:
    utterances = [replace(utterance(f"u{i}"), transcript="một", speaker_id=f"s{i % 5}") for i in range(10)]
    found = count_word_errors(utterances, {f"u{i}": "hai " * (3 + i % 3) for i in range(10)})
    assert found.rate is not None and found.rate > 3 and found.interval is not None and found.interval.high > found.rate


def test_utterances_without_reference_or_text_are_left_out_and_few_speakers_give_no_interval() -> None:
    utterances = [
        replace(utterance("a"), transcript="một hai"), replace(utterance("b"), transcript=None),
        replace(utterance("c"), transcript="..."), replace(utterance("d"), transcript="ba"),
    ]  # fmt: skip
    found = count_word_errors(utterances, {"a": "một", "b": "x", "c": "y"})
    assert (found.utterances, found.without_reference, found.words, found.deletions) == (1, 2, 2, 1)
    assert found.interval is None
    nothing = count_word_errors(utterances[1:3], {"b": "x"})
    assert (nothing.rate, nothing.words, nothing.without_reference) == (None, 0, 1)
