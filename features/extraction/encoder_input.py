"""Encoder inputs: read and prepare audio and transcripts, and detect changes."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from torch import Tensor

from features.audio.decoding import Decode, Decoded, decode, out_of_memory
from features.audio.file_state import FileState, file_state
from features.audio.resampling import Samples
from features.audio.segment import AudioError
from features.extraction.segment_hashes import SegmentHashes
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter
from features.text.normalize import normalize_text, text_sha256

Item = TypeVar("Item")
Freshness = Literal["same", "moved", "changed"]
"""State of a stored utterance's input: unchanged, unchanged content in a touched or moved file, or
changed."""


@dataclass(frozen=True)
class AudioSource:
    """Source of an utterance's samples, stored with its features to detect changes."""

    path: str
    """As in the manifest."""
    size: int | None
    """Bytes of the file; None if it does not exist."""
    mtime_ns: int | None
    """Modification time of the file; None if it does not exist."""
    fingerprint: str | None
    """Result of `fingerprint`; None if the file cannot be read."""
    start: float
    end: float | None
    channel: int | str

    def json_text(self, *, sort_keys: bool = False) -> str:
        """Return a JSON object."""
        return json.dumps(vars(self), sort_keys=sort_keys)


@dataclass(frozen=True)
class Input:
    """Prepared encoder input of one utterance."""

    utterance: Utterance
    prepared: Tensor
    """Output of `Encoder.prepare`: samples (S,) or tokens (T, ...); T = 0 without a transcript."""
    num_inputs: int
    """Samples at 16 kHz, or characters."""
    input_sha256: str
    source: AudioSource | None
    """None for text."""

    @property
    def source_json(self) -> str:
        """The source as it is stored with the features; an empty object for text."""
        return "{}" if self.source is None else self.source.json_text()


def transcript_of(utterance: Utterance) -> str:
    """Return the normalized transcript; empty if there is none."""
    return normalize_text(utterance.transcript or "")


def read_audio(utterance: Utterance, decode: Decode = decode) -> tuple[Samples, str]:
    """Return the waveform (S,) of an utterance at 16 kHz and the hash of its decoded samples.

    AudioError if it cannot be decoded, or does not fit into memory.
    """
    found = decode_utterance(utterance, decode)
    found.check()
    return found.samples, found.sha256


def decode_utterance(utterance: Utterance, decode: Decode = decode) -> Decoded:
    """Decode the audio of an utterance."""
    try:
        return decode(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
    except MemoryError:  # of samples that another process decoded
        fault = out_of_memory(utterance.audio_path)
    return Decoded(file_state(utterance.audio_path), np.zeros(0, np.float32), "", fault)


def audio_source(utterance: Utterance) -> AudioSource:
    """Return the current source of an utterance; its file is read for the fingerprint."""
    return source_of(utterance, file_state(utterance.audio_path))


def source_of(utterance: Utterance, state: FileState) -> AudioSource:
    """Return the source of an utterance whose file has this state."""
    return AudioSource(
        path=utterance.wav_path,
        size=state.size,
        mtime_ns=state.mtime_ns,
        fingerprint=state.fingerprint,
        start=utterance.start,
        end=utterance.end,
        channel=utterance.channel,
    )


def input_key(utterance: Utterance, modality: str, source: AudioSource | None = None) -> str:
    """Return a cheap key that changes with the input: the transcript's hash or the source.

    `source` must be taken before the input is read, because the file can change meanwhile.
    """
    if modality == "text":
        return text_sha256(transcript_of(utterance))
    return (audio_source(utterance) if source is None else source).json_text(sort_keys=True)


class KnownInput(Protocol):
    """Input that a result was computed from: stored features, or a transcript."""

    @property
    def input_sha256(self) -> str:
        """Hash of the decoded samples or of the normalized transcript."""

    @property
    def source(self) -> str:
        """JSON of the `AudioSource`."""


class InputComparison:
    """Compares the inputs of stored features with the current manifest.

    Transcripts are compared by hash. Audio is compared by start, end, channel and the size, mtime
    and fingerprint of its file. It is decoded and compared by hash if the file was touched or
    moved, if no fingerprint was recorded, or if `decode`. If the file cannot be read, `offline`
    compares only start, end and channel. Each file is fingerprinted once and each segment is decoded once, for any
    number of stores.
    """

    def __init__(
        self, modality: str, reporter: Reporter = SILENT, *, offline: bool = False, decode: bool = False
    ) -> None:
        self.modality, self.offline, self.decode = modality, offline, decode
        self._reporter = reporter
        self._announced = False
        self._states: dict[Path, FileState] = {}
        self._hashes = SegmentHashes()

    def compare(
        self, inputs: Iterable[tuple[Item, Utterance, KnownInput]]
    ) -> Generator[tuple[Item, Freshness | AudioError], None, None]:
        """Yield each item, in order, with the comparison of its utterance and stored input, or why it cannot be read.

        Threads decode several utterances at once.
        """
        for (item, found, then), digest in self._hashes.of(map(self._without_decoding, inputs)):
            if isinstance(digest, AudioError):
                yield item, digest
            elif digest is not None and digest != then:
                yield item, "changed"
            else:
                yield item, found

    def _without_decoding(
        self, given: tuple[Item, Utterance, KnownInput]
    ) -> tuple[tuple[Item, Freshness, str], Utterance | None]:
        """Return an item, its comparison and the hash of its stored input.

        Also return the utterance if its samples decide: the comparison is then that of equal samples.
        """
        item, utterance, stored = given
        if self.modality == "text":
            is_same = text_sha256(transcript_of(utterance)) == stored.input_sha256
            return (item, "same" if is_same else "changed", ""), None
        then = json.loads(stored.source)  # an earlier version may have stored no fingerprint
        source = self.source(utterance)
        now = vars(source)  # asdict copies each value, 28 us in all
        is_same = then == now
        if is_same and not self.decode:
            return (item, "same", ""), None
        if source.fingerprint is None and self.offline and not self.decode:
            is_same = all(then[key] == now[key] for key in ("start", "end", "channel"))
            return (item, "same" if is_same else "changed", ""), None
        if "fingerprint" not in then and not self._announced:
            self._announced = True
            self._reporter.say(
                "these features were stored without fingerprints of the audio files: decoding and "
                "comparing the audio now, then recording the fingerprints"
            )
        # if the file differs in size, mtime or fingerprint, only its samples decide
        return (item, "same" if is_same else "moved", stored.input_sha256), utterance

    def source(self, utterance: Utterance) -> AudioSource:
        """Return `audio_source`, with the fingerprint of each file computed once."""
        path = utterance.audio_path
        if path not in self._states:
            self._states[path] = file_state(path)
        return source_of(utterance, self._states[path])
