"""Checks of stored features against a manifest: none may be missing or from an earlier input."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from features.audio.segment import SYSTEM_ERROR, AudioError
from features.errors import MAX_NAMED, InputError, name_some
from features.extraction.encoder_input import InputComparison
from features.manifests.manifest import Utterance
from features.manifests.utterances import iterate_ids
from features.progress import Reporter
from features.store.reader import FeatureStore
from features.store.rejected import REJECTED_FILE, Rejections, read_rejected
from features.store.stored_inputs import StoredInputs
from mervn.data.streams import Stream


def refuse_missing(
    name: str,
    missing: Sequence[Utterance],
    streams: Mapping[str, Stream],
    changed: Mapping[str, Collection[str]],
) -> None:
    """Raise InputError if a store lacks utterances.

    `changed` holds, by stream, the ids of utterances whose stored features come from an earlier
    input.
    """
    if not missing:
        return
    lines = [f"{name}: {len(missing)} utterances have no features in at least one store:"]
    for stream in streams.values():
        rejected_files: set[Path] = set()
        extractable = False
        for store in stream.stores:
            lacking = _Lacking(store, missing, changed.get(stream.name, ()))
            lines += lacking.lines(stream.name)
            extractable = extractable or lacking.extractable
            rejected_files |= lacking.rejected_files
        for path in sorted(rejected_files):
            lines.append(f"  {path} says why utterances were rejected; fix their input first")
        if extractable:  # extracting rejected utterances would only reject them again
            lines.append(f"  extract the others:\n  {stream.extract_command()}")
    lines.append("or leave them out of training and scoring (they are counted in every result): --allow-missing")
    raise InputError("\n".join(lines))


class _Lacking:
    """The utterances that one store lacks, with the reasons."""

    def __init__(self, store: FeatureStore, missing: Sequence[Utterance], changed: Collection[str]) -> None:
        self.store, self.rejected = store, read_rejected(store.path)
        # Stored, but their input has changed since and was rejected.
        stale = self.rejected.keys() & changed
        self.utterances: list[Utterance] = []
        for utterance in missing:
            if utterance.utterance_id not in store or utterance.utterance_id in stale:
                self.utterances.append(utterance)
        ids = {utterance.utterance_id for utterance in self.utterances}
        self.extractable = not ids <= self.rejected.keys()
        """True if at least one of them was not rejected."""
        self.rejected_files = set() if ids.isdisjoint(self.rejected) else {store.path / REJECTED_FILE}
        """The store's rejected.jsonl, if it lists any of them."""

    def lines(self, stream: str) -> list[str]:
        """Return lines of a message that name the first few of them."""
        lines = []
        for u in self.utterances[:MAX_NAMED]:
            entry = self.rejected.get(u.utterance_id)
            why = f"rejected: {entry.reason}" if entry else "not extracted"
            lines.append(f"  {u.file}:{u.line} {u.utterance_id!r} in {self.store.path}: {why}")
        if len(self.utterances) > MAX_NAMED:
            lines.append(f"  and {len(self.utterances) - MAX_NAMED} more of {stream}")
        return lines


def refuse_training_utterances(
    utterances: Sequence[Utterance], streams: Mapping[str, Stream], inputs: Mapping[str, Sequence[StoredInputs]]
) -> None:
    """Raise InputError if a fine-tuned encoder was trained on utterances of valid or test.

    `inputs` holds, by stream, what its stores record about the utterances.
    """
    for name, stream in streams.items():
        if stream.fine_tuning is not None:
            hashes = map(bytes.decode, inputs[name][0].input_sha256.tolist())
            stream.fine_tuning.refuse_training_utterances(zip(utterances, hashes, strict=True))


def refuse_changed(
    name: str, utterances: Sequence[Utterance], streams: Mapping[str, Stream], decode: bool, reporter: Reporter
) -> dict[str, set[str]]:
    """Raise InputError if stored features were extracted from an input that has changed since.

    Return, by stream, the ids of utterances whose changed input a store has already rejected:
    extracting them again would not help.
    """
    refused: dict[str, set[str]] = {}
    for stream in streams.values():
        stale, unusable = _find_stale(utterances, stream, decode, reporter)
        refused[stream.name] = _rejected_again(stale, unusable, stream)
        stale = [utterance for utterance in stale if utterance.utterance_id not in refused[stream.name]]
        if stale:
            places = name_some([f"{u.file}:{u.line} {u.utterance_id!r}" for u in stale])
            changed = "transcript" if stream.modality == "text" else "audio or start, end, channel"
            raise InputError(
                f"{name}: the {stream.modality} features of {len(stale)} utterances in "
                f"{stream.first.path} were made from another {changed}: {places}. "
                f"Extract them again:\n  {stream.extract_command('--update')}"
            )
    return refused


def _find_stale(
    utterances: Sequence[Utterance], stream: Stream, decode: bool, reporter: Reporter
) -> tuple[list[Utterance], set[str]]:
    """Return the utterances whose input has changed since extraction.

    Also return the ids of those with unusable audio.
    """
    positions, unusable, moved = [], set[str](), dict[str, str]()
    comparison = InputComparison(stream.modality, reporter, offline=True, decode=decode)
    places = stream.first.places(iterate_ids(utterances))
    # part by part: every part is read once, and nothing of it is kept
    infos = stream.first.utterance_infos(places)
    compared = comparison.compare((i, utterances[i], info) for i, info in infos)
    with closing(reporter.progress(len(places), 0, "stored inputs")) as bar, closing(compared):
        for position, change in compared:
            bar.update(1)
            utterance = utterances[position]
            if isinstance(change, AudioError):  # it was readable when it was extracted
                if change.reason == SYSTEM_ERROR:
                    raise change
                unusable.add(utterance.utterance_id)
                positions.append(position)
            elif change == "changed":
                positions.append(position)
            elif change == "moved":
                # The same audio under another path: record the path, so that the next check is fast.
                moved[utterance.utterance_id] = comparison.source(utterance).json_text()
    if moved:
        for store in stream.stores:
            store.remember_sources(moved)
    return [utterances[position] for position in sorted(positions)], unusable


def _rejected_again(stale: Sequence[Utterance], unusable: Collection[str], stream: Stream) -> set[str]:
    """Return the ids of stale utterances whose current input a store has rejected."""
    rejections = [Rejections(store.path) for store in stream.stores] if stale else []
    ids = set()
    for utterance in stale:
        for rejected in rejections:
            settled = rejected.settled(utterance, stream.modality) is not None
            if settled or (utterance.utterance_id in rejected and utterance.utterance_id in unusable):
                ids.add(utterance.utterance_id)
    return ids
