"""`finetune`: encoders and head trained together, from waveforms and transcripts to a run."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from features.encode import resolve_device
from features.encoders import DEFAULT_ENCODERS, ENCODERS
from features.encoders.base import Encoder, load_whole
from features.encoders.selector import EncoderSettings, Selector, parse_selectors
from features.errors import InputError, UsageError
from features.result_folder import write_jsonl
from features.store.rejected import REJECTED_FILE, rejection_entry
from features.tuned import ENCODERS_FOLDER, Tuned
from mervn.config import FinetuneOptions
from mervn.end_to_end import EndToEnd, merge_lora
from mervn.init_head import InitHead, take_head
from mervn.live import LiveSplit, Progress, refuse_rejected
from mervn.metrics import compute_metrics
from mervn.model import build_head, pooling_names
from mervn.own_module import fusion_spec, keep_own, loss_spec, own_modules
from mervn.parity import check_parity
from mervn.prediction import predict, prediction_rows
from mervn.prepared import Labelled, Say, read_labelled, refuse_silent, resolved
from mervn.runs import METRICS_FILE, MODEL_FILE, SCHEMA, RunConfig, default_folder, locked, prepare, write_json
from mervn.streams import SECOND, StreamShape
from mervn.train_head import RunResult, environment, layer_weights
from mervn.training import Report, Saving, Trainer


def finetune(options: FinetuneOptions, data: Path | None, say: Say, progress: Progress, report: Report) -> RunResult:
    """Train encoders and head end to end and select the epoch on valid; epoch 0 is the model as it came in.

    The test split is never read. The same configuration again returns the result that is there, or goes on with what
    was interrupted. Raises UsageError for contradictory options, InputError for data that cannot be used or where live
    features are not those of the run that `--init-head` names.
    """
    options, init = take_head(options)
    if options.data is None and data is None:
        raise UsageError("finetune needs --data DIR or --init-head RUN")
    options = options.model_copy(update={"data": options.data or data})
    folder = Path(str(options.data))
    pooling_names(options.fusion, options.pooling)  # refuses what does not fit before any work
    loss_spec(options.loss)
    device = resolve_device(options.device)
    options = resolved(options)
    labelled = read_labelled(options, folder)
    encoders = _load_encoders(options, init)
    splits = {
        name: LiveSplit(name, rows, labelled.labels, encoders, options.workers, progress)
        for name, rows in labelled.utterances.items()
    }
    refuse_rejected(splits, options.allow_missing)
    refuse_silent(splits, options.fusion)
    for name, encoder in encoders.items():
        if encoder.tuned is not None:
            valid = splits["valid"]
            encoder.tuned.refuse_seen(zip(valid.utterances, valid.input_sha256(name), strict=True))
    config = _configuration(options, folder, labelled, encoders, splits, init)
    run = options.output or default_folder(config, {name: encoder.name for name, encoder in encoders.items()})
    with locked(run):
        if prepare(run, config, options.force):
            say(f"complete already: {run} (--force trains again)")
            return RunResult(run, json.loads((run / METRICS_FILE).read_text("utf-8")), trained=False)
        write_jsonl(run / REJECTED_FILE, [rejection_entry(r) for split in splits.values() for r in split.rejected])
        options = keep_own(run, options, config.inputs.get("modules", {}))
        for name, encoder in encoders.items():
            encoder.save(run / ENCODERS_FOLDER / name)  # the blocks that are cut below are kept
            encoder.drop_unused()
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            metrics = _train(run, options, config, labelled, encoders, splits, init, device, say, report)
    return RunResult(run, metrics, trained=True)


def _selectors(options: FinetuneOptions) -> dict[str, Selector]:
    """Return the encoder of each stream that the fusion reads; without any flag the defaults of `extract`."""
    wanted = fusion_spec(options.fusion).streams
    given = {"audio": options.audio_encoder, "text": options.text_encoder}
    if not any(given.values()):
        given = dict(DEFAULT_ENCODERS)
    found: dict[str, Selector] = {}
    for modality, text in given.items():
        if modality not in wanted:
            continue
        if text is None:
            raise UsageError(f"--fusion {options.fusion} reads {modality} too: give --{modality}-encoder")
        selectors = parse_selectors(text, modality)
        found |= dict(zip((modality, SECOND), selectors, strict=False))
    EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode).check(list(found.values()))
    return found


def _load_encoders(options: FinetuneOptions, init: InitHead | None) -> dict[str, Encoder]:
    """Load the encoders with every block of theirs; InputError for one that knows utterances of valid."""
    if init is not None:
        return {name: load_whole(selector, init.settings(name)) for name, selector in init.selectors.items()}
    settings = EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode)
    return {name: load_whole(selector, settings) for name, selector in _selectors(options).items()}


def shapes_of(encoders: Mapping[str, Encoder]) -> dict[str, StreamShape]:
    """Return what a head must know of the encoders' features."""
    found = {}
    for name, encoder in encoders.items():
        spec = ENCODERS[encoder.modality][encoder.name]
        found[name] = StreamShape(encoder.dim, tuple(map(str, encoder.layers)), spec.stride, spec.centre)
    return found


def _configuration(
    options: FinetuneOptions,
    data: Path,
    labelled: Labelled,
    encoders: Mapping[str, Encoder],
    splits: Mapping[str, LiveSplit],
    init: InitHead | None,
) -> RunConfig:
    """Return what a run of these options is."""
    known = json.loads(options.model_dump_json())
    for key in ("features_dir", "audio_root", "init_head", "fold_file"):
        known[key] = str(Path(known[key]).resolve()) if known[key] else None
    own = own_modules(options)
    known |= {role: f"{module.path.resolve()}:{module.name}" for role, module in own.items()}
    known |= {"data": str(data.resolve()), "output": None}
    for name in ("audio_encoder", "text_encoder", "segmenter", "tone_style", "whisper_mode"):
        known[name] = known[name] and str(known[name])
    inputs: dict[str, Any] = {
        **labelled.sources,
        "encoders": {
            name: {"name": e.name, "weights_sha256": e.weights_sha256, "config": e.config, "layers": list(e.layers)}
            for name, e in encoders.items()
        },
        "features": {name: split.inputs_sha256 for name, split in splits.items()},
        "head": init.config.hash if init is not None else None,
    }
    if own:
        inputs["modules"] = {role: module.as_json() for role, module in own.items()}
    return RunConfig(
        "finetune", known, labelled.labels, inputs, {n: s.as_json() for n, s in shapes_of(encoders).items()}
    )


def _train(
    run: Path,
    options: FinetuneOptions,
    config: RunConfig,
    labelled: Labelled,
    encoders: Mapping[str, Encoder],
    splits: Mapping[str, LiveSplit],
    init: InitHead | None,
    device: torch.device,
    say: Say,
    report: Report,
) -> dict[str, Any]:
    """Train and write the run; metrics.json comes last, for its existence means complete."""
    started = time.perf_counter()
    shapes = shapes_of(encoders)
    head = build_head(options, shapes, len(labelled.labels))
    if init is not None:
        head.load_state_dict(init.head.state_dict())
    model = EndToEnd(encoders, head).to(device)
    parity = check_parity(model, init.streams, splits, device, say) if init is not None else None
    model.choose(options)
    _announce(model, splits["train"], say)
    count = model.count()  # before adapters are merged
    trainer = Trainer(head, splits["train"], splits["valid"], labelled.labels, options, device, whole=model)
    saving = Saving(options.checkpoint_every, options.checkpoint_steps, options.keep_checkpoints)
    trainer.fit(run, saving, [report])
    if trainer.best.weights is None:
        raise InputError("no epoch was scored")
    trainer.load_weights(trainer.best.weights)
    merge_lora(model)
    valid = splits["valid"]
    probabilities = predict(model, valid, device)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "labels": labelled.labels,
        "selected_epoch": trainer.best.epoch,
        "missing": {name: len(split.missing) for name, split in splits.items()},
        "dropped": labelled.dropped,
        "features": {name: encoder.weights_note for name, encoder in encoders.items()},
        "layer_weights": layer_weights(head, shapes),
        "valid": {"missing": len(valid.missing), **compute_metrics(valid.targets, probabilities, labelled.labels)},
    }
    _save_model(run, model.cpu(), splits["train"], options)
    write_jsonl(run / "predictions-valid.jsonl", prediction_rows(valid, probabilities, labelled.labels))
    cost = {"peak_memory_gb": peak_memory_gb(device), "parity": parity.as_json() if parity else None,
            "parameter_counts": count}  # fmt: skip
    seconds = time.perf_counter() - started
    write_json(run / "environment.json", environment(config, {}, device, model, seconds, trainer.next_epoch) | cost)
    write_json(run / METRICS_FILE, metrics)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return metrics


def _announce(model: EndToEnd, train: LiveSplit, say: Say) -> None:
    """Print what is trained, and of how much audio."""
    count = model.count()
    for name, some in model.tuned.items():
        if not some:
            say(f"{name}: {model.encoder(name).name} stays as it is: nothing of it is chosen for training")
    share = count["encoders_trained"] / max(1, count["encoders"])
    say(
        f"{count['encoders_trained']:,} of the encoders' {count['encoders']:,} parameters are trained ({share:.2%}), "
        f"with {count['head']:,} of the head; {train.audio_seconds.sum() / 3600:.2f} h of audio an epoch"
    )


def _save_model(run: Path, model: EndToEnd, train: LiveSplit, options: FinetuneOptions) -> None:
    """Write the head as any run does, and each encoder as a checkpoint that says what it learned from."""
    save_file({name: tensor.contiguous() for name, tensor in model.head.state_dict().items()}, run / MODEL_FILE)
    for name in model.encoders:
        encoder, folder = model.encoder(name), run / ENCODERS_FOLDER / name
        seen = {u.utterance_id: s for u, s in zip(train.utterances, train.input_sha256(name), strict=True)}
        before = dict(encoder.tuned.seen) if encoder.tuned is not None else {}
        seen = before | seen if model.tuned[name] else before
        encoder.save(folder)
        settings = EncoderSettings(
            _setting(encoder.config, "segmenter"), _setting(encoder.config, "tone_style"), _mode(encoder)
        )
        Tuned(folder, run.name, encoder.name, encoder.layers, settings, encoder.modality, seen).save(folder)


def _setting(config: Mapping[str, Any], key: str) -> str | None:
    found = config.get(key)
    return str(found).split(" ")[0] if found else None


def _mode(encoder: Encoder) -> str | None:
    return str(encoder.config["mode"]) if encoder.name == "whisper" else None


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory this process had: on a GPU torch's, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
