"""Overlap of a scored split with the training: speakers, recordings, copies of audio, sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np

from features.audit.audio import duplicate_findings
from features.audit.audio_pass import known_facts
from features.audit.corpus import Corpus
from features.audit.explanations import finding
from features.audit.finding import Finding
from features.audit.groups import group_findings
from features.audit.text import overlap_findings
from features.canonical import canonical_json
from features.command_lines import features_folder
from features.counts import counted
from features.errors import InputError, UsageError
from features.manifests.manifest import Utterance
from features.manifests.utterances import iterate_ids, select
from features.progress import Reporter
from mervn.config import EvaluateOptions
from mervn.data.split import Split
from mervn.data.streams import Stream
from mervn.evaluation.open_run import OpenedRun
from mervn.evaluation.own_data import BEFORE, has_same_manifests, trained_on
from mervn.model.saved_run import data_and_streams
from mervn.run_folder import RunConfig

Array = np.ndarray[Any, Any]
AT_ANY_SEVERITY = ("speaker_overlap", "recording_overlap", "transcript_overlap")
AS_ERRORS = ("segment_overlap", "duplicate_audio")
"""Within one split they are warnings."""
_KNOWN: dict[str, list[Finding]] = {}
"""Findings of this process by `_key`: the seeds of a series and the cells of a study share them."""


def training_overlap(opened: OpenedRun, options: EvaluateOptions, reporter: Reporter) -> list[Finding] | None:
    """Return the findings about what a split shares with the utterances that a run was trained on, and say them.

    They are the findings of `mervn check` about speakers, recordings, segments, copies of audio and sentences. No audio
    is opened: copies are found in the stores of a head, otherwise by what `mervn check` has measured. Utterances of
    valid count as trained on when test is scored. None, after a message, if the manifests of the training are missing
    or have changed.
    """
    name = opened.split.name
    key = _key(opened, options)
    if key not in _KNOWN:
        try:
            _KNOWN[key] = list(_find(opened, options, reporter))
        except (InputError, UsageError) as error:
            reporter.say(f"warning: what {name} shares with the training cannot be told: {error}")
            return None
    found = _KNOWN[key]
    lines = [f"  {each.severity}: {each.id}: {each.message}" for each in found if each.severity != "info"]
    if lines:
        head = f"warning: {name} is not all new to the model, so its scores may be too high; `mervn check` explains it:"
        reporter.say("\n".join([head, *lines]))
    return found


def _key(opened: OpenedRun, options: EvaluateOptions) -> str:
    """Return a text that is equal for runs of one training set and one scored split."""
    recorded = {name: opened.config.options.get(name) for name in ("data", "audio_root", "features_dir", "fold")}
    given = [str(path) for path in (options.data, options.audio_root, options.features_dir)]
    return canonical_json([opened.config.command, opened.config.inputs, recorded, given, opened.look.inputs_sha256])


def _find(opened: OpenedRun, options: EvaluateOptions, reporter: Reporter) -> Iterator[Finding]:
    """Yield the findings; InputError or UsageError if the manifests of the training are missing or have changed."""
    config, split = opened.config, opened.original
    if not BEFORE[split.name]:
        return
    trained = trained_on(config, options, BEFORE[split.name], reporter)
    copies = _copies(config, options, trained, split)
    together = [*(replace(one, split="train") for one in trained), *split.utterances]
    of_corpus = _across(Corpus(together, known_facts(together, _features_folder(config, options))))
    for each in chain([] if copies is None else [copies], of_corpus):
        if each is copies or copies is None or each.id != copies.id:
            yield replace(each, message=f"{split.name} and the training: {each.message}")


def _features_folder(config: RunConfig, options: EvaluateOptions) -> Path:
    """Return the folder of the stores, where `mervn check` keeps what it has measured."""
    recorded = config.options.get("features_dir")
    own = Path(recorded) if recorded and options.data is None else None
    return features_folder(options.features_dir or own, options.data or Path(config.options["data"]))


def _across(corpus: Corpus) -> Iterator[Finding]:
    """Yield the findings about what several splits share."""
    for family in (group_findings, duplicate_findings, overlap_findings):
        for each in family(corpus):
            if each.id in AT_ANY_SEVERITY or (each.id in AS_ERRORS and each.severity == "error"):
                yield each


def _copies(config: RunConfig, options: EvaluateOptions, trained: Sequence[Utterance], split: Split) -> Finding | None:
    """Return the finding about utterances with the samples of one of the training, as the stores record them.

    None if there are none, or if no store of audio tells it.
    """
    if config.command == "finetune":  # it has no stores
        return None
    try:
        _, streams = data_and_streams(config, options)
        _, own = data_and_streams(config, _where_trained(config, options))
    except (InputError, UsageError):  # other data, where the stores of the training are gone
        return None
    if "audio" not in streams or streams["audio"].imported:
        return None
    is_copy = np.isin(_hashes(streams["audio"], split.utterances), _hashes(own["audio"], trained))
    copies = select(split.utterances, is_copy)
    if not len(copies):
        return None
    message = f"{counted(len(copies), 'utterance')} of {split.name} with the samples of one that the model has seen"
    return finding("duplicate_audio", "error", len(copies), message, copies)


def _where_trained(config: RunConfig, options: EvaluateOptions) -> EvaluateOptions:
    """Return the options that find the stores of the training: its own, or those of a copy of its data."""
    if options.data is None or has_same_manifests(config, options.data):
        return options
    return options.model_copy(update={"data": None, "features_dir": None})


def _hashes(stream: Stream, utterances: Sequence[Utterance]) -> Array:
    """Return the hash of the samples (N,) bytes of each utterance that a stream has."""
    store, ids = stream.first, list(iterate_ids(utterances))
    return store.inputs(store.places(compress(ids, store.has(ids)))).input_sha256
