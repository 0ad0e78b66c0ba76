"""transcripts.jsonl: the text that speech recognition gave for each utterance, kept for resuming.

A line counts for the model that wrote it and for the audio that it was made from. A crash can cut
the last line short; that utterance is then transcribed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import append_lines, json_line
from features.regular_files import read_regular

TRANSCRIPTS_FILE = "transcripts.jsonl"


@dataclass(frozen=True)
class Transcript:
    """Text of one utterance, and the audio and model that it comes from."""

    utterance_id: str
    text: str
    truncated: bool
    """Whether the text has the maximum number of tokens."""
    input_sha256: str
    """Hash of the decoded samples."""
    source: str
    """JSON of the `AudioSource`."""
    model: str
    """Hash of the identity of the model."""


def read_transcripts(folder: Path, model: str) -> dict[str, Transcript]:
    """Return the transcripts of a model by utterance id; of several, the last one counts."""
    try:
        content = read_regular(folder / TRANSCRIPTS_FILE)
    except FileNotFoundError:
        return {}
    found = {}
    for transcript in map(_parse, content.split(b"\n")):
        if transcript is not None and transcript.model == model:
            found[transcript.utterance_id] = transcript
    return found


def append_transcripts(folder: Path, transcripts: Iterable[Transcript]) -> None:
    """Append transcripts to the file of a folder."""
    append_lines(folder / TRANSCRIPTS_FILE, "".join(json_line(asdict(each)) for each in transcripts))


def _parse(line: bytes) -> Transcript | None:
    """Return the transcript of a line; None for an empty line, and one that a crash cut short."""
    try:
        document: Any = json.loads(line)
        transcript = Transcript(**document)
        json.loads(transcript.source)
    except (ValueError, TypeError, RecursionError):  # ValueError includes UnicodeDecodeError
        return None
    texts = (transcript.utterance_id, transcript.text, transcript.input_sha256, transcript.model)
    return transcript if all(isinstance(text, str) for text in texts) else None
