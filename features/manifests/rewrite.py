"""Copies manifests and folds to another folder, with one more key in each line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.atomic_files import json_line, write_atomically
from features.errors import InputError
from features.manifests.folds import PATTERN
from features.manifests.manifest import BYTE_ORDER_MARK, Manifests, Utterance
from features.regular_files import read_regular


def copy_manifests(
    manifests: Manifests, data: Path, output: Path, key: str, values: Mapping[str, Any], *, move_audio: bool = True
) -> list[Path]:
    """Write manifests of the folder `data` to `output`; each line gets `key`, null without a value.

    `values` are by utterance id. All other keys stay as they are, except for a relative wav_path if
    `move_audio`: it then leads from `output` to the same file. Folds are copied. Returns the written
    files. InputError if a manifest has changed since it was read.
    """
    contents = {}
    for split, utterances in manifests.items():
        lines = []
        for utterance, document in zip(utterances, _documents(manifests, data, split, utterances), strict=True):
            if move_audio:
                document["wav_path"] = moved_path(document["wav_path"], data, output)
            lines.append(json_line({**document, key: values.get(utterance.utterance_id)}))
        contents[f"{split}.jsonl"] = "".join(lines).encode()
    for folds in sorted(data.glob(PATTERN)):
        contents[folds.name] = read_regular(folds)
    for name, content in contents.items():
        write_atomically(output / name, content)
    return [output / name for name in contents]


def moved_path(path: str, before: Path, after: Path) -> str:
    """Return a path relative to one folder as a path relative to another; an absolute one stays."""
    if Path(path).is_absolute() or before.resolve() == after.resolve():
        return path
    # after a link, only the file system knows where ".." leads; links behind the last ".." keep their names
    folder, dots, rest = Path(path).as_posix().rpartition("../")
    return os.path.relpath((before / (folder + dots)).resolve() / rest, after.resolve())


def _documents(manifests: Manifests, data: Path, split: str, utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
    """Return the JSON object of each utterance's line, with all of its keys."""
    file = data / f"{split}.jsonl"
    content = read_regular(file)
    if hashlib.sha256(content).hexdigest() != manifests.sha256[split]:
        raise InputError(f"{file} must not change meanwhile, but it did: run the same command again")
    lines = content.removeprefix(BYTE_ORDER_MARK).splitlines()
    return [json.loads(lines[utterance.line - 1]) for utterance in utterances]
