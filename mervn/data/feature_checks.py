"""Checks that stored features fit a manifest: none is missing, none was extracted from another input."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from features.audio.segment import AudioError
from features.errors import InputError
from features.extraction.encoder_input import InputComparison
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.store.reader import FeatureStore
from features.store.rejected import REJECTED_FILE, Rejections, read_rejected
from mervn.data.split import SHOWN
from mervn.data.streams import Stream


def refuse_missing(
    name: str,
    missing: Sequence[Utterance],
    streams: Mapping[str, Stream],
    changed: Mapping[str, Collection[str]],
) -> None:
    """Raise InputError if a store lacks utterances.

    `changed` holds by stream the ids whose stored features are of an earlier input.
    """
    if not missing:
        return
    lines = [f"{name}: {len(missing)} utterances have no features in every store:"]
    for stream in streams.values():
        rejected_files: set[Path] = set()
        extractable = False
        for store in stream.stores:
            lacking = _Lacking(store, missing, changed.get(stream.name, ()))
            lines += lacking.lines(stream.name)
            extractable = extractable or lacking.extractable
            rejected_files |= lacking.rejected_files
        for path in sorted(rejected_files):
            lines.append(f"  {path} says why utterances were rejected: repair their input first")
        if extractable:  # those that were rejected would be rejected again
            lines.append(f"  extract what is not extracted:\n  {stream.extract_command()}")
    lines.append("or train and score without them, counted in every result: --allow-missing")
    raise InputError("\n".join(lines))


class _Lacking:
    """The utterances that one store lacks, and why."""

    def __init__(self, store: FeatureStore, missing: Sequence[Utterance], changed: Collection[str]) -> None:
        self.store, self.rejected = store, read_rejected(store.path)
        stale = self.rejected.keys() & changed
        self.utterances = [u for u in missing if u.utterance_id not in store or u.utterance_id in stale]

    @property
    def extractable(self) -> bool:
        """Tell whether any of them was not rejected."""
        return any(u.utterance_id not in self.rejected for u in self.utterances)

    @property
    def rejected_files(self) -> set[Path]:
        """The store's rejected.jsonl, if it lists any of them."""
        listed = any(u.utterance_id in self.rejected for u in self.utterances)
        return {self.store.path / REJECTED_FILE} if listed else set()

    def lines(self, stream: str) -> list[str]:
        """Return a line for each of the first of them."""
        lines = []
        for u in self.utterances[:SHOWN]:
            entry = self.rejected.get(u.utterance_id)
            why = f"rejected: {entry.reason}" if entry else "not extracted"
            lines.append(f"  {u.file}:{u.line} {u.utterance_id!r} in {self.store.path}: {why}")
        if len(self.utterances) > SHOWN:
            lines.append(f"  and {len(self.utterances) - SHOWN} more of {stream}")
        return lines


def refuse_training_utterances(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> None:
    """Raise InputError if a fine-tuned encoder was trained on utterances of valid or test."""
    for stream in streams.values():
        if stream.fine_tuning is not None:
            inputs = [(u, stream.utterance_info(u.utterance_id).input_sha256) for u in utterances]
            stream.fine_tuning.refuse_training_utterances(inputs)


def refuse_changed(
    name: str, utterances: Sequence[Utterance], streams: Mapping[str, Stream], decode: bool, reporter: Reporter
) -> dict[str, set[str]]:
    """Raise InputError if features were extracted from another input than the manifest names now.

    Return by stream the ids of utterances whose changed input a store has rejected: another extraction would reject
    them again.
    """
    refused: dict[str, set[str]] = {}
    for stream in streams.values():
        stale, unusable = _find_stale(utterances, stream, decode, reporter)
        refused[stream.name] = _rejected_again(stale, unusable, stream)
        stale = [utterance for utterance in stale if utterance.utterance_id not in refused[stream.name]]
        if stale:
            places = ", ".join(f"{u.file}:{u.line} {u.utterance_id!r}" for u in stale[:SHOWN])
            more = f" and {len(stale) - SHOWN} more" if len(stale) > SHOWN else ""
            what = "transcript" if stream.modality == "text" else "audio or start, end, channel"
            raise InputError(
                f"{name}: the {stream.modality} features of {len(stale)} utterances in {stream.first.path} were made "
                f"from another {what}: {places}{more}. Extract them again:\n  {stream.extract_command('--update')}"
            )
    return refused


def _find_stale(
    utterances: Sequence[Utterance], stream: Stream, decode: bool, reporter: Reporter
) -> tuple[list[Utterance], set[str]]:
    """Return the utterances whose input has changed since, and the ids of those whose audio cannot be used now."""
    stale, unusable, moved = [], set[str](), dict[str, str]()
    comparison = InputComparison(stream.modality, reporter, offline=True, decode=decode)
    for utterance in utterances:
        try:
            found = comparison.compare(utterance, stream.utterance_info(utterance.utterance_id))
        except AudioError:
            found = "changed"
            unusable.add(utterance.utterance_id)
        if found == "changed":
            stale.append(utterance)
        elif found == "moved":
            moved[utterance.utterance_id] = comparison.source(utterance).json_text()
    for store in stream.stores if moved else ():
        store.remember_sources(moved)
    return stale, unusable


def _rejected_again(stale: Sequence[Utterance], unusable: Collection[str], stream: Stream) -> set[str]:
    """Return the ids of stale utterances that a store has rejected as they are now."""
    rejections = [Rejections(store.path) for store in stream.stores] if stale else []
    again = set()
    for utterance in stale:
        settled = any(each.settled(utterance, stream.modality) is not None for each in rejections)
        listed = any(utterance.utterance_id in each for each in rejections)
        if settled or (listed and utterance.utterance_id in unusable):
            again.add(utterance.utterance_id)
    return again
