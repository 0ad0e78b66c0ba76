"""Findings about fold files: what the splits of each fold share, although the manifests are sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from features.audit.audio import duplicate_findings
from features.audit.corpus import Corpus
from features.audit.finding import SEVERITIES, Finding
from features.audit.groups import group_findings
from features.audit.labels import class_findings
from features.audit.text import overlap_findings
from features.manifests.folds import PATTERN, Folds, read_folds

FAMILIES = (group_findings, duplicate_findings, overlap_findings, class_findings)
WITHOUT_SPLITS = ("speaker_is_utterance", "unknown_speaker")
"""Findings of these families that do not depend on the splits."""
WITHIN_SPLITS = ("segment_overlap", "duplicate_audio")
"""Findings that are errors only across splits; within one, the manifests have them too."""


def read_fold_files(data: Path) -> list[Folds]:
    """Read all fold files of a data folder; InputError for one that cannot be read."""
    return [read_folds(path) for path in sorted(data.glob(PATTERN))]


def fold_findings(corpus: Corpus, files: Sequence[Folds]) -> Iterator[Finding]:
    """Yield the findings about the folds of each file.

    There is one finding of a kind per file; its count is the number of folds.
    """
    for folds in files:
        yield from _of_file(corpus, folds)


def unknown_ids(corpus: Corpus, files: Sequence[Folds]) -> list[str]:
    """Return a remark for each fold file with ids that no manifest has."""
    known = {utterance.utterance_id for utterance in corpus.utterances}
    remarks = []
    for folds in files:
        unknown: set[str] = set()
        for fold in folds.folds:
            for ids in fold.values():
                unknown.update(set(ids) - known)
        if unknown:
            remarks.append(f"{folds.path.name} names {len(unknown)} ids that no manifest has, such as {min(unknown)!r}")
    return remarks


def _of_file(corpus: Corpus, folds: Folds) -> Iterator[Finding]:
    """Yield one finding per kind for all folds of a file."""
    by_kind: dict[str, list[tuple[int, Finding]]] = {}
    for number, fold in enumerate(folds.folds, start=1):
        split_of: dict[str, str] = {}
        for split, ids in fold.items():
            split_of |= dict.fromkeys(ids, split)
        for found in _findings(corpus.in_splits(split_of)):
            by_kind.setdefault(found.id, []).append((number, found))
    for in_folds in by_kind.values():
        number, first = min(in_folds, key=lambda pair: SEVERITIES.index(pair[1].severity))
        message = f"{len(in_folds)} of {len(folds)} folds of {folds.path.name}, such as fold {number}: {first.message}"
        yield replace(first, count=len(in_folds), message=message)


def _findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the findings about one fold that depend on its splits."""
    for family in FAMILIES:
        for found in family(corpus):
            is_across = found.severity == "error" or found.id not in WITHIN_SPLITS
            if is_across and found.id not in WITHOUT_SPLITS:
                yield found
