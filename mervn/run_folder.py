"""Run folders: names, config.json, metrics.json, and what happens if a configuration runs again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, cast

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
ENVIRONMENT_FILE, LEDGER_FILE, SUMMARY_FILE = "environment.json", "test_access.jsonl", "summary.json"


class RunMetrics(TypedDict):
    """The content of metrics.json."""

    schema: int
    labels: list[str]
    selected_epoch: int
    missing: dict[str, int]
    """Number of utterances without features, by split."""
    empty: dict[str, dict[str, int]]
    """Number of utterances without frames, by split and stream."""
    dropped: Mapping[str, Mapping[str, int]]
    """Number of utterances left out by --drop-label, by split and label."""
    features: dict[str, str]
    """Origin of the encoder's weights, by stream."""
    content_sha256: NotRequired[Mapping[str, str]]
    """Hash of the audio and of the transcripts of valid, by modality; earlier versions recorded none."""
    trained_model_sha256: NotRequired[str]
    """Hash of model.safetensors as the training wrote it; earlier versions recorded none."""
    layer_weights: Mapping[str, Mapping[str, float]]
    valid: dict[str, Any]
    """`Metrics.as_json`, and the number of missing utterances."""
    averaged_epochs: NotRequired[list[int]]
    C: NotRequired[float]
    """Inverse strength of the regularization of a linear head."""


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run: its options, and the data and encoders it began with."""

    command: str
    options: Mapping[str, Any]
    """All options that are read, with defaults resolved and absolute paths."""
    labels: Sequence[str]
    inputs: Mapping[str, Any]
    """Hashes of the manifests, identities and contents of the stores."""
    streams: Mapping[str, Mapping[str, Any]]
    """The `StreamShape` of each stream."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The resolved model of each stream. It is not hashed, because the inputs
    already hold the identities."""

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that can change the result, and nothing else."""
        unhashed = TrainHeadOptions.not_in_hash() | FinetuneOptions.not_in_hash()
        options = {}
        for key, value in self.options.items():
            if key not in unhashed:
                options[key] = _module_name(value)
        return {"command": self.command, **options, "labels": list(self.labels), "inputs": dict(self.inputs)}

    @property
    def hash(self) -> str:
        """SHA-256 of the configuration, its first 8 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.configuration).encode()).hexdigest()[:8]

    def as_json(self) -> dict[str, Any]:
        """Return the content of config.json as a JSON object."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "hash": self.hash,
            "options": dict(self.options),
            "labels": list(self.labels),
            "inputs": dict(self.inputs),
            "streams": _plain_dicts(self.streams),
            "models": _plain_dicts(self.models),
        }


def _plain_dicts(mappings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return mappings of mappings as plain dicts, which JSON can hold."""
    return {name: dict(mapping) for name, mapping in mappings.items()}


def default_folder(config: RunConfig, encoders: Mapping[str, str]) -> Path:
    """Return runs/<data>-<encoders>-<fusion>-<pooling>-<hash>, relative to the current folder."""
    data = Path(str(config.options["data"])).name
    names = "+".join(encoders[name] for name in sorted(encoders))
    fusion, pooling = _module_name(config.options["fusion"]), _module_name(config.options["pooling"])
    text = f"{data}-{names}-{fusion}-{pooling}-{config.hash}"
    return Path("runs") / re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


def find_run(folder: Path, config: RunConfig) -> Path:
    """Return `folder`, or an existing run of this configuration in a series beside it.

    A series of seeds or folds holds its runs one or two levels below its own folder.
    """
    if (folder / CONFIG_FILE).is_file() or not folder.parent.is_dir():
        return folder
    for pattern in ("*/seed-*", "*/fold-*", "*/fold-*/seed-*"):
        for path in sorted(folder.parent.glob(f"{pattern}/{CONFIG_FILE}")):
            try:
                candidate = read_config(path.parent)
            except InputError:
                continue  # a damaged run cannot be reused
            if candidate.hash == config.hash and candidate.configuration == config.configuration:
                return path.parent
    return folder


def _module_name(value: Any) -> Any:
    """Return a custom module without its folder, and any other value unchanged.

    The inputs of the run hold the hash of the file.
    """
    return Path(value).name if isinstance(value, str) and is_custom_module(value) else value


def read_config(run: Path) -> RunConfig:
    """Read the config.json of a run.

    UsageError if the folder is not a run, InputError if the file is damaged.
    """
    path = run / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{run} must be the folder of a run, but {path} does not exist")
    document = read_object(path, "the configuration of a run")
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, found {document['schema']}")
        canonical_json(document)  # ValueError for NaN
        config = RunConfig(
            document["command"], document["options"], document["labels"], document["inputs"], document["streams"],
            document.get("models", {}),
        )  # fmt: skip
        _check_config(config)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must hold the configuration of a run, but cannot be read: {error!r}") from error
    for model in (HeadOptions, LabelOptions, FoldOptions, DataOptions):
        options_of(run, config.options, model)
    return config


def _check_config(config: RunConfig) -> None:
    """Raise ValueError for values that no run writes, such as those of an edited config.json."""
    for name in ("options", "inputs", "streams", "models"):
        if not isinstance(getattr(config, name), dict):
            raise ValueError(f"{name} must be an object, found {getattr(config, name)!r}")
    labels, streams = config.labels, config.streams
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or len(set(labels)) < 2:
        raise ValueError(f"labels must be a list of at least two names, found {labels!r}")
    if not streams or set(streams) - {"text", "audio", SECOND}:
        raise ValueError(f"streams must be one or more of text, audio and {SECOND}, found {list(streams)}")
    for name, model in config.models.items():
        if not isinstance(model, dict):
            raise ValueError(f"models.{name} must be an object, found {model!r}")
    for name, shape in streams.items():
        if not isinstance(shape, dict):
            raise ValueError(f"streams.{name} must be an object, found {shape!r}")
        StreamShape(**shape).check(name)
    _check_sources(config)
    _check_options(config)


def _check_sources(config: RunConfig) -> None:
    """Raise ValueError unless the inputs name one store or encoder entry for each stream."""
    kind = {"train-head": "stores", "finetune": "encoders"}.get(config.command)
    if kind is None:
        raise ValueError(f"command must be train-head or finetune, found {config.command!r}")
    sources = config.inputs.get(kind)
    if not isinstance(sources, dict) or set(sources) != set(config.streams):
        raise ValueError(f"inputs.{kind} must have one entry for each of {list(config.streams)}, found {sources!r}")
    # a list of hashes of stores, or an object that describes an encoder
    entry_type = list if kind == "stores" else dict
    for name, entry in sources.items():
        if not isinstance(entry, entry_type) or not entry:
            raise ValueError(f"inputs.{kind}.{name} must be a non-empty {entry_type.__name__}, found {entry!r}")


def _check_options(config: RunConfig) -> None:
    """Raise ValueError for options that a run needs later and that no option model checks."""
    options = config.options
    if not isinstance(options.get("data"), str):
        raise ValueError(f"options.data must be a folder, found {options.get('data')!r}")
    workers = options.get("workers")
    if config.command == "finetune" and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise ValueError(f"options.workers must be 0 or more, found {workers!r}")
    if options.get("fold") == "all":
        raise ValueError("options.fold must be the number of one fold, found 'all'")
    folds = config.inputs.get("folds", {})
    if options.get("fold") and not (isinstance(folds, dict) and "sha256" in folds):
        raise ValueError(f"inputs.folds must hold the sha256 of the folds, found {folds!r}")
    if options.get("fold") and not isinstance(options.get("fold_file"), str):
        raise ValueError(f"options.fold_file must be a file, found {options.get('fold_file')!r}")


def options_of(run: Path, options: Mapping[str, Any], model: type[OptionsT]) -> OptionsT:
    """Return the options of a run that `model` has fields for; InputError for an invalid value."""
    fields = {name: value for name, value in options.items() if name in model.model_fields}
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, ("options", *detail["loc"])))
        raise InputError(f"{run / CONFIG_FILE}: {place}: {detail['msg']}, found {detail['input']!r}") from error


def read_metrics(run: Path) -> RunMetrics:
    """Read the metrics.json of a complete run; InputError if it is damaged."""
    path = run / METRICS_FILE
    metrics = read_object(path, "the metrics of a run")
    valid = metrics.get("valid")
    numbers = [metrics.get("selected_epoch")]
    for key in ("macro_f1", "accuracy", "n", "missing"):
        numbers.append(valid.get(key) if isinstance(valid, dict) else None)
    if not all(isinstance(number, int | float) for number in numbers):
        raise InputError(
            f"{path} must hold numbers for the selected epoch and for macro_f1, accuracy, n and "
            f"missing of valid, found {numbers}"
        )
    weights = metrics.get("layer_weights")
    if not isinstance(weights, dict) or not all(map(_is_layer_mix, weights.values())):
        raise InputError(f"{path}: layer_weights must hold the weight of each layer, found {weights!r}")
    return cast(RunMetrics, metrics)


def _is_layer_mix(weights: Any) -> bool:
    """Tell whether a value maps layers to weights."""
    return isinstance(weights, dict) and all(isinstance(weight, float) for weight in weights.values())


def prepare(run: Path, config: RunConfig, force: bool) -> bool:
    """Prepare a run's folder; return True if it holds a complete result of this configuration.

    UsageError if the folder holds another configuration.
    """
    if (run / CONFIG_FILE).is_file():
        require_same(run, "run", read_config(run).configuration, config.configuration)
        if not force:
            return (run / METRICS_FILE).is_file()
        (run / METRICS_FILE).unlink(missing_ok=True)
        clear(run, kept=(CONFIG_FILE, LEDGER_FILE))  # keep the record of accesses to the test split
    write_json(run / CONFIG_FILE, config.as_json())
    return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Create and lock a run's folder: see `mervn.result_folder.locked`."""
    with folder_locked(run, CONFIG_FILE, "run"):
        yield
