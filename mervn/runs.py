"""A run's folder: its name, its configuration, and the rules for running the same thing again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError
from features.store.identity import canonical_json, differing_fields, write_atomically
from mervn.config import NOT_CONFIGURATION

SCHEMA = 1
CONFIG_FILE, METRICS_FILE, MODEL_FILE = "config.json", "metrics.json", "model.safetensors"
ENVIRONMENT_FILE, LEDGER_FILE = "environment.json", "test_access.jsonl"
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class RunConfig:
    """What a run is: its options, and what they pointed to when it began."""

    command: str
    options: Mapping[str, Any]
    """All options, resolved; paths absolute."""
    labels: Sequence[str]
    inputs: Mapping[str, Any]
    """Hashes of the manifests, identities and contents of the stores."""
    streams: Mapping[str, Mapping[str, Any]]
    """The `StreamShape` of each stream."""

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that decides the result, and nothing else."""
        options = {key: value for key, value in self.options.items() if key not in NOT_CONFIGURATION}
        return {"command": self.command, **options, "labels": list(self.labels), "inputs": dict(self.inputs)}

    @property
    def hash(self) -> str:
        """The 8 hex of the configuration."""
        return hashlib.sha256(canonical_json(self.configuration).encode()).hexdigest()[:8]

    def as_json(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "hash": self.hash,
            "options": dict(self.options),
            "labels": list(self.labels),
            "inputs": dict(self.inputs),
            "streams": {name: dict(shape) for name, shape in self.streams.items()},
        }


def default_folder(config: RunConfig, encoders: Mapping[str, str]) -> Path:
    """Return runs/<data>-<encoders>-<fusion>-<pooling>-<8 hex> below the current folder."""
    data = Path(str(config.options["data"])).name
    names = "+".join(encoders[name] for name in sorted(encoders))
    text = f"{data}-{names}-{config.options['fusion']}-{config.options['pooling']}-{config.hash}"
    return Path("runs") / re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


def read_config(run: Path) -> RunConfig:
    """Read a run's config.json; UsageError if the folder is no run, InputError if the file is damaged."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{run} must be the folder of a run: there is no {path}")
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, found {document['schema']}")
        keys = ("command", "options", "labels", "inputs", "streams")
        return RunConfig(*(document[key] for key in keys))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be the configuration of a run, but cannot be read: {error!r}") from error


def prepare(run: Path, config: RunConfig, force: bool) -> bool:
    """Make a run's folder ready and tell whether a complete result of this configuration is there already.

    UsageError where the folder holds another configuration.
    """
    if (run / CONFIG_FILE).is_file():
        there = read_config(run)
        if canonical_json(there.configuration) != canonical_json(config.configuration):
            differing = differing_fields(there.configuration, config.configuration)
            lines = [f"  {key}: there {before!r}, now {after!r}" for key, (before, after) in differing.items()]
            raise UsageError(
                f"{run} holds a run of another configuration; choose another --output:\n" + "\n".join(lines)
            )
        if not force:
            return (run / METRICS_FILE).is_file()
        _clear(run)
    write_json(run / CONFIG_FILE, config.as_json())
    return False


def _clear(run: Path) -> None:
    """Remove the results of a run; the record of looks at the test split stays."""
    for path in run.iterdir():
        if path.name in (LEDGER_FILE, LOCK_FILE):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make a run's folder and keep a second process out of it; the lock goes with the process, however it ends.

    UsageError where something stands there that is no run, InputError where another process writes.
    """
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} must be a folder for the run, found a file")
    if run.is_dir() and not (run / CONFIG_FILE).is_file() and any(path.name != LOCK_FILE for path in run.iterdir()):
        raise UsageError(f"{run} is not empty and holds no run ({CONFIG_FILE} is missing); choose another --output")
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{run} is being written by another process; wait for it or give --output") from error
        yield


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file whole: sorted keys, two spaces."""
    write_atomically(path, json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file whole, one object a line."""
    write_atomically(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))


def append_jsonl(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
