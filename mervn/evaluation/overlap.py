"""Overlap of a scored split with the training: speakers, recordings, copies of audio, sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from features.audio.segment import AudioError, decode_segment
from features.audit.audio import SILENT_PEAK, same_audio, usable_audio
from features.audit.audio_facts import AudioFacts
from features.audit.audio_pass import known_facts
from features.audit.corpus import Corpus
from features.audit.explanations import finding
from features.audit.finding import MAX_EXAMPLES, Finding
from features.audit.groups import is_across, overlapping_segments, recording_overlap, speaker_overlap
from features.audit.text import overlap_findings
from features.canonical import canonical_json
from features.command_lines import features_folder
from features.counts import counted
from features.errors import InputError, UsageError
from features.manifests.manifest import Utterance
from features.manifests.utterances import iterate_ids
from features.progress import Reporter
from mervn.config import EvaluateOptions, LabelOptions
from mervn.data.labels import task_label
from mervn.data.split import Split
from mervn.data.streams import Stream, modality_of
from mervn.evaluation.open_run import OpenedRun
from mervn.evaluation.own_data import BEFORE, has_same_manifests, trained_on
from mervn.model.saved_run import data_and_streams
from mervn.run_folder import RunConfig, options_of, read_metrics

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Overlap:
    """The findings about what a scored split shares with the training."""

    findings: Sequence[Finding]
    remarks: Sequence[str]
    """Sentences about what could not be compared."""

    def as_json(self) -> dict[str, Any]:
        """Return the value of `overlap` in metrics-<split>.json."""
        return {"findings": [each.as_json() for each in self.findings], "remarks": list(self.remarks)}


_KNOWN: ContextVar[dict[str, Overlap] | None] = ContextVar("known overlaps", default=None)


@contextmanager
def shared_overlaps() -> Iterator[None]:
    """Compare a split with a training once for all runs that share both and are evaluated in this block."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def training_overlap(opened: OpenedRun, options: EvaluateOptions, reporter: Reporter) -> Overlap | None:
    """Return what a split shares with the utterances that a run was trained on, and say it.

    The findings are those of `mervn check` about speakers, recordings, segments, copies of audio and sentences. Copies
    are found by the hashes in the stores of a head, otherwise by what `mervn check` has measured. Utterances of valid
    count as trained on when test is scored. None, after a message, if the manifests of the training are missing or have
    changed.
    """
    name, known = opened.split.name, _KNOWN.get()
    key = _key(opened, options)
    found = None if known is None else known.get(key)
    if found is None:
        try:
            found = _find(opened, options, reporter)
        except (InputError, UsageError) as error:
            reporter.say(f"warning: what {name} shares with the training cannot be told: {error}")
            return None
        if known is not None:
            known[key] = found
    lines = [f"  {each.severity}: {each.id}: {each.message}" for each in found.findings if each.severity != "info"]
    if lines:
        head = f"warning: {name} is not all new to the model, so its scores may be too high; `mervn check` explains it:"
        reporter.say("\n".join([head, *lines]))
    for remark in found.remarks:
        reporter.say(f"overlap of {name} with the training: {remark}")
    return found


def _key(opened: OpenedRun, options: EvaluateOptions) -> str:
    """Return a text that is equal for runs of one training set and one scored split."""
    names = ("data", "audio_root", "features_dir", "fold", "drop_label", "label_map")
    recorded = {name: opened.config.options.get(name) for name in names}
    given = [str(path) for path in (options.data, options.audio_root, options.features_dir)]
    run = [opened.config.command, opened.config.inputs, recorded]
    return canonical_json([run, given, opened.split.name, opened.look.inputs_sha256])


def _find(opened: OpenedRun, options: EvaluateOptions, reporter: Reporter) -> Overlap:
    """Compare; InputError or UsageError if the manifests of the training are missing or have changed."""
    config, split = opened.config, opened.original
    if not BEFORE[split.name]:
        return Overlap([], [])
    trained = _trained(opened, options, reporter)
    reads_audio = any(modality_of(name) == "audio" for name in config.streams)
    copies = _Copies(config, options, split, trained)
    missing = read_metrics(opened.run).get("missing", {})
    if copies.lacking and len(copies.lacking) == sum(missing.get(name, 0) for name in BEFORE[split.name]):
        trained = [one for one in trained if one.utterance_id not in copies.lacking]  # --allow-missing left them out
        copies.lacking = set()
    scored_facts = known_facts(split.utterances, _facts_folder(config, options))
    facts = [*known_facts(trained, _facts_folder(config, _where_trained(config, options))), *scored_facts]
    corpus = Corpus([*trained, *split.utterances], facts)
    found = [*speaker_overlap(corpus), *recording_overlap(corpus), *_segments(corpus)]
    found += _copied(split, copies.find() if copies.is_known else _same_audio(corpus))
    found += overlap_findings(corpus)
    remarks = copies.remarks if copies.is_known else _unmeasured(facts)
    named = [replace(each, message=f"{split.name} and the training: {each.message}") for each in found]
    return Overlap(named, remarks if reads_audio else [])


def _trained(opened: OpenedRun, options: EvaluateOptions, reporter: Reporter) -> list[Utterance]:
    """Return what the run was trained on, without the labels of --drop-label, as one split."""
    config = opened.config
    label_of = task_label(options_of(opened.run, config.options, LabelOptions))
    trained = []
    for one in trained_on(config, options, BEFORE[opened.original.name], reporter):
        if one.emotion is not None and label_of(one.emotion) is not None:
            trained.append(replace(one, split="train"))
    return trained


def _segments(corpus: Corpus) -> Iterator[Finding]:
    """Yield the finding about seconds of a recording that two splits share."""
    count = 0
    examples: list[Utterance] = []
    for pairs in overlapping_segments(corpus):
        splits = corpus.split_index[pairs]  # (P, 2)
        across = pairs[splits[:, 0] != splits[:, 1]]
        count += len(across)
        if len(examples) < MAX_EXAMPLES:
            examples += corpus.at(across[:MAX_EXAMPLES].ravel().tolist())
    if count:
        message = f"{counted(count, 'pair')} of utterances that share more than half of the seconds of the shorter one"
        yield finding("segment_overlap", "error", count, message, examples)


def _same_audio(corpus: Corpus) -> list[Utterance]:
    """Return the utterances of the scored split with samples of another one, as far as they were measured."""
    copies = []
    for members in same_audio(usable_audio(corpus)):
        if is_across(corpus, members):
            copies += [one for one in corpus.at(members) if one.split != "train"]
    return copies


def _copied(split: Split, copies: Sequence[Utterance]) -> Iterator[Finding]:
    """Yield the finding about copies of audio, if there are any."""
    if copies:
        message = f"{counted(len(copies), 'utterance')} of {split.name} with samples that the model has seen"
        yield finding("duplicate_audio", "error", len(copies), message, copies)


def _unmeasured(facts: Sequence[AudioFacts | None]) -> list[str]:
    """Return the remark about audio that `mervn check` has not measured."""
    lacking = sum(fact is None for fact in facts)
    if not lacking:
        return []
    return [f"copies of {counted(lacking, 'utterance')} were not looked for; `mervn check` measures their audio"]


def _where_trained(config: RunConfig, options: EvaluateOptions) -> EvaluateOptions:
    """Return the options that name the data of the training: a copy of them, or the run's own."""
    if options.data is None or has_same_manifests(config, options.data):
        return options
    return options.model_copy(update={"data": None, "features_dir": None})


def _facts_folder(config: RunConfig, options: EvaluateOptions) -> Path:
    """Return the folder of the stores, where `mervn check` keeps what it has measured."""
    recorded = config.options.get("features_dir")
    own = Path(recorded) if recorded and options.data is None else None
    return features_folder(options.features_dir or own, options.data or Path(config.options["data"]))


class _Copies:
    """Utterances of a split with the samples of one of the training, by the hashes in the stores of a head."""

    def __init__(self, config: RunConfig, options: EvaluateOptions, split: Split, trained: Sequence[Utterance]) -> None:
        self._split = split
        self._scored: dict[str, str] = {}
        self._trained: dict[str, str] = {}
        places = [options, options.model_copy(update={"data": None, "features_dir": None})]
        streams = [_audio_stream(config, place) for place in places]
        self.is_known = streams[0] is not None
        """False without stores, as for a run of `finetune`, and for imported features."""
        if streams[0] is not None:
            self._scored = _hashes(streams[0], list(iterate_ids(split.utterances)))
        if _where_trained(config, options) is not options:  # other data may have the same ids
            streams = streams[1:]
        for stream in streams:
            if stream is not None:
                ids = [one.utterance_id for one in trained if one.utterance_id not in self._trained]
                self._trained |= _hashes(stream, ids)
        self.lacking = {one.utterance_id for one in trained} - self._trained.keys() if self.is_known else set()
        """Utterances of the training that are not in the stores."""

    @property
    def remarks(self) -> list[str]:
        """The remark about utterances of the training that are not in the stores."""
        if not self.lacking:
            return []
        number = counted(len(self.lacking), "utterance")
        return [f"copies of {number} of it were not looked for: no store has its features"]

    def find(self) -> list[Utterance]:
        """Return the utterances that are copies; silence is none."""
        seen = set(self._trained.values())
        is_silent: dict[str, bool] = {}
        copies = []
        for one in self._split.utterances:
            sha256 = self._scored.get(one.utterance_id)
            if sha256 in seen:
                if sha256 not in is_silent:
                    is_silent[sha256] = _is_silent(one)
                if not is_silent[sha256]:
                    copies.append(one)
        return copies


def _audio_stream(config: RunConfig, options: EvaluateOptions) -> Stream | None:
    """Return the stream of audio of a head; None if there are no stores, or features that were imported."""
    if config.command == "finetune":
        return None
    try:
        _, streams = data_and_streams(config, options)
    except (InputError, UsageError):  # other data, where the stores of the training are gone
        return None
    audio = streams.get("audio")
    return None if audio is None or audio.imported else audio


def _hashes(stream: Stream, ids: Sequence[str]) -> dict[str, str]:
    """Return the hash of the samples of each utterance that a stream has, by id."""
    store = stream.first
    stored = list(compress(ids, store.has(ids)))
    return dict(zip(stored, map(bytes.decode, store.inputs(store.places(stored)).input_sha256.tolist()), strict=True))


def _is_silent(utterance: Utterance) -> bool:
    """Tell whether no sample of an utterance can be heard; False if its audio is gone."""
    try:
        samples, _ = decode_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
    except AudioError:
        return False
    return float(np.abs(samples).max()) < SILENT_PEAK
