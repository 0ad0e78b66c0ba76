"""Keys of transcripts: equal for the same words, and as slow spelling rules give them."""

import unicodedata

import numpy as np
import pytest
from faulty_corpus import clean_corpus

from features.audit.check import check_corpus
from features.audit.corpus import text_keys
from features.text.normalize import apply_tone_style

SAME = [
    ("Hòa bình!", "hoà  bình"),
    ("Ðà Nẵng", "Đà Nẵng"),
    ("thuý, khoẻ?", "THÚY khỏe"),
    (unicodedata.normalize("NFD", "sinh_viên"), "sinh viên"),
    ("xin\u200b chào\n", "Xin chào."),
]
OTHER = [("hòa", "hóa"), ("má", "mà"), ("quý", "quy"), ("đa", "da"), ("hai ba", "haiba"), ("oăn", "oan")]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_words_have_the_same_key(first: str, second: str) -> None:
    one, other = text_keys([first, second])
    assert one == other != ""


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_other_words_have_another_key(first: str, second: str) -> None:
    one, other = text_keys([first, second])
    assert one != other


def test_keys_are_those_of_each_line_alone_with_the_new_tone_style() -> None:
    rng = np.random.default_rng(0)
    letters = list("oauyeq hnòàóáúùỳýèẻỏọạãđ.,")
    lines = ["".join(rng.choice(letters, 12)) for _ in range(200)]
    for line, key in zip(lines, text_keys(lines), strict=True):
        assert text_keys([line]) == [key]
        words = "".join(" " if letter in ".," else letter for letter in line).split()
        # a mark moves in every oa, oe and uy, also before a coda, as the new style places it there
        assert apply_tone_style(key, "new") == apply_tone_style(" ".join(words), "new")


def test_a_transcript_without_words_is_empty() -> None:
    assert text_keys(["...", " \u200b", "", "?!\n"]) == ["", "", "", ""]


def test_empty_transcripts_are_counted_by_split_and_class() -> None:
    made = clean_corpus(0)
    for index in range(len(made.utterances)):
        made.change(index, transcript=f"câu {index}")
    first, last = made.of("train")[0], made.of("test")[0]
    made.change(first, transcript=None, emotion="sad")
    made.change(last, transcript=" ", emotion=None)
    (finding,) = check_corpus(made.corpus()).findings
    assert finding.message.endswith("1 of 144 in train (sad 1); 1 of 60 in test (without label 1)")
    assert finding.examples == ("train.jsonl:1", "test.jsonl:1")


def test_sentences_of_other_splits_only_are_no_table_of_labels() -> None:
    """A corpus in which each sentence is of one class, and in one split only, has no shortcut."""
    made = clean_corpus(6)
    for index, utterance in enumerate(made.utterances):
        made.change(index, transcript=f"câu {utterance.split} {utterance.emotion} {index % 4}")
    assert check_corpus(made.corpus()).findings == []
    for index, utterance in enumerate(made.utterances):
        made.change(index, transcript=f"câu {utterance.emotion} {index % 4}")
    assert {finding.id for finding in check_corpus(made.corpus()).findings} == {
        "transcript_is_label", "transcript_overlap",
    }  # fmt: skip


@pytest.mark.parametrize("is_cue", [True, False])
def test_a_class_that_is_never_empty_is_found_in_a_small_corpus_of_unknown_speakers(is_cue: bool) -> None:
    made = clean_corpus(7)
    empty = made.rng.permutation(len(made.utterances))[:26].tolist()
    for index in range(len(made.utterances)):
        made.change(index, speaker_id=None, transcript="" if index in empty else f"câu {index}")
    for number, index in enumerate(empty):
        made.change(index, emotion=("happy", "sad")[number % 2] if is_cue else ("angry", "happy", "sad")[number % 3])
    found = {finding.id for finding in check_corpus(made.corpus()).findings}
    assert found - {"empty_transcript_by_class"} == {"unknown_speaker", "empty_transcript"}
    assert ("empty_transcript_by_class" in found) is is_cue
