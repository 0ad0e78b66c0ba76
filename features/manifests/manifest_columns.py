"""ManifestColumns: the utterances of one manifest in columns, about 100 bytes each besides their transcript."""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from features.manifests.columns import RepeatedTexts
from features.manifests.utterance import Utterance
from features.texts import Texts

MIX = -1
"""Number that stands for the channel "mix"."""
UNTIL_END = float("nan")
"""Number that stands for the end None; `end` of a manifest is finite."""


class ManifestColumns:
    """The utterances of one manifest, one column per field."""

    def __init__(self, split: str, file: str, audio_root: Path) -> None:
        self.split, self.file, self.audio_root = split, file, audio_root
        self.ids, self.transcripts = Texts(), Texts()
        self.speakers, self.wav_paths, self.emotions = RepeatedTexts(), RepeatedTexts(), RepeatedTexts()
        self.starts, self.ends = array("d"), array("d")
        self.channels = array("h")
        self.lines = array("q")
        self.has_transcript = array("b")
        self._extras = bytearray()
        """The extra keys as `marshal` writes them: several times faster than JSON, and equally exact."""
        self._extra_ends = array("q", [0])
        self._last_path = (-1, audio_root)

    def append(self, values: Mapping[str, Any], line: int, extra: dict[str, Any]) -> None:
        """Add the valid fields of a line."""
        self.ids.append(values["utterance_id"])
        self.speakers.append(values["speaker_id"])
        self.wav_paths.append(values["wav_path"])
        self.starts.append(values["start"])
        end, channel, transcript = values["end"], values["channel"], values["transcript"]
        self.ends.append(UNTIL_END if end is None else end)
        self.channels.append(MIX if channel == "mix" else channel)
        self.has_transcript.append(transcript is not None)
        self.transcripts.append(transcript or "")
        self.emotions.append(values["emotion"])
        self.lines.append(line)
        if extra:
            self._extras += marshal.dumps(extra)
        self._extra_ends.append(len(self._extras))

    def extend(self, other: ManifestColumns, lines: int) -> None:
        """Add the utterances of `other`, whose lines follow `lines` others."""
        self.ids.extend(other.ids)
        self.transcripts.extend(other.transcripts)
        self.speakers.extend(other.speakers)
        self.wav_paths.extend(other.wav_paths)
        self.emotions.extend(other.emotions)
        self.starts += other.starts
        self.ends += other.ends
        self.channels += other.channels
        self.has_transcript += other.has_transcript
        _extend_shifted(self.lines, other.lines, lines)
        _extend_shifted(self._extra_ends, other._extra_ends[1:], len(self._extras))
        self._extras += other._extras

    def complete(self) -> None:
        """Release what only adding needs."""
        for column in (self.speakers, self.wav_paths, self.emotions):
            column.complete()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Utterance:
        end, channel = self.ends[index], self.channels[index]
        code = self.wav_paths.codes[index]
        return Utterance(
            utterance_id=self.ids[index],
            speaker_id=self.speakers[index],
            wav_path=self.wav_paths.values[code],
            audio_path=self.audio_path(code),
            start=self.starts[index],
            end=end if end == end else None,  # NaN differs from itself
            channel="mix" if channel == MIX else channel,
            transcript=self.transcripts[index] if self.has_transcript[index] else None,
            emotion=self.emotions[index],
            split=self.split,
            file=self.file,
            line=self.lines[index],
            extra=self._extra(index),
        )

    def with_emotions(self, emotions: Sequence[str]) -> ManifestColumns:
        """Return the utterances with other emotions, one per code; they share the other columns."""
        changed = copy(self)
        changed.emotions = self.emotions.replaced(emotions)
        return changed

    def audio_path(self, code: int) -> Path:
        """Return the path of the file with this code in `wav_paths`."""
        last = self._last_path
        if last[0] != code:  # segments of one file often follow each other, and making a path takes long
            last = self._last_path = code, self.audio_root / self.wav_paths.values[code]
        return last[1]

    def _extra(self, index: int) -> dict[str, Any]:
        first, last = self._extra_ends[index], self._extra_ends[index + 1]
        if first == last:
            return {}
        extra: dict[str, Any] = marshal.loads(self._extras[first:last])
        return extra


def _extend_shifted(column: array[int], other: array[int], offset: int) -> None:
    """Add the integers of another column, each plus `offset`; both have the type code q."""
    column.frombytes((np.frombuffer(other, np.int64) + offset).tobytes())
