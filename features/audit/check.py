"""Check of a corpus: every finding about its manifests and audio (`mervn check`)."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.audit.audio import audio_findings
from features.audit.audio_facts import AudioFacts
from features.audit.audio_pass import known_facts, measure_corpus
from features.audit.chance import can_test
from features.audit.corpus import Corpus
from features.audit.corpus_summary import CorpusSummary, summarize_corpus
from features.audit.finding import SEVERITIES, Finding
from features.audit.fold_files import fold_findings, read_fold_files, unknown_ids
from features.audit.groups import group_findings
from features.audit.labels import label_findings
from features.audit.text import text_findings
from features.config import SPLITS
from features.counts import counted
from features.errors import InputError
from features.manifests.folds import Folds
from features.manifests.manifest import Utterance, read_manifests
from features.progress import SILENT, Reporter

SCHEMA = 1


@dataclass(frozen=True)
class Check:
    """Findings about a corpus, errors first."""

    findings: list[Finding]
    splits: dict[str, int]
    """Number of utterances of each split that was read."""
    measured: int
    """Number of utterances whose audio was measured, now or before, and can be used."""
    hours: float
    """Hours of the audio that was measured."""
    remarks: list[str]
    """What was not checked, and why."""
    summary: CorpusSummary

    @property
    def has_errors(self) -> bool:
        """Tell whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each severity."""
        counts = Counter(finding.severity for finding in self.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; it holds no time and no path of a folder."""
        return {
            "schema": SCHEMA,
            "splits": self.splits,
            "measured": self.measured,
            "hours": round(self.hours, 4),
            "counts": self.counts,
            "remarks": self.remarks,
            "findings": [finding.as_json() for finding in self.findings],
            "corpus": self.summary.as_json(),
        }


def check_data(
    data: Path,
    features_dir: Path,
    audio_root: Path | None = None,
    *,
    audio: bool = True,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> Check:
    """Check the manifests and fold files of a data folder, and its audio unless `audio` is False.

    Decoding happens once: what was measured is kept in `features_dir`. InputError for manifests and
    fold files that cannot be read, or if the folder has no manifest.
    """
    paths = {split: data / f"{split}.jsonl" for split in SPLITS}
    splits = [split for split, path in paths.items() if path.exists() or path.is_symlink()]  # also a broken link
    if data.is_dir() and not splits:
        names = ", ".join(f"{split}.jsonl" for split in SPLITS)
        raise InputError(f"{data} must hold at least one of {names}, found none")
    with _without_collections():
        manifests = read_manifests(
            data, splits, audio_root=audio_root, require_emotion=False, check_audio=False, reporter=reporter
        )
        utterances = list(manifests.all_utterances())
        folds = read_fold_files(data)  # before the audio is decoded
        facts: Sequence[AudioFacts | None]
        if audio:
            facts = measure_corpus(utterances, features_dir, threads, reporter)
        else:
            facts = known_facts(utterances, features_dir)
        return check_corpus(Corpus(utterances, facts), folds)


def quick_check(utterances: Sequence[Utterance], features_dir: Path) -> Check:
    """Check utterances without opening any audio: with the facts that an earlier check measured."""
    with _without_collections():
        return check_corpus(Corpus(utterances, known_facts(utterances, features_dir)))


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause garbage collection: beside the objects of torch it takes longer than the check."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_corpus(corpus: Corpus, folds: Sequence[Folds] = ()) -> Check:
    """Return all findings about a corpus and the folds of fold files, errors first."""
    findings: list[Finding] = []
    for family in (group_findings, audio_findings, text_findings, label_findings):
        findings += family(corpus)
    findings += fold_findings(corpus, folds)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    facts = [fact for fact in corpus.facts if fact is not None and fact.problem is None]
    sizes = Counter(utterance.split for utterance in corpus.utterances)
    hours = sum(fact.seconds for fact in facts) / 3600
    remarks = _remarks(corpus) + unknown_ids(corpus, folds)
    return Check(findings, dict(sizes), len(facts), hours, remarks, summarize_corpus(corpus))


def _remarks(corpus: Corpus) -> list[str]:
    """Return what could not be checked."""
    found = []
    absent = [split for split in SPLITS if split not in corpus.splits]
    if absent:
        them = "it" if len(absent) == 1 else "them"
        found.append(f"{' and '.join(absent)} not read: nothing is said about overlap with {them}")
    lacking = sum(fact is None for fact in corpus.facts)
    if lacking:
        found.append(f"the audio of {lacking} utterances was not measured: run `mervn check` to decode it once")
    unlabelled = int((corpus.targets < 0).sum())
    if unlabelled:
        found.append(f"{unlabelled} utterances have no label: they are left out of the findings about labels")
    if len(corpus.labels) > 1 and not can_test(corpus.targets, corpus.groups):
        groups = len(set(corpus.groups.tolist()))
        found.append(
            "whether ids, paths, transcripts, durations or sample rates tell the label: the utterances are of "
            f"{counted(groups, 'group')} that share a speaker or a recording, which could all agree by chance"
        )
    return found
