"""Columns of the audio segments of utterances, and the text of their sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.extraction.audio_files import AudioFiles, Paths
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.manifests.manifest_columns import MIX, UNTIL_END
from features.manifests.utterances import Utterances


class FilePaths:
    """The paths of the files of utterances, in the manifest and on disk; made when they are asked for."""

    def __init__(self, utterances: Utterances) -> None:
        self._utterances = utterances

    def __len__(self) -> int:
        return self._utterances.num_files

    def __getitem__(self, code: int, /) -> tuple[str, Path]:
        return self._utterances.wav_path(code), self._utterances.audio_path(code)


@dataclass(frozen=True)
class Segments:
    """The audio segments of N utterances."""

    paths: Paths
    """Path in the manifest and path on disk of each file; one file can occur twice."""
    files: Array
    """(N,) int32: indices into `paths`."""
    starts: Array
    """(N,) float64: seconds."""
    ends: Array
    """(N,) float64: seconds; NaN: the end of the file."""
    channels: Array
    """(N,) int16; MIX: the mean of all channels."""

    @classmethod
    def of(cls, utterances: Sequence[Utterance]) -> Segments:
        """Return the segments of utterances, which may be a list."""
        if isinstance(utterances, Utterances):
            codes, _ = utterances.codes("wav_paths")
            columns = [utterances.column(name) for name in ("starts", "ends", "channels")]
            return cls(FilePaths(utterances), codes, *columns)
        numbers: dict[tuple[str, Path], int] = {}
        files, starts, ends, channels = [], [], [], []
        for one in utterances:
            files.append(numbers.setdefault((one.wav_path, one.audio_path), len(numbers)))
            starts.append(one.start)
            ends.append(UNTIL_END if one.end is None else one.end)
            channels.append(MIX if one.channel == "mix" else one.channel)
        return cls(
            list(numbers),
            np.array(files, np.int32),
            np.array(starts, np.float64),
            np.array(ends, np.float64),
            np.array(channels, np.int16),
        )

    def __len__(self) -> int:
        return len(self.files)


class SourceTexts:
    """Makes the text of `AudioSource.json_text` of each segment, several times faster.

    `files` are those of `segments.paths`.
    """

    def __init__(self, segments: Segments, files: AudioFiles) -> None:
        self._segments, self.audio_files = segments, files
        self._files, self._starts = segments.files.data, segments.starts.data
        self._ends, self._channels = segments.ends.data, segments.channels.data
        self._last = (-1, "")
        """The last file, and the text before `start`."""

    def __getitem__(self, index: int) -> str:
        return self._text(self._files[index], self._starts[index], self._ends[index], self._channels[index])

    def of(self, indices: Sequence[int]) -> list[str]:
        """Return the texts of several segments, faster than one by one."""
        segments, chosen = self._segments, np.asarray(indices, np.int64)
        columns = (segments.files, segments.starts, segments.ends, segments.channels)
        return list(map(self._text, *(column[chosen].tolist() for column in columns)))

    def _text(self, file: int, start: float, end: float, channel: int) -> str:
        if file != self._last[0]:
            state = self.audio_files.state(file)._asdict()
            self._last = file, json.dumps({"path": self._segments.paths[file][0], **state})[:-1]
        end_text = repr(end) if end == end else "null"
        channel_text = '"mix"' if channel == MIX else channel
        return f'{self._last[1]}, "start": {start!r}, "end": {end_text}, "channel": {channel_text}}}'
