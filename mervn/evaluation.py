"""`evaluate`: a finished run on a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from features.command_lines import DataPlace, features_folder
from features.encode import resolve_device
from features.encoders import ENCODERS
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import Selector
from features.errors import InputError, UsageError
from features.manifest import Utterance, read_manifests
from features.progress import Progress, Say, no_bar
from features.splits import read_fold, read_folds
from features.store.identity import canonical_json
from features.tuned import ENCODERS_FOLDER
from mervn.config import EvaluateOptions, HeadOptions, LabelOptions
from mervn.dataset import Split, load_split
from mervn.end_to_end import EndToEnd
from mervn.labels import apply_labels, task_label
from mervn.ledger import Look, record_look
from mervn.live import LiveSplit, refuse_rejected
from mervn.metrics import compute_metrics
from mervn.model import Head, build_head
from mervn.own_module import fusion_spec, kept_own
from mervn.prediction import predict, prediction_rows
from mervn.runs import (
    CONFIG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SCHEMA,
    RunConfig,
    options_of,
    read_config,
    write_json,
    write_jsonl,
)
from mervn.sequences import make_resident
from mervn.streams import Stream, StreamShape, find_streams, modality_of


def load_head(run: Path, config: RunConfig, trust_code: bool = False) -> Head:
    """Build the head of a complete run and load its weights, on the CPU.

    UsageError where it is built of a user's own modules without `trust_code`, for that runs their code. InputError
    where the run is not complete, or its weights are not of the head that config.json says.
    """
    if not (run / METRICS_FILE).is_file():
        raise InputError(f"{run} is not complete: run the {config.command} command that made it again, it goes on")
    kept = kept_own(run, config.options, config.inputs.get("modules", {}), trust_code)
    options = options_of(run, {**config.options, **kept}, HeadOptions)
    shapes = {name: StreamShape(**shape) for name, shape in config.streams.items()}
    lacking = [name for name in fusion_spec(options.fusion).streams if name not in shapes]
    if lacking:
        raise InputError(f"{run / CONFIG_FILE}: streams must hold {' and '.join(lacking)}, found {', '.join(shapes)}")
    if not kept:  # a user's own module may not be built without memory
        _check_shapes(run, options, shapes, len(config.labels))
    head = build_head(options, shapes, len(config.labels))
    try:
        head.load_state_dict(load_file(run / MODEL_FILE), strict=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"{run / MODEL_FILE} must hold the weights of this run's head, found: {error}") from error
    return head.eval()


def _check_shapes(run: Path, options: HeadOptions, shapes: Mapping[str, StreamShape], num_classes: int) -> None:
    """Raise InputError where the weights are not of the head that config.json says, before memory is taken for it."""
    try:
        with torch.device("meta"):
            head = build_head(options, shapes, num_classes)
        with safe_open(run / MODEL_FILE, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, ValueError, OverflowError, TypeError, SafetensorError) as error:
        raise InputError(f"{run / MODEL_FILE} must hold the weights of this run's head, found: {error}") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        shown = f"{wrong[0]} of {found.get(wrong[0])}, not {wanted.get(wrong[0])}"
        raise InputError(f"{run / MODEL_FILE} must hold the weights of the head of {CONFIG_FILE}, found {shown}")


def evaluate(run: Path, options: EvaluateOptions, say: Say, progress: Progress = no_bar) -> dict[str, Any]:
    """Score a run on a split, write metrics-<split>.json and predictions-<split>.jsonl, and return the metrics.

    Scores of other inputs than the run's own go to files with the first 8 hex of the inputs' hash in their names. A
    look at the test split is first recorded in test_access.jsonl in the run and beside the data. Raises InputError
    where the run is not complete or the features it was trained on are not there.
    """
    config = read_config(run)
    device = resolve_device(options.device, float64=True)
    data = options.data or Path(config.options["data"])
    label_options = options_of(run, config.options, LabelOptions)
    rows, sources, manifests = _read(config, options, data, task_label(label_options))
    labelled = apply_labels({options.split: rows}, label_options, all_there=False)
    model, split = _model_and_split(run, config, options, labelled.utterances[options.split], progress, say)
    if isinstance(split, Split):
        layers = [one for some in split.streams.values() for one in some]
        make_resident(layers, device, options.memory_gb, say)
    looks, inputs_sha256 = None, _inputs_sha256(sources, split)
    if options.split == "test":
        looks = record_look(run, data, Look(config.hash, _weights_sha256(run, model), inputs_sha256), say)
    shown = progress if isinstance(split, LiveSplit) else no_bar  # stored features are a matter of seconds
    probabilities = predict(model.to(device), split, device, progress=shown)
    scores = {"missing": len(split.missing), **compute_metrics(split.targets, probabilities, config.labels)}
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "labels": list(config.labels),
        "dropped": labelled.dropped,
        **sources,
        options.split: scores,
    }
    name = str(options.split)
    if not _is_own(config, data, manifests, split):
        name = f"{options.split}-{inputs_sha256[:8]}"
        say(f"the inputs are not those of the run's own {options.split}: written to {run / f'metrics-{name}.json'}")
    write_jsonl(run / f"predictions-{name}.jsonl", prediction_rows(split, probabilities, config.labels))
    write_json(run / f"metrics-{name}.json", metrics)
    return metrics | ({"test_looks": looks} if looks is not None else {})


def _model_and_split(
    run: Path, config: RunConfig, options: EvaluateOptions, rows: list[Utterance], progress: Progress, say: Say
) -> tuple[nn.Module, Split | LiveSplit]:
    """Return the model of a run and the split as it reads it: stored features, or audio and transcripts."""
    head = load_head(run, config, options.trust_code)
    if config.command == "train-head":
        _, streams = data_and_streams(config, options)
        return head, load_split(
            options.split, rows, streams, config.labels,
            allow_missing=options.allow_missing, verify_inputs=options.verify_inputs, say=say,
        )  # fmt: skip
    stores = ("features_dir", "memory_gb", "verify_inputs")
    unread = [name for name in stores if name in options.given and getattr(options, name)]
    if unread:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in unread)
        raise UsageError(f"{run} reads audio and transcripts, not stores; leave out {flags}")
    encoders = {
        name: load_tuned(run, name, str(entry.get("name"))) for name, entry in config.inputs["encoders"].items()
    }
    live = LiveSplit(options.split, rows, config.labels, encoders, config.options["workers"], progress)
    refuse_rejected({options.split: live}, options.allow_missing)
    for name, encoder in encoders.items():
        if encoder.tuned is not None and options.data is not None:  # of the run's own data the manifests decide
            encoder.tuned.refuse_seen(zip(live.utterances, live.input_sha256(name), strict=True))
    return EndToEnd(encoders, head), live


def load_tuned(run: Path, stream: str, name: str) -> Encoder:
    """Load the encoder of a stream of a finetune run."""
    if name not in ENCODERS[modality_of(stream)]:
        raise InputError(f"{run / CONFIG_FILE}: the encoder of {stream} must be a known one, found {name!r}")
    return load_encoder(Selector(modality_of(stream), name, str(run / ENCODERS_FOLDER / stream)))


def _read(
    config: RunConfig,
    options: EvaluateOptions,
    data: Path,
    label_of: Callable[[str], str | None],
) -> tuple[list[Utterance], dict[str, Any], dict[str, str]]:
    """Return the utterances of the split, of the run's own fold where it has one, and what they were read from.

    The last are the hashes of the manifests by their names.
    """
    fold, split = config.options.get("fold"), options.split
    root = options.audio_root or config.options.get("audio_root")
    audio_root = Path(root) if root else None
    if fold is None or options.data is not None:
        rows = read_manifests(data, (split,), audio_root=audio_root, check_audio=False, task_label=label_of)
        return rows[split], {"manifest_sha256": rows.sha256[split]}, rows.sha256
    folds = read_folds(Path(config.options["fold_file"]))
    if folds.sha256 != config.inputs["folds"]["sha256"]:
        raise InputError(f"{folds.path} must hold the folds that this run was trained on, but it was changed since")
    kept, manifests = read_fold(data, folds, int(fold), (split,), audio_root, label_of)
    if not kept[split]:
        raise InputError(f"{folds.path}: fold {fold} has no {split} utterances")
    return kept[split], {"fold": int(fold), "folds_sha256": folds.sha256}, manifests


def data_and_streams(config: RunConfig, options: EvaluateOptions) -> tuple[Path, dict[str, Stream]]:
    """Return the data folder and the streams of exactly the identities the run was trained on."""
    data = options.data or Path(config.options["data"])
    folder = options.features_dir
    if folder is None and options.data is None and config.options.get("features_dir"):
        folder = Path(config.options["features_dir"])
    given = {m: config.options.get(f"{m}_store") for m in ("audio", "text")} if options.data is None else {}
    explicit = {modality: Path(path) if path else None for modality, path in given.items()}
    audio_root = options.audio_root or config.options.get("audio_root")
    place = DataPlace(data, features_folder(folder, data), Path(audio_root) if audio_root else None)
    return data, find_streams(config.inputs["stores"], place, explicit, config.models)


def _weights_sha256(run: Path, model: nn.Module) -> str:
    """Hash the weights that a run is scored with: of the head, and of the encoders where they were trained with it."""
    digest = hashlib.sha256((run / MODEL_FILE).read_bytes())
    if isinstance(model, EndToEnd):
        for name in sorted(model.encoders):
            digest.update(f"{name}|{model.encoder(name).weights_sha256}".encode())
    return digest.hexdigest()


def _inputs_sha256(sources: Mapping[str, Any], split: Split | LiveSplit) -> str:
    """Hash what a split was read from, and the features or the audio and transcripts that were read."""
    return hashlib.sha256(canonical_json({**sources, "read": _read_sha256(split)}).encode()).hexdigest()


def _read_sha256(split: Split | LiveSplit) -> str:
    return split.inputs_sha256 if isinstance(split, LiveSplit) else split.features_sha256


def _is_own(config: RunConfig, data: Path, manifests: Mapping[str, str], split: Split | LiveSplit) -> bool:
    """Tell whether a split is the run's own, as the training read it; of test, which it never read, all of it."""
    known, features = (config.inputs.get(key) for key in ("manifests", "features"))
    if not isinstance(known, dict) or not isinstance(features, dict):
        return False
    if any(known.get(name, sha256) != sha256 for name, sha256 in manifests.items()):
        return False
    if split.name != "test":
        return bool(features.get(split.name) == _read_sha256(split))
    return data.resolve() == Path(config.options["data"]) and not split.missing
