"""Findings about labels: classes without utterances, spellings, and labels in ids and paths."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from features.audit.chance import association, many_symbols
from features.audit.corpus import Corpus
from features.audit.explanations import finding
from features.audit.finding import Finding
from features.counts import counted
from features.manifests.label_names import lookalikes

PARTS = re.compile(r"[^\W\d_]+|\d+")
"""Words and numbers of a name."""
MIN_SKILL = 0.1
MIN_LABEL_LETTERS = 3
"""A shorter label occurs in many names by chance."""


def label_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the findings about labels."""
    yield from class_findings(corpus)
    yield from _lookalikes(corpus)
    ids = [utterance.utterance_id for utterance in corpus.utterances]
    yield from _label_in_names(corpus, "label_in_id", "ids", ids)
    # an id that is a part of the path would give the same finding twice
    paths = [utterance.wav_path.replace(utterance.utterance_id, "") for utterance in corpus.utterances]
    yield from _label_in_names(corpus, "label_in_path", "paths", paths)


def class_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the finding about classes that are not in every split."""
    present: dict[str, set[str]] = {split: set() for split in corpus.splits}
    for utterance in corpus.utterances:
        if utterance.emotion is not None:
            present[utterance.split].add(utterance.emotion)
    labelled = {split: labels for split, labels in present.items() if labels}
    parts, missing = [], set()
    for split, labels in labelled.items():
        lacking = [label for label in corpus.labels if label not in labels]
        missing.update(lacking)
        if lacking:
            parts.append(f"{split} lacks {', '.join(map(repr, lacking))}")
    if parts:
        is_error = "train" in labelled and bool(set(corpus.labels) - labelled["train"])
        examples = [utterance for utterance in corpus.utterances if utterance.emotion in missing]
        count = counted(len(missing), "class", "classes")
        message = f"{count} not in every split: {'; '.join(parts)}"
        yield finding("class_missing", "error" if is_error else "warning", len(missing), message, examples)


def _lookalikes(corpus: Corpus) -> Iterator[Finding]:
    labels = [utterance.emotion for utterance in corpus.utterances if utterance.emotion is not None]
    pairs = lookalikes(labels)
    if pairs:
        names = ", ".join(f"{first!r} and {second!r}" for first, second in pairs)
        later = {second for _, second in pairs}
        examples = [utterance for utterance in corpus.utterances if utterance.emotion in later]
        message = f"{counted(len(pairs), 'pair')} of labels that look the same: {names}"
        yield finding("label_lookalike", "error", len(pairs), message, examples)


def _label_in_names(corpus: Corpus, name: str, what: str, names: Sequence[str]) -> Iterator[Finding]:
    """Test whether the parts of names tell the label of other speakers' utterances."""
    found = association(many_symbols(name_symbols(names, corpus.labels)), corpus.targets, corpus.groups)
    if found is not None and found.beats_chance(MIN_SKILL):
        labelled = [utterance for utterance in corpus.utterances if utterance.emotion is not None]
        message = f"{counted(len(labelled), 'utterance')} whose {what} tell the label ({found})"
        yield finding(name, "info", len(labelled), message, labelled)


def name_symbols(names: Sequence[str], labels: Sequence[str]) -> list[list[str]]:
    """Return the symbols of each name: words, words and numbers with their position, and labels.

    A label counts if its letters, without diacritics, are a part of the name.
    """
    written = [(label, _letters(label)) for label in labels]
    written = [(label, letters) for label, letters in written if len(letters) >= MIN_LABEL_LETTERS]
    known: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        parts = PARTS.findall(_plain(name))
        letters = "".join(parts)
        symbols = [f"{position}:{part}" for position, part in enumerate(parts)]
        symbols += [part for part in parts if not part.isdecimal()]
        symbols += [f"label:{label}" for label, wanted in written if wanted in letters]
        known[name] = symbols
    return [known[name] for name in names]


def _plain(name: str) -> str:
    """Return a name in lower case without diacritics."""
    if name.isascii():
        return name.lower()
    decomposed = unicodedata.normalize("NFD", name.casefold().replace("đ", "d"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _letters(label: str) -> str:
    """Return the letters and digits of a label, in lower case without diacritics."""
    return "".join(PARTS.findall(_plain(label)))
