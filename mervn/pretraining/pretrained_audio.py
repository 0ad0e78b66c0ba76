"""Tells whether the audio that a finished pretraining was trained on is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from features.audio.file_state import file_state
from features.audio.segment import AudioError
from features.errors import InputError
from features.extraction.segment_hashes import SegmentHashes
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.store.rejected import read_rejected

OF_FEATURES = ("non_finite_features", "out_of_memory")
"""Reasons for rejecting an utterance whose audio could be decoded."""


def files_sha256(manifests: Mapping[str, Sequence[Utterance]]) -> str:
    """Hash path, size, modification time and fingerprint of each audio file."""
    files = {one.audio_path: one.wav_path for utterances in manifests.values() for one in utterances}
    digest = hashlib.sha256()
    for path, name in sorted(files.items(), key=lambda item: item[1]):
        digest.update(f"{name}|{file_state(path)}\n".encode())
    return digest.hexdigest()


def refuse_other_audio(
    folder: Path, expected: Mapping[str, str], manifests: Mapping[str, Sequence[Utterance]], reporter: Reporter
) -> None:
    """Decode all audio; raise InputError unless it is what the encoder in `folder` was pretrained on.

    `expected` is by split the hash of the samples of the utterances that were used.
    """
    rejected = read_rejected(folder)
    for split, utterances in manifests.items():
        digest, changed = hashlib.sha256(), list[str]()
        hashes = SegmentHashes().of((one, one) for one in utterances)
        with closing(reporter.progress(len(utterances), 0, f"audio of {split}")) as bar, closing(hashes):
            for one, found in hashes:
                bar.update(1)
                entry = rejected.get(one.utterance_id)
                if isinstance(found, str) and entry is None:
                    digest.update(found.encode())
                elif isinstance(found, AudioError) != (entry is not None and entry.reason not in OF_FEATURES):
                    changed.append(one.utterance_id)
        if changed or digest.hexdigest() != expected.get(split):
            which = f", for example that of {changed[0]!r}" if changed else ""
            raise InputError(
                f"the audio of {split} has changed since the encoder in {folder} was pretrained{which}; pretrain again "
                "with --force, or into another --output"
            )
