"""Corpus: the utterances of the splits, with the columns and groups that findings compare."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from features.audit.audio_facts import AudioFacts
from features.config import SPLITS
from features.manifests.manifest import Utterance
from features.text.normalize import TONES, ZERO_WIDTH, apply_tone_style

Array = np.ndarray[Any, Any]
PUNCTUATION = re.compile(r"[^\w\s]|_")
INVISIBLE = re.compile(f"[{''.join(map(chr, ZERO_WIDTH))}]")


def _new_tones() -> dict[str, str]:
    """Return oa, oe and uy with each tone mark in the old style, and the same in the new style."""
    old = [
        unicodedata.normalize("NFC", vowels[0] + tone + vowels[1]) for vowels in ("oa", "oe", "uy") for tone in TONES
    ]
    return {vowels: apply_tone_style(vowels, "new") for vowels in old}


NEW_TONES = _new_tones()
OLD_TONES = re.compile("|".join(NEW_TONES))


@dataclass(frozen=True)
class Corpus:
    """N utterances of some splits, and what is known about their audio."""

    utterances: Sequence[Utterance]
    facts: Sequence[AudioFacts | None]
    """None: the audio was not measured."""

    @cached_property
    def splits(self) -> list[str]:
        """Names of the splits, in the order of `SPLITS`."""
        present = {utterance.split for utterance in self.utterances}
        return [split for split in SPLITS if split in present]

    @cached_property
    def split_index(self) -> Array:
        """Split of each utterance, (N,) int64."""
        numbers = {split: number for number, split in enumerate(self.splits)}
        return np.array([numbers[utterance.split] for utterance in self.utterances], np.int64)

    @cached_property
    def labels(self) -> list[str]:
        """The labels, sorted."""
        return sorted({utterance.emotion for utterance in self.utterances if utterance.emotion is not None})

    @cached_property
    def targets(self) -> Array:
        """Index of the label of each utterance, (N,) int64; -1 without a label."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        return np.array([numbers.get(utterance.emotion or "", -1) for utterance in self.utterances], np.int64)

    @cached_property
    def texts(self) -> list[str]:
        """Key of each transcript; empty if there is none."""
        return text_keys([utterance.transcript or "" for utterance in self.utterances])

    @cached_property
    def files(self) -> Array:
        """Number of the audio file of each utterance, (N,) int64; symbolic links and `..` are followed."""
        folders: dict[str, str] = {}
        real: dict[str, str] = {}
        paths = [str(utterance.audio_path) for utterance in self.utterances]
        for path in dict.fromkeys(paths):
            folder, separator, name = path.rpartition("/")
            if folder not in folders:  # each folder once: this takes longer than all else
                folders[folder] = os.path.realpath(folder + separator)
            found = f"{folders[folder]}/{name}"
            real[path] = os.path.realpath(found) if os.path.islink(found) else found  # noqa: PTH114 (Path is slow)
        return index_of([real[path] for path in paths])

    @cached_property
    def groups(self) -> Array:
        """Group of each utterance, (N,) int64: those that share a speaker or a recording, also indirectly.

        An utterance of an unknown speaker and a file of its own is a group of its own.
        """
        speakers: list[Hashable] = []
        for number, utterance in enumerate(self.utterances):
            speakers.append(number if utterance.speaker_id is None else utterance.speaker_id)
        speaker, file = index_of(speakers), self.files
        size = len(self.utterances)
        links = np.concatenate([speaker, file + size])  # nodes: utterances, then speakers and files
        nodes = np.tile(np.arange(size), 2)
        graph = coo_array((np.ones(2 * size), (nodes, links + size)), shape=(3 * size, 3 * size))
        found: Array = connected_components(graph, directed=False)[1][:size].astype(np.int64)
        return found

    def seconds(self) -> list[float | None]:
        """Return the duration of each utterance, as measured or from the manifest; None if unknown."""
        found: list[float | None] = []
        for utterance, fact in zip(self.utterances, self.facts, strict=True):
            if fact is not None:
                found.append(fact.seconds if fact.problem is None else None)
            else:
                found.append(None if utterance.end is None else utterance.end - utterance.start)
        return found

    def in_splits(self, split_of: Mapping[str, str]) -> Corpus:
        """Return the utterances with an id in `split_of`, each in the split that it names."""
        chosen = [i for i, utterance in enumerate(self.utterances) if utterance.utterance_id in split_of]
        utterances = [replace(one, split=split_of[one.utterance_id]) for one in self.at(chosen)]
        found = Corpus(utterances, [self.facts[index] for index in chosen])
        # what does not depend on splits is not computed again
        texts, files = [self.texts[index] for index in chosen], index_of(self.files[chosen].tolist())
        vars(found).update(texts=texts, files=files)
        return found

    def at(self, indices: Sequence[int]) -> list[Utterance]:
        """Return the utterances at some indices."""
        return [self.utterances[index] for index in indices]


def index_of(values: Sequence[Hashable]) -> Array:
    """Return a number for each value, (N,) int64: equal values have equal numbers, from 0 on."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def text_keys(transcripts: Sequence[str]) -> list[str]:
    """Return a key for each transcript that is equal for texts with the same words.

    It ignores case, punctuation, white space, Unicode form, zero-width characters, the place of a
    tone mark (hòa, hoà) and the two capital letters that look like Đ.
    """
    # one text: each call of a regular expression costs more than a line
    joined = "\n".join([text.replace("\n", " ") for text in transcripts])
    joined = unicodedata.normalize("NFC", INVISIBLE.sub("", joined)).casefold().replace("ð", "đ")
    joined = PUNCTUATION.sub(" ", OLD_TONES.sub(lambda match: NEW_TONES[match[0]], joined))
    return [" ".join(line.split()) for line in joined.split("\n")]
