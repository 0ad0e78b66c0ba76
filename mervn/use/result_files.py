"""Results of `mervn predict`: JSON as Hugging Face pipelines return it, and CSV as audformat reads it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import json_line, write_atomically
from features.audio.segment import AudioError
from mervn.use.clips import Clip
from mervn.use.recognizer import ranked
from mervn.use.segments import format_time

Array = np.ndarray[Any, Any]
KEYS = ("file", "start", "end", "text", "error", "prediction", "scores")
"""Keys of a JSON object; keys of the input with these names are left out, even where ours is missing."""


@dataclass(frozen=True)
class Prediction:
    """The result for one clip."""

    clip: Clip
    seconds: float
    """Duration of the audio; 0 without audio."""
    probabilities: Array | None
    """(K,) float64 in the order of the labels of the results; None if the audio cannot be used."""
    fault: AudioError | None = None
    """Why there are no probabilities."""

    @property
    def end(self) -> float | None:
        """End of the segment in seconds; None if its audio was not measured and it ends with the file."""
        return round(self.clip.start + self.seconds, 6) if self.seconds else self.clip.end

    def as_json(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the JSON object: file, times, text, all labels with their scores; or the error."""
        clip = self.clip
        entry: dict[str, Any] = {}
        if clip.audio is not None:
            entry |= {"file": clip.file, "start": clip.start, "end": self.end}
        if clip.text:
            entry["text"] = clip.text
        if self.probabilities is None:
            entry["error"] = {"reason": self.fault.reason, "message": str(self.fault)} if self.fault else None
        else:
            scores = ranked(labels, self.probabilities)
            entry |= {"prediction": scores[0]["label"], "scores": scores}
        return entry | {key: value for key, value in clip.extra.items() if key not in KEYS}


def write_results(path: Path, labels: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Write all results atomically, in the format of the suffix: .json, .jsonl or .csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        content = csv_text(labels, predictions)
    elif path.suffix == ".jsonl":
        content = "".join(json_line(one.as_json(labels)) for one in predictions)
    else:
        content = json.dumps([one.as_json(labels) for one in predictions], indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, content.encode("utf-8", "surrogatepass"))


def csv_text(labels: Sequence[str], predictions: Sequence[Prediction]) -> str:
    """Return a CSV table: file, start, end, one column per label, then further keys of the inputs.

    Times have the form that audformat and pandas read. Without probabilities, their columns are empty.
    """
    further: dict[str, None] = {}
    taken = {"file", "start", "end", *labels}
    for one in predictions:
        further |= dict.fromkeys(key for key in one.clip.extra if key not in taken)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "start", "end", *labels, *further])
    for one in predictions:
        times = ["", ""]
        if one.clip.audio is not None:
            times = [format_time(one.clip.start), "" if one.end is None else format_time(one.end)]
        scores = [""] * len(labels) if one.probabilities is None else one.probabilities.tolist()
        extra = [_cell(one.clip.extra.get(key)) for key in further]
        writer.writerow([one.clip.file, *times, *scores, *extra])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    """Return a further value as text: a string as it is, empty for None, else JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
