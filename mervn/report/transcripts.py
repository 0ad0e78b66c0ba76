"""Transcripts for a report, from the manifests of the run's data."""

from __future__ import annotations

from pathlib import Path

from features.errors import InputError
from features.manifests.manifest import read_manifests


def read_transcripts(folder: Path) -> dict[str, str]:
    """Return the transcript of each utterance of a data folder by id; nothing if the data is missing.

    The files of all splits are read: with folds, an utterance may be in any of them.
    """
    found: dict[str, str] = {}
    for split in ("train", "valid", "test"):
        if not (folder / f"{split}.jsonl").is_file():
            continue
        try:
            utterances = read_manifests(folder, (split,), check_audio=False)[split]
        except InputError:
            continue  # the report is of the run; a manifest that was damaged since is found by other commands
        for utterance in utterances:
            found[utterance.utterance_id] = utterance.transcript or ""
    return found
