"""Helpers of the tests of corpora: tiny audio files, and imports whose results are easy to compare."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
from tiny import RATE, read_jsonl, wave

from features.corpora.importer import ImportResult, import_corpus
from features.corpora.options import ImportOptions


def audio_bytes(seed: int = 0, subtype: str = "PCM_16") -> bytes:
    """Return a WAV file of a tenth of a second."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave(0.1, seed), RATE, subtype=subtype, format="WAV")
    return buffer.getvalue()


TONE = audio_bytes()


def touch(path: Path, content: bytes = TONE) -> Path:
    """Write an audio file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write(path: Path, text: str) -> Path:
    """Write a text file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def run_import(name: str, source: Path, **options: Any) -> ImportResult:
    """Import a corpus into the folder `data` beside the source."""
    return import_corpus(name, source, ImportOptions(output=source.parent / "data", **options))


def splits(result: ImportResult) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each manifest."""
    return {split: read_jsonl(result.path / f"{split}.jsonl") for split in ("train", "valid", "test")}


def labels(result: ImportResult) -> dict[str, dict[str, str]]:
    """Return the label of each utterance by split."""
    found = {}
    for split, lines in splits(result).items():
        found[split] = {line["utterance_id"]: line["emotion"] for line in lines}
    return found


def folds(result: ImportResult) -> list[Mapping[str, list[str]]]:
    """Return the folds of the only fold file."""
    (path,) = result.path.glob("folds-*.json")
    found: list[Mapping[str, list[str]]] = json.loads(path.read_text())["folds"]
    return found


def findings(result: ImportResult) -> dict[str, str]:
    """Return the messages by name; several of a name are joined by `; `."""
    found: dict[str, str] = {}
    for finding in result.findings:
        before = f"{found[finding.id]}; " if finding.id in found else ""
        found[finding.id] = before + finding.message
    return found
