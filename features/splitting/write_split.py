"""Writes a split: train.jsonl, valid.jsonl, test.jsonl, the file of the folds and split.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from features.atomic_files import json_line, write_atomically, write_json
from features.config import SPLITS
from features.errors import UsageError
from features.manifests.folds import PATTERN, SCHEMA
from features.manifests.rewrite import moved_path
from features.splitting.split_manifest import SplitPlan

SPLIT_FILE = "split.json"
"""Options and counts of a split; written last, so that it exists only beside a complete split."""


def write_split(plan: SplitPlan, output: Path) -> list[Path]:
    """Write the manifests of a split, folds-K.json if it has folds, and split.json.

    Relative paths of audio are rewritten for the new folder, unless an audio root is given. Raises
    UsageError if the folder holds another split, unless `force`. That one is then removed first, so
    that a crash never leaves a mixture of two splits. Returns the written files.
    """
    contents = _contents(plan, output)
    _check_output(plan, output, contents)
    output.mkdir(parents=True, exist_ok=True)
    unchanged = all(_holds(output / name, content) for name, content in contents.items())
    if not unchanged:
        for name in (SPLIT_FILE, *contents, *(path.name for path in output.glob(PATTERN))):
            (output / name).unlink(missing_ok=True)
        for name, content in contents.items():
            write_atomically(output / name, content)
    write_json(output / SPLIT_FILE, plan.as_json())
    return [output / name for name in (*contents, SPLIT_FILE)]


def _contents(plan: SplitPlan, output: Path) -> dict[str, str]:
    """Return the text of each file by its name."""
    contents: dict[str, str] = {}
    if plan.options.folds is not None:
        folds = {"schema": SCHEMA, "folds": plan.folds}
        contents[f"folds-{plan.options.folds}.json"] = json.dumps(folds, ensure_ascii=False) + "\n"
    moved = plan.options.audio_root is None
    for split, ids in plan.splits.items():
        lines = []
        for utterance_id in ids:
            document = dict(plan.documents[utterance_id])
            if moved:
                document["wav_path"] = moved_path(document["wav_path"], plan.file.parent, output)
            lines.append(json_line(document))
        contents[f"{split}.jsonl"] = "".join(lines)
    return contents


def _check_output(plan: SplitPlan, output: Path, contents: Mapping[str, str]) -> None:
    """Raise UsageError if writing would replace the manifest that is split, or another split."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output must be a folder, found the file {output}")
    names = [*contents, *(f"{split}.jsonl" for split in SPLITS)]
    if any(plan.file.resolve() == (output / name).resolve() for name in names):
        raise UsageError(
            f"--output {output} would replace {plan.file}, the manifest that is split; give another folder"
        )
    folders = [name for name in names if (output / name).is_dir()]
    if folders:
        raise UsageError(f"{output / folders[0]} must be a file or missing, found a folder")
    others = [name for name, content in contents.items() if not _holds(output / name, content)]
    existing = [name for name in others if (output / name).exists()]
    existing += [path.name for path in sorted(output.glob(PATTERN)) if path.name not in contents]
    if existing and not plan.options.force:
        raise UsageError(f"{output} must not hold another split, found {', '.join(existing)}; replace it with --force")


def _holds(path: Path, content: str) -> bool:
    """Tell whether a file has exactly this content."""
    return path.is_file() and path.read_bytes() == content.encode()
