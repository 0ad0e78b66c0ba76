"""A run's folder: its name, its configuration, and the rules for running the same thing again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from features.atomic_files import read_object
from features.atomic_files import write_json as write_json
from features.atomic_files import write_jsonl as write_jsonl
from features.canonical import canonical_json
from features.config import DataOptions, Options, is_custom_module
from features.errors import InputError, UsageError
from mervn.config import FinetuneOptions, FoldOptions, HeadOptions, LabelOptions, TrainHeadOptions
from mervn.data.streams import SECOND, StreamShape
from mervn.result_folder import clear, require_same
from mervn.result_folder import locked as folder_locked

OptionsT = TypeVar("OptionsT", bound=Options)
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
        outside = TrainHeadOptions.not_in_hash() | FinetuneOptions.not_in_hash()
        options = {key: _named(value) for key, value in self.options.items() if key not in outside}
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


def find_run(folder: Path, config: RunConfig) -> Path:
    """Return the run of this configuration in a series of seeds or folds beside `folder`; `folder` if there is none."""
    if (folder / CONFIG_FILE).is_file() or not folder.parent.is_dir():
        return folder
    for pattern in ("*/seed-*", "*/fold-*", "*/fold-*/seed-*"):
        for path in sorted(folder.parent.glob(f"{pattern}/{CONFIG_FILE}")):
            try:
                found = read_config(path.parent)
            except InputError:
                continue  # a damaged run, which is not this one
            if found.hash == config.hash and found.configuration == config.configuration:
                return path.parent
    return folder


def _named(value: Any) -> Any:
    """Return a user's own module without its folder, for its content is in the inputs; anything else as it is."""
    return Path(value).name if isinstance(value, str) and is_custom_module(value) else value


def read_config(run: Path) -> RunConfig:
    """Read a run's config.json; UsageError if the folder is no run, InputError if the file is damaged."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{run} must be the folder of a run: there is no {path}")
    document = read_object(path, "the configuration of a run")
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, found {document['schema']}")
        canonical_json(document)  # ValueError for NaN
        keys = ("command", "options", "labels", "inputs", "streams")
        command, options, labels, inputs, streams = (document[key] for key in keys)
        config = RunConfig(command, options, labels, inputs, streams, document.get("models", {}))
        _check_config(config)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must hold the configuration of a run, but cannot be read: {error!r}") from error
    for model in (HeadOptions, LabelOptions, FoldOptions, DataOptions):
        options_of(run, config.options, model)
    return config


def _check_config(config: RunConfig) -> None:
    """Raise ValueError where config.json was edited to something that no run holds."""
    for name in ("options", "inputs", "streams", "models"):
        if not isinstance(getattr(config, name), dict):
            raise ValueError(f"{name} must be an object, found {getattr(config, name)!r}")
    labels, streams = config.labels, config.streams
    if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels) or len(set(labels)) < 2:
        raise ValueError(f"labels must be a list of two names or more, found {labels!r}")
    if not isinstance(config.options.get("data"), str):
        raise ValueError(f"options.data must be a folder, found {config.options.get('data')!r}")
    if not streams or set(streams) - {"text", "audio", SECOND}:
        raise ValueError(f"streams must be among text, audio, {SECOND}, found {list(streams)}")
    if not all(isinstance(model, dict) for model in config.models.values()):
        raise ValueError(f"models must hold an object for each stream, found {config.models!r}")
    for name, shape in streams.items():
        if not isinstance(shape, dict):
            raise ValueError(f"streams.{name} must be an object, found {shape!r}")
        StreamShape(**shape).check(name)
    kind = {"train-head": "stores", "finetune": "encoders"}.get(config.command)
    if kind is None:
        raise ValueError(f"command must be train-head or finetune, found {config.command!r}")
    sources = config.inputs.get(kind)
    if not isinstance(sources, dict) or set(sources) != set(streams):
        raise ValueError(f"inputs.{kind} must have one entry for each of {list(streams)}, found {sources!r}")
    workers = config.options.get("workers")
    if config.command == "finetune" and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise ValueError(f"options.workers must be 0 or more, found {workers!r}")
    if config.options.get("fold") == "all":
        raise ValueError("options.fold must be the number of one fold, found 'all'")
    folds = config.inputs.get("folds", {})
    if config.options.get("fold") and not (isinstance(folds, dict) and {"sha256"} <= folds.keys()):
        raise ValueError(f"inputs.folds must hold the sha256 of the folds, found {folds!r}")
    if config.options.get("fold") and not isinstance(config.options.get("fold_file"), str):
        raise ValueError(f"options.fold_file must be a file, found {config.options.get('fold_file')!r}")
    for name, entry in sources.items():
        known = list if kind == "stores" else dict
        if not isinstance(entry, known) or not entry:
            raise ValueError(f"inputs.{kind}.{name} must be a {known.__name__}, found {entry!r}")


def options_of(run: Path, options: Mapping[str, Any], model: type[OptionsT]) -> OptionsT:
    """Return the options of a run that a model knows; InputError for a value that cannot be."""
    try:
        return model.model_validate({name: value for name, value in options.items() if name in model.model_fields})
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, ("options", *detail["loc"])))
        raise InputError(f"{run / CONFIG_FILE}: {place}: {detail['msg']}, found {detail['input']!r}") from error


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the metrics.json of a complete run; InputError if it is not what a training wrote."""
    path = run / METRICS_FILE
    metrics = read_object(path, "the metrics of a run")
    valid = metrics.get("valid")
    numbers = (
        [valid.get(key) for key in ("macro_f1", "accuracy", "n", "missing")] if isinstance(valid, dict) else [None]
    )
    weights = metrics.get("layer_weights")
    mixes = list(weights.values()) if isinstance(weights, dict) else [None]
    if not all(isinstance(number, int | float) for number in [*numbers, metrics.get("selected_epoch")]):
        raise InputError(f"{path} must hold the scores on valid and the selected epoch, found {numbers}")
    if not all(isinstance(mix, dict) and all(isinstance(w, float) for w in mix.values()) for mix in mixes):
        raise InputError(f"{path}: layer_weights must hold the weight of each layer, found {weights!r}")
    return metrics


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
    """Make a run's folder and keep a second process out of it, as `mervn.result_folder.locked`."""
    with folder_locked(run, CONFIG_FILE, "run"):
        yield
