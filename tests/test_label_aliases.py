"""Spellings of labels: one word per emotion, and no silent merging of two words."""

import pytest

from features.corpora.label_aliases import ALIASES, is_missing, known_label, rename_labels
from features.errors import UsageError


def test_spellings_mean_the_same_label() -> None:
    for spelling in ("hap", "Happy", "HAPPINESS", "joy", "vui", "Vui vẻ", "vui_ve", "快乐"):
        assert known_label(spelling) == "happy"
    assert known_label("tức giận") == known_label("ang") == "angry"
    assert known_label("buo\u0302\u0300n") == "sad"  # NFD
    assert known_label("excited") == "excited" and known_label("happier") is None


def test_no_spelling_means_two_labels() -> None:
    spellings = [spelling for label, aliases in ALIASES.items() for spelling in (label, *aliases)]
    for label, aliases in ALIASES.items():
        assert all(known_label(alias) == label for alias in (label, *aliases))
    assert len(spellings) == len(set(spellings)) and not any(map(is_missing, spellings))


def test_missing_labels() -> None:
    assert all(map(is_missing, (None, "", " ", "xxx", "NaN", "no_agreement"))) and not is_missing("other")


def test_two_words_for_a_label_are_merged_only_if_asked() -> None:
    words = ["happy", "Happy", "joyful", "sad", "weird"]
    with pytest.raises(UsageError, match="found Happy, happy, joyful for happy; give --merge-labels"):
        rename_labels(words, None)
    same = {"sad": "sad", "weird": "weird"}
    assert rename_labels(words, True) == {"Happy": "happy", "happy": "happy", "joyful": "happy", **same}
    assert rename_labels(words, False) == {"Happy": "Happy", "happy": "Happy", "joyful": "joyful", **same}
    assert rename_labels(["Happy", "happy"], None) == {"Happy": "happy", "happy": "happy"}
    assert rename_labels(["weird", "Weird "], None) == {"Weird ": "Weird", "weird": "Weird"}
