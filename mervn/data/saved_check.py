"""check.json: the findings about a corpus, in a folder of their own or in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.atomic_files import read_object, write_json
from features.audit.check import SCHEMA, Check
from features.audit.finding import SEVERITIES
from features.environment import now, package_version
from features.errors import InputError, UsageError
from mervn.result_folder import locked, require_same

CHECK_FILE = "check.json"
CONFIG_FILE = "config.json"
"""A run has this file too."""
KEYS = ("schema", "request", "environment", "findings", "counts", "splits", "measured", "hours", "remarks", "corpus")
TEXTS = ("id", "severity", "message", "why", "fix")
"""Keys of a finding that are texts."""


def save_check(run: Path, found: Check | None) -> None:
    """Write the findings into a run folder."""
    if found is not None:
        write_json(run / CHECK_FILE, found.as_json())


def is_check(folder: Path) -> bool:
    """Tell whether a folder holds a check, and not a run with its findings."""
    return (folder / CHECK_FILE).is_file() and not (folder / CONFIG_FILE).is_file()


@contextmanager
def check_folder(folder: Path, data: Path, audio_root: Path | None) -> Iterator[None]:
    """Create and lock a folder for the check of a data folder.

    The same data may be checked again. UsageError if the folder holds the check of other data, a
    run or other files.
    """
    if (folder / CONFIG_FILE).is_file():
        raise UsageError(f"{folder} must be a folder for the check, found a run; choose another --output")
    with locked(folder, CHECK_FILE, "check"):
        if (folder / CHECK_FILE).is_file():
            require_same(folder, "check", read_check(folder)["request"], _request(data, audio_root))
        yield


def write_check(folder: Path, found: Check, data: Path, audio_root: Path | None) -> None:
    """Write check.json into a folder that `check_folder` locks."""
    environment = {"time": now(), "versions": {name: package_version(name) for name in ("mervn", "soundfile")}}
    document = {**found.as_json(), "request": _request(data, audio_root), "environment": environment}
    write_json(folder / CHECK_FILE, document)


def read_check(folder: Path) -> dict[str, Any]:
    """Read the check.json of a folder; InputError if it is damaged or of another version."""
    path = folder / CHECK_FILE
    saved = read_object(path, "a check")
    missing = [key for key in KEYS if key not in saved]
    if missing or saved["schema"] != SCHEMA:
        lacking = f"lacks {', '.join(missing)}" if missing else f"has schema {saved['schema']}"
        raise InputError(
            f"{path} must hold a check of schema {SCHEMA}, but {lacking}; remove it and check again: "
            "mervn check DATA --output FOLDER"
        )
    if not _are_findings(saved["findings"]) or not _is_request(saved["request"]):
        raise InputError(
            f"{path} must hold a list of findings and what was checked, but does not; remove it and check again"
        )
    return saved


def read_findings(run: Path, split: str) -> Sequence[Mapping[str, Any]]:
    """Return the findings about the data of a run, and about what its test split shares with the training.

    They are those of check.json, and for `split` test those of metrics-test.json; a file that does not exist has none.
    InputError if a file is damaged.
    """
    path = run / CHECK_FILE
    found: list[Mapping[str, Any]] = []
    if path.is_file():
        found = _findings_of(path, read_object(path, "the findings about the data of a run"))
    return found + read_overlap(run) if split == "test" else found  # valid is in check.json


def read_overlap(run: Path) -> list[Mapping[str, Any]]:
    """Return the findings about what test shares with the training, from metrics-test.json; none without this file.

    InputError if the file is damaged.
    """
    path = run / "metrics-test.json"
    if not path.is_file():
        return []
    overlap = read_object(path, "the metrics of a split").get("overlap")  # an earlier version did not write it
    return [] if overlap is None else _findings_of(path, overlap)


def overlap_remarks(run: Path) -> list[str]:
    """Return what could not be compared of test and the training; none if test was not scored."""
    path = run / "metrics-test.json"
    if not path.is_file():
        return []
    document = read_object(path, "the metrics of a split")
    if "overlap" not in document:
        return ["not compared, because an earlier version scored test; evaluate it again"]
    overlap = document["overlap"]
    if overlap is None:
        return ["not compared, because the manifests of the training are missing or had changed"]
    remarks = overlap.get("remarks") if isinstance(overlap, dict) else None
    return list(map(str, remarks)) if isinstance(remarks, list) else []


def _findings_of(path: Path, document: Any) -> list[Mapping[str, Any]]:
    """Return the findings of an object of a file."""
    findings: Any = document.get("findings") if isinstance(document, dict) else None
    if not _are_findings(findings):
        raise InputError(f"{path} must hold a list of findings, but does not; remove it to write a report without them")
    return list(findings)


def _is_request(request: Any) -> bool:
    """Tell whether a JSON value is what `_request` returns."""
    if not isinstance(request, dict) or request.keys() != {"data", "audio_root"}:
        return False
    return isinstance(request["data"], str) and isinstance(request["audio_root"], str | None)


def _are_findings(findings: Any) -> bool:
    return isinstance(findings, list) and all(map(_is_finding, findings))


def _is_finding(each: Any) -> bool:
    """Tell whether a JSON value is a finding."""
    if not isinstance(each, dict) or not all(isinstance(each.get(key), str) for key in TEXTS):
        return False
    examples = each.get("examples")
    are_texts = isinstance(examples, list) and all(isinstance(example, str) for example in examples)
    return are_texts and each["severity"] in SEVERITIES


def _request(data: Path, audio_root: Path | None) -> dict[str, str | None]:
    """Return the request: the absolute paths of the data and of the audio."""
    return {
        "data": str(data.resolve()),
        "audio_root": None if audio_root is None else str(audio_root.resolve()),
    }
