"""Results of a prediction: further keys of the input are kept, and never stand for ours."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from features.audio.segment import AudioError
from mervn.use.clips import Clip
from mervn.use.result_files import Prediction, write_results

EXTRA: dict[str, Any] = {"turn": 2, "tags": ["a", "ă"], "note": None, "sad": "x", "error": "none", "scores": "1"}
LABELS = ("happy", "sad")


def results(path: Path) -> str:
    clip = Clip(Path("a.wav"), file="a.wav", extra=EXTRA)
    found = [
        Prediction(clip, 1.0, np.array([0.25, 0.75])),
        Prediction(Clip(Path("b.wav"), file="b.wav"), 0.0, None, AudioError("unreadable", "no audio")),
    ]
    write_results(path, LABELS, found)
    return path.read_text("utf-8")


def test_json_keeps_further_keys_unless_their_names_are_taken(tmp_path: Path) -> None:
    first, second = json.loads(results(tmp_path / "a.json"))
    assert {key: first[key] for key in ("turn", "tags", "note", "sad")} == {
        key: EXTRA[key] for key in ("turn", "tags", "note", "sad")
    }
    assert "error" not in first and first["prediction"] == "sad" and first["scores"][0]["score"] == 0.75
    assert second["error"]["reason"] == "unreadable" and "turn" not in second


def test_csv_keeps_further_keys_unless_they_are_columns_of_the_format(tmp_path: Path) -> None:
    first, second = csv.DictReader(results(tmp_path / "a.csv").splitlines())
    assert list(first) == ["file", "start", "end", "happy", "sad", "turn", "tags", "note", "error", "scores"]
    assert (first["sad"], first["turn"], first["tags"], first["note"]) == ("0.75", "2", '["a", "ă"]', "")
    assert second["happy"] == second["turn"] == ""
