"""Utterances of a corpus as its reader finds them, and the findings about the corpus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from features.config import SplitName
from features.corpora.options import ImportOptions
from features.progress import Reporter

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
Fold = dict[str, list[str]]
"""Utterance ids of each split of a fold."""


@dataclass(frozen=True)
class Item:
    """One utterance of a corpus."""

    utterance_id: str
    audio: Path
    label: str | None
    """The label as a word; None: the corpus gives none."""
    code: str | None = None
    """The label as the corpus spells it, if `label` is its meaning."""
    speaker_id: str | None = None
    transcript: str | None = None
    start: float | None = None
    """In seconds."""
    end: float | None = None
    channel: int | str | None = None
    split: SplitName | None = None
    """The official split; None: the corpus gives none."""
    group: str | None = None
    """Utterances of a group must not be in two splits; None: the speaker is the group."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the manifest."""
    wav_path: str | None = None
    """Path in the data folder, for audio that the import writes; None: the file stays in place."""
    sha256: str | None = None
    """Hash of the audio file, if the reader has its bytes."""

    @property
    def source_label(self) -> str | None:
        """Return the label as the corpus spells it."""
        return self.label if self.code is None else self.code

    @property
    def recording(self) -> str:
        """Return the path of the audio file, which several utterances may have segments of."""
        return os.path.normpath(self.audio)

    @property
    def unit(self) -> str | None:
        """Return the group of the utterance, else its speaker; None if both are unknown."""
        return self.group if self.group is not None else self.speaker_id


@dataclass(frozen=True)
class Finding:
    """A fault or a property of a corpus that a user must know."""

    id: str
    """Stable name, such as `speaker_overlap`."""
    severity: Literal["warning", "info"]
    message: str
    examples: tuple[str, ...] = ()
    """Every utterance, speaker or line that is concerned."""


@dataclass(frozen=True)
class KnownFault:
    """A fault that others found in the published files of a corpus."""

    name: str
    """File name without suffix."""
    fault: str
    split: SplitName | None = None
    """Only in this split, if names repeat between splits."""


@dataclass
class Corpus:
    """Everything that a reader finds in the files of a corpus."""

    items: list[Item]
    findings: list[Finding] = field(default_factory=list)
    unit: str = "speaker"
    """Name of the groups that must not be in two splits."""
    folds: list[Fold] = field(default_factory=list)
    """The official folds, if there are any."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> utterances that the reader leaves out."""
    official: str = ""
    """Description of the official splits or folds; empty if the corpus has none."""

    def warn(self, name: str, message: str, examples: Iterable[str] = ()) -> None:
        """Add a warning."""
        self.findings.append(Finding(name, "warning", message, tuple(examples)))

    def note(self, name: str, message: str, examples: Iterable[str] = ()) -> None:
        """Add a finding that is no fault."""
        self.findings.append(Finding(name, "info", message, tuple(examples)))

    def leave_out(self, reason: str, name: str) -> None:
        """Record an utterance that gets no line in a manifest."""
        self.left_out.setdefault(reason, []).append(name)

    def report_known(self, known: Sequence[KnownFault]) -> None:
        """Add a warning for each known fault whose utterance the corpus has."""
        for fault in known:
            for item in self.items:
                if item.audio.stem == fault.name and fault.split in (None, item.split):
                    self.warn("known_fault", f"{fault.name} is known to be {fault.fault}", [item.utterance_id])

    def expect(self, expected: int, found: int, what: str) -> None:
        """Add a finding if a number differs from that of the published corpus."""
        if found != expected:
            self.note("other_count", f"the published corpus has {expected} {what}, found {found}")


@dataclass(frozen=True)
class Work:
    """Place and reporter of an import."""

    folder: Path
    """Folder that becomes the data folder; a reader may write audio into it."""
    reporter: Reporter


Read = Callable[[Path, ImportOptions, Work], Corpus]
"""Reader of a format."""


def find_audio(folder: Path, stem: str) -> Path:
    """Return the audio file of a stem in a folder; the path of a WAV file if there is none."""
    for suffix in AUDIO_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.exists():
            return path
    return folder / f"{stem}.wav"


def read_text(path: Path, corpus: Corpus) -> str:
    """Return the text of a file in UTF-8; other bytes count as Latin-1, which is reported."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        corpus.warn("encoding", f"{path.name} is not in UTF-8; it is read as Latin-1", [str(path)])
        return content.decode("latin-1")
