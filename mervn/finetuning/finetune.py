"""`finetune`: encoders and head trained together, from waveforms and transcripts to a run."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from features.atomic_files import sync, write_jsonl
from features.command_lines import recorded_settings
from features.encoders import DEFAULT_ENCODERS, ENCODERS
from features.encoders.base import Encoder, load_all_blocks
from features.encoders.finetuned import ENCODERS_FOLDER, FineTuning
from features.encoders.selector import EncoderSettings, Selector, parse_selectors
from features.errors import UsageError
from features.progress import Progress, Say, no_bar
from features.store.rejected import REJECTED_FILE, rejection_entry
from features.torch_seed import seeded
from mervn.config import FinetuneOptions
from mervn.data.streams import SECOND, StreamShape
from mervn.data.waveform_split import LiveSplit, refuse_rejected, warn_segmented
from mervn.distributed import World, joined
from mervn.finetuning.init_head import InitHead, take_head
from mervn.finetuning.store_parity import check_parity
from mervn.model.custom_module import fusion_spec, keep_own, own_modules
from mervn.model.end_to_end import EndToEnd, merge_lora
from mervn.model.head import build_head, pooling_names
from mervn.run_folder import RunConfig, default_folder, locked, prepare, read_metrics
from mervn.training.optimization import deterministic
from mervn.training.results import RunResult, environment, fit_best, score, write_outcome, write_weights
from mervn.training.setup import Labelled, read_labelled, refuse_silent, resolved
from mervn.training.tensorboard import require_tensorboard, write_history
from mervn.training.trainer import Report, Trainer
from mervn.unread_options import refuse_unread, unread_options


@dataclass(frozen=True)
class Job:
    """What is known before the first step."""

    run: Path
    options: FinetuneOptions
    config: RunConfig
    labelled: Labelled
    encoders: Mapping[str, Encoder]
    splits: Mapping[str, LiveSplit]
    init: InitHead | None
    world: World
    device: torch.device


def finetune(options: FinetuneOptions, data: Path | None, say: Say, progress: Progress, report: Report) -> RunResult:
    """Train encoders and head end to end and select the epoch on valid; epoch 0 is the model as it came in.

    The test split is never read. The same configuration again returns the result that is there, or goes on with what
    was interrupted. Started by `accelerate launch`, several processes share the work; the main one speaks and writes.
    Raises UsageError for contradictory options, InputError for data that cannot be used or where live features are not
    those of the run that `--init-head` names.
    """
    given = options.given
    options, init = take_head(options)
    if options.data is None and data is None:
        raise UsageError("finetune needs --data DIR or --init-head RUN")
    options = options.model_copy(update={"data": options.data or data})
    pooling_names(options.fusion, options.pooling)  # refuses what does not fit before any work
    refuse_unread(options, given)
    if options.tensorboard:
        require_tensorboard()
    with joined(options.device) as (world, device), ExitStack() as stack:
        if not world.is_main:
            say, progress, report = _silent, no_bar, _silent
        job = _read(resolved(options), init, world, device, progress)
        world.on_main(lambda: stack.enter_context(locked(job.run)))
        if world.on_main(lambda: prepare(job.run, job.config, options.force)):
            say(f"complete already: {job.run} (--force trains again)")
            if options.tensorboard and world.is_main:
                write_history(job.run, say)
            metrics = read_metrics(job.run)
            return RunResult(job.run, metrics, trained=False, is_main=world.is_main)
        job = replace(job, options=world.on_main(lambda: _begin(job)))
        for encoder in job.encoders.values():
            encoder.drop_unused_blocks()
        with seeded(device, options.seed), deterministic(options.deterministic):
            metrics = _train(job, say, progress, report)
    return RunResult(job.run, metrics, trained=True, is_main=world.is_main)


def _silent(_: Any) -> None:
    """Say nothing."""


def _read(
    options: FinetuneOptions, init: InitHead | None, world: World, device: torch.device, progress: Progress
) -> Job:
    """Read the manifests, load the encoders, decode everything once, and refuse what cannot be trained on."""
    data = Path(str(options.data))
    labelled = read_labelled(options, data)
    encoders = _load_encoders(options, init)
    splits = {
        name: LiveSplit(name, rows, labelled.labels, encoders, options.workers, progress, world)
        for name, rows in labelled.utterances.items()
    }
    refuse_rejected(splits, options.allow_missing)
    refuse_silent(splits, options.fusion)
    if world.is_main:
        warn_segmented(splits, encoders)
    valid = splits["valid"]
    for name, encoder in encoders.items():
        if encoder.fine_tuning is not None:
            encoder.fine_tuning.refuse_training_utterances(zip(valid.utterances, valid.input_sha256(name), strict=True))
    config = _configuration(options, data, labelled, encoders, splits, init)
    run = options.output or default_folder(config, {name: encoder.name for name, encoder in encoders.items()})
    return Job(run, options, config, labelled, encoders, splits, init, world, device)


def _begin(job: Job) -> FinetuneOptions:
    """Write what a run holds before it is trained; return options that name the run's copies of a user's own code."""
    rejected = [rejection_entry(rejection) for split in job.splits.values() for rejection in split.rejected]
    write_jsonl(job.run / REJECTED_FILE, rejected)
    for name, encoder in job.encoders.items():
        folder = job.run / ENCODERS_FOLDER / name
        _tuned(folder, encoder, _seen(encoder, name, job.splits["train"]), final=False).save(folder)
        encoder.save(folder)  # with the blocks that are cut before the training
    return keep_own(job.run, job.options, job.config.inputs.get("modules", {}))


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
        return {name: load_all_blocks(selector, init.settings(name)) for name, selector in init.selectors.items()}
    settings = EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode)
    return {name: load_all_blocks(selector, settings) for name, selector in _selectors(options).items()}


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
    known = json.loads(options.model_dump_json(exclude={*unread_options(options), "trust_code"}))
    for key in known.keys() & {"features_dir", "audio_root", "init_head", "fold_file"}:
        known[key] = str(Path(known[key]).resolve()) if known[key] else None
    own = own_modules(options)
    known |= {role: f"{module.path.resolve()}:{module.name}" for role, module in own.items()}
    known |= {"data": str(data.resolve()), "output": None}
    for name in ("audio_encoder", "text_encoder", "segmenter", "tone_style", "whisper_mode"):
        if name in known:
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
    shapes = {name: shape.as_json() for name, shape in shapes_of(encoders).items()}
    models = {name: encoder.source.as_json() for name, encoder in encoders.items()}
    return RunConfig("finetune", known, labelled.labels, inputs, shapes, models)


def _train(job: Job, say: Say, progress: Progress, report: Report) -> dict[str, Any]:
    """Train and write the run."""
    started = time.perf_counter()
    options, world, splits, labels = job.options, job.world, job.splits, job.labelled.labels
    shapes = shapes_of(job.encoders)
    head = build_head(options, shapes, len(labels))
    if job.init is not None:
        head.load_state_dict(job.init.head.state_dict())
    model = EndToEnd(job.encoders, head).to(job.device)
    parity = check_parity(model, job.init.streams, splits, job.device, say) if job.init is not None else None
    model.choose(options)
    _announce(model, splits["train"], world, say)
    count = model.count()  # before adapters are merged
    world.begin(model, options.seed)
    trainer = Trainer(
        head, splits["train"], splits["valid"], labels, options, job.device, whole=model, world=world, progress=progress
    )
    fit_best(trainer, job.run, options, report)
    merge_lora(model)
    notes = {name: encoder.weights_note for name, encoder in job.encoders.items()}
    found = score(trainer, shapes, notes, job.labelled.dropped, progress)
    peaks = world.gather(peak_memory_gb(job.device))
    say(f"peak memory {max(peaks):.2f} GB" + (" of a process" if world.size > 1 else ""))
    seconds = time.perf_counter() - started
    cost = {"peak_memory_gb": max(peaks), "parity": parity.as_json() if parity else None, "parameter_counts": count}

    def write() -> None:
        _save_model(job.run, model.cpu(), splits["train"])
        write_outcome(job.run, trainer, found, environment(job.config, trainer, {}, seconds) | cost)

    world.on_main(write)
    return found.metrics


def _announce(model: EndToEnd, train: LiveSplit, world: World, say: Say) -> None:
    """Print what is trained, and of how much audio."""
    count = model.count()
    for name, some in model.tuned.items():
        if not some:
            say(f"{name}: {model.encoder(name).name} stays as it is: nothing of it is chosen for training")
    share = count["encoders_trained"] / max(1, count["encoders"])
    say(
        f"{count['encoders_trained']:,} of the encoders' {count['encoders']:,} parameters are trained ({share:.2%}), "
        f"with {count['head']:,} of the head; {train.audio_seconds.sum() / 3600:.2f} h of audio an epoch"
        + (f", shared by {world.size} processes" if world.size > 1 else "")
    )


def _save_model(run: Path, model: EndToEnd, train: LiveSplit) -> None:
    """Write the head as any run does, and each encoder as a checkpoint that says what it learned from.

    Since `_begin` each checkpoint is marked incomplete; the mark goes once the final weights are on disk.
    """
    write_weights(run, model.head)
    for name in model.encoders:
        encoder, folder = model.encoder(name), run / ENCODERS_FOLDER / name
        encoder.save(folder)
        sync(folder)
        seen = _seen(encoder, name, train) if model.tuned[name] else _seen(encoder, name, None)
        _tuned(folder, encoder, seen, final=True).save(folder)


def _seen(encoder: Encoder, name: str, train: LiveSplit | None) -> dict[str, str]:
    """Return what an encoder learned from before, and with `train` what it learns from in this run."""
    before = dict(encoder.fine_tuning.seen) if encoder.fine_tuning is not None else {}
    if train is None:
        return before
    return before | {u.utterance_id: s for u, s in zip(train.utterances, train.input_sha256(name), strict=True)}


def _tuned(folder: Path, encoder: Encoder, seen: Mapping[str, str], final: bool) -> FineTuning:
    settings = recorded_settings(encoder.config)
    run = folder.parent.parent.name
    return FineTuning(folder, run, encoder.name, encoder.layers, settings, encoder.modality, seen, final)


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory this process had: on a GPU torch's, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
