"""Sentences of the demo corpus: only the cue predicts the word class."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import chain

from features.config import SPLITS
from mervn.demo.corpus import plan
from mervn.demo.sentences import CUES, TEMPLATES, sentences


def test_sentences_belong_to_one_split_and_are_nfc() -> None:
    texts = [sentence.text for sentence in chain.from_iterable(map(sentences, SPLITS))]
    assert len(set(texts)) == len(texts) >= 72
    for text in texts:
        assert unicodedata.is_normalized("NFC", text)
        assert 6 <= len(text.split()) <= 14
    for split in SPLITS:
        planned = {utterance.sentence for utterance in plan(split, 0)}
        assert planned == set(sentences(split))


def test_cues_decide_the_word_class_and_occur_in_every_split() -> None:
    cues = {}
    for positive, negative in CUES.values():
        cues |= {positive: True, negative: False}
    for split in SPLITS:
        assert {sentence.cue for sentence in sentences(split)} == set(cues)
        for sentence in sentences(split):
            assert {cues[cue] for cue in cues if cue in sentence.text} == {sentence.positive}


def test_only_the_cue_predicts_the_word_class() -> None:
    for split in SPLITS:
        rest = {True: Counter[str](), False: Counter[str]()}
        for sentence in sentences(split):
            rest[sentence.positive].update(sentence.text.replace(sentence.cue, "").split())
        assert rest[True] == rest[False]
        words = set(chain.from_iterable(template.split() for _, template in TEMPLATES[split]))
        syllables = set(chain.from_iterable(cue.split() for cue in chain.from_iterable(CUES.values())))
        assert not words & syllables
