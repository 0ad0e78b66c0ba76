"""Utterances of a run's data for a report: their transcripts and audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from features.errors import InputError
from features.manifests.manifest import Utterance, read_manifests


def read_utterances(folder: Path, audio_root: Path | None = None) -> dict[str, Utterance]:
    """Return the utterances of a data folder by id; nothing if the data is missing.

    The files of all splits are read: with folds, an utterance may be in any of them.
    """
    found: dict[str, Utterance] = {}
    for split in ("train", "valid", "test"):
        if not (folder / f"{split}.jsonl").is_file():
            continue
        try:
            utterances = read_manifests(folder, (split,), audio_root=audio_root, check_audio=False)[split]
        except InputError:
            continue  # the report is of the run; a manifest that was damaged since is found by other commands
        found.update({utterance.utterance_id: utterance for utterance in utterances})
    return found


def transcript(utterances: Mapping[str, Utterance], name: str) -> str:
    """Return the transcript of an utterance; empty if there is none."""
    utterance = utterances.get(name)
    return "" if utterance is None else utterance.transcript or ""
