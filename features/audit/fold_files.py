"""Findings about fold files: what the splits of each fold share, although the manifests are sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from features.audit.corpus import Corpus
from features.audit.finding import SEVERITIES, Finding
from features.manifests.folds import PATTERN, Folds, read_folds

KINDS = (
    "speaker_overlap", "recording_overlap", "segment_overlap", "duplicate_audio", "transcript_overlap", "class_missing",
    "few_speakers", "dominant_speaker",
)  # fmt: skip
"""Findings that depend on the splits."""
WITHIN_SPLITS = ("segment_overlap", "duplicate_audio")
"""Findings that are errors only across splits; within one, the manifests have them too."""
CheckCorpus = Callable[[Corpus], Sequence[Finding]]


def fold_findings(corpus: Corpus, data: Path, check: CheckCorpus) -> Iterator[Finding]:
    """Yield the findings that `check` has for the folds of each fold file of a data folder.

    There is one finding of a kind per file; its count is the number of folds. Raises InputError for
    a file that cannot be read.
    """
    for path in sorted(data.glob(PATTERN)):
        folds = read_folds(path)
        yield from _of_file(corpus, folds, check)


def unknown_ids(corpus: Corpus, data: Path) -> list[str]:
    """Return a remark for each fold file with ids that no manifest has."""
    known = {utterance.utterance_id for utterance in corpus.utterances}
    remarks = []
    for path in sorted(data.glob(PATTERN)):
        unknown: set[str] = set()
        for fold in read_folds(path).folds:
            for ids in fold.values():
                unknown.update(set(ids) - known)
        if unknown:
            remarks.append(f"{path.name} names {len(unknown)} ids that no manifest has, such as {min(unknown)!r}")
    return remarks


def _of_file(corpus: Corpus, folds: Folds, check: CheckCorpus) -> Iterator[Finding]:
    """Yield one finding per kind for all folds of a file."""
    by_kind: dict[str, list[tuple[int, Finding]]] = {}
    for number, fold in enumerate(folds.folds, start=1):
        for found in check(_fold_corpus(corpus, fold)):
            is_across = found.severity == "error" or found.id not in WITHIN_SPLITS
            if found.id in KINDS and is_across:
                by_kind.setdefault(found.id, []).append((number, found))
    for in_folds in by_kind.values():
        number, first = min(in_folds, key=lambda pair: SEVERITIES.index(pair[1].severity))
        message = f"{len(in_folds)} of {len(folds)} folds of {folds.path.name}, such as fold {number}: {first.message}"
        yield replace(first, count=len(in_folds), message=message)


def _fold_corpus(corpus: Corpus, fold: Mapping[str, Sequence[str]]) -> Corpus:
    """Return the utterances of a fold, each in its split of the fold."""
    split_of: dict[str, str] = {}
    for split, ids in fold.items():
        split_of |= dict.fromkeys(ids, split)
    utterances, facts = [], []
    for utterance, fact in zip(corpus.utterances, corpus.facts, strict=True):
        if utterance.utterance_id in split_of:
            utterances.append(replace(utterance, split=split_of[utterance.utterance_id]))
            facts.append(fact)
    return Corpus(utterances, facts)
