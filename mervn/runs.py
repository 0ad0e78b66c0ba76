"""A run's folder: its name, its configuration, and the rules for running the same thing again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.config import is_own
from features.errors import InputError, UsageError
from features.result_folder import clear, require_same
from features.result_folder import locked as folder_locked
from features.result_folder import write_json as write_json
from features.result_folder import write_jsonl as write_jsonl
from features.store.identity import canonical_json
from mervn.config import NOT_CONFIGURATION

SCHEMA = 1
CONFIG_FILE, METRICS_FILE, MODEL_FILE = "config.json", "metrics.json", "model.safetensors"
ENVIRONMENT_FILE, LEDGER_FILE = "environment.json", "test_access.jsonl"


@dataclass(frozen=True)
class RunConfig:
    """What a run is: its options, and what they pointed to when it began."""

    command: str
    options: Mapping[str, Any]
    """All options that are read, resolved; paths absolute."""
    labels: Sequence[str]
    inputs: Mapping[str, Any]
    """Hashes of the manifests, identities and contents of the stores."""
    streams: Mapping[str, Mapping[str, Any]]
    """The `StreamShape` of each stream."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each stream's model was resolved to; decides nothing, for the inputs hold the identities."""

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that decides the result, and nothing else."""
        options = {key: _named(value) for key, value in self.options.items() if key not in NOT_CONFIGURATION}
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
            "models": {name: dict(model) for name, model in self.models.items()},
        }


def default_folder(config: RunConfig, encoders: Mapping[str, str]) -> Path:
    """Return runs/<data>-<encoders>-<fusion>-<pooling>-<8 hex> below the current folder."""
    data = Path(str(config.options["data"])).name
    names = "+".join(encoders[name] for name in sorted(encoders))
    fusion, pooling = (_named(config.options[key]) for key in ("fusion", "pooling"))
    text = f"{data}-{names}-{fusion}-{pooling}-{config.hash}"
    return Path("runs") / re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


def _named(value: Any) -> Any:
    """Return a user's own module without its folder, for its content is in the inputs; anything else as it is."""
    return Path(value).name if isinstance(value, str) and is_own(value) else value


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
        command, options, labels, inputs, streams = (document[key] for key in keys)
        return RunConfig(command, options, labels, inputs, streams, document.get("models", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be the configuration of a run, but cannot be read: {error!r}") from error


def prepare(run: Path, config: RunConfig, force: bool) -> bool:
    """Make a run's folder ready and tell whether a complete result of this configuration is there already.

    UsageError where the folder holds another configuration.
    """
    if (run / CONFIG_FILE).is_file():
        require_same(run, "run", read_config(run).configuration, config.configuration)
        if not force:
            return (run / METRICS_FILE).is_file()
        (run / METRICS_FILE).unlink(missing_ok=True)
        clear(run, kept=(CONFIG_FILE, LEDGER_FILE))  # the record of looks at the test split stays
    write_json(run / CONFIG_FILE, config.as_json())
    return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make a run's folder and keep a second process out of it, as `features.result_folder.locked`."""
    with folder_locked(run, CONFIG_FILE, "run"):
        yield
