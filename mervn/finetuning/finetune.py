"""`finetune`: train encoders and head end to end on waveforms and transcripts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from features.atomic_files import sync, write_jsonl
from features.command_lines import features_folder, recorded_settings
from features.encoders import DEFAULT_ENCODERS
from features.encoders.base import Encoder, load_all_blocks
from features.encoders.finetuned import ENCODERS_FOLDER, FineTuning
from features.encoders.selector import EncoderSettings, Selector
from features.errors import UsageError
from features.progress import SILENT, Reporter
from features.store.index import encoder_selectors
from features.store.rejected import REJECTED_FILE
from features.torch_seed import seeded
from mervn.config import FinetuneOptions
from mervn.data.augmentation import SpecAugment
from mervn.data.data_check import check_training_data
from mervn.data.saved_check import save_check
from mervn.data.streams import SECOND
from mervn.data.waveform_split import WaveformSplit, refuse_rejected, warn_segmented
from mervn.distributed import Processes, joined
from mervn.finetuning.init_head import InitHead, refuse_custom, take_head
from mervn.finetuning.store_parity import check_parity
from mervn.model.custom_module import copy_modules, read_modules
from mervn.model.end_to_end import EndToEnd, merge_lora, shapes_of
from mervn.model.head import build_head
from mervn.run_folder import RunConfig, RunMetrics, default_folder, locked, prepare, read_metrics
from mervn.training.optimization import deterministic
from mervn.training.results import (
    RunResult,
    environment,
    fit_best,
    layer_weights,
    peak_memory_gb,
    score_best,
    write_results,
    write_weights,
)
from mervn.training.setup import (
    LabelledData,
    Resolved,
    read_labelled,
    recorded_modules,
    recorded_options,
    refuse_empty_stream,
    resolve,
)
from mervn.training.tensorboard import require_tensorboard, write_history
from mervn.training.trainer import Trainer, TrainingData


@dataclass(frozen=True)
class Job:
    """Everything that fine-tuning needs before its first step."""

    run: Path
    resolved: Resolved[FinetuneOptions]
    config: RunConfig
    labelled: LabelledData
    encoders: Mapping[str, Encoder]
    splits: Mapping[str, WaveformSplit]
    init: InitHead | None
    processes: Processes

    @property
    def options(self) -> FinetuneOptions:
        """The resolved options."""
        return self.resolved.options


def finetune(options: FinetuneOptions, data: Path | None, reporter: Reporter = SILENT) -> RunResult:
    """Train encoders and head end to end, and keep the epoch with the best scores on valid.

    Epoch 0 is the model before training. The test split is never read. Calling it again with the
    same configuration returns the existing result, or resumes an interrupted run. Started by
    `accelerate launch`, several processes divide the work; rank 0 prints and writes. Raises
    UsageError for contradictory options, InputError for data that cannot be used, or for live
    features that differ from those of the run that `--init-head` names.
    """
    given = options.given
    options, init = take_head(options)
    if options.data is None and data is None:
        raise UsageError("finetune needs --data DIR or --init-head RUN")
    options = options.model_copy(update={"data": options.data or data})
    if options.tensorboard:
        require_tensorboard()
    with joined(options.device) as (processes, device), ExitStack() as stack:
        reporter = reporter if processes.is_main_process else SILENT
        # all processes run the code that the main process read
        custom = init.custom if init is not None else processes.on_main_process(lambda: read_modules(options))
        job = _read(resolve(options, device, given, custom), init, processes, reporter)
        # Only the main process locks and writes the folder. The others wait for it.
        processes.on_main_process(lambda: stack.enter_context(locked(job.run)))
        if processes.on_main_process(lambda: prepare(job.run, job.config, options.force)):
            reporter.say(f"complete already: {job.run} (--force trains again)")
            if options.tensorboard and processes.is_main_process:
                write_history(job.run, reporter)
            return RunResult(job.run, read_metrics(job.run), trained=False, is_main_process=processes.is_main_process)
        processes.on_main_process(lambda: _begin(job, reporter))
        for encoder in job.encoders.values():
            encoder.drop_unused_blocks()
        with seeded(device, options.seed), deterministic(options.deterministic):
            metrics = _train(job, reporter)
    return RunResult(job.run, metrics, trained=True, is_main_process=processes.is_main_process)


def _read(resolved: Resolved[FinetuneOptions], init: InitHead | None, processes: Processes, reporter: Reporter) -> Job:
    """Read manifests, load encoders, decode all audio once, and check that it can be trained on."""
    options = resolved.options
    labelled = read_labelled(options, Path(str(options.data)), reporter)
    encoders = _load_encoders(resolved, init)
    splits = {}
    for name, utterances in labelled.utterances.items():
        splits[name] = WaveformSplit(name, utterances, labelled.labels, encoders, options.workers, reporter, processes)
    refuse_rejected(splits, options.allow_missing)
    refuse_empty_stream(splits, options.fusion)
    if processes.is_main_process:
        warn_segmented(splits, encoders)
    valid = splits["valid"]
    for name, encoder in encoders.items():
        if encoder.fine_tuning is not None:
            encoder.fine_tuning.refuse_training_utterances(
                zip(valid.utterances, valid.stream_sha256(name), strict=True)
            )
    config = _configuration(resolved, labelled, encoders, splits, init)
    run = options.output or default_folder(config, {name: encoder.name for name, encoder in encoders.items()})
    return Job(run, resolved, config, labelled, encoders, splits, init, processes)


def _begin(job: Job, reporter: Reporter) -> None:
    """Check the data and write a run's files before training."""
    data, options = job.labelled.utterances, job.options
    save_check(job.run, check_training_data(data, Path(str(options.data)), options.features_dir, reporter))
    rejections = chain.from_iterable(split.rejected for split in job.splits.values())
    write_jsonl(job.run / REJECTED_FILE, [rejection.entry.as_json() for rejection in rejections])
    for name, encoder in job.encoders.items():
        folder = job.run / ENCODERS_FOLDER / name
        _record(folder, encoder, _seen(encoder, name, job.splits["train"]), final=False).save(folder)
        encoder.save(folder)  # all blocks, before unused ones are dropped
    copy_modules(job.run, job.resolved.custom_modules)


def _selectors(resolved: Resolved[FinetuneOptions]) -> dict[str, Selector]:
    """Return the encoder of each stream that the fusion reads; by default those of `extract`."""
    options, wanted = resolved.options, resolved.fusion.streams
    folder = features_folder(options.features_dir, options.data or Path("data"))
    given = {"audio": options.audio_encoder, "text": options.text_encoder}
    if not any(given.values()):
        given = dict(DEFAULT_ENCODERS)
    by_stream: dict[str, Selector] = {}
    for modality, text in given.items():
        if modality not in wanted:
            continue
        if text is None:
            raise UsageError(f"--fusion {options.fusion} also reads {modality}: give --{modality}-encoder")
        selectors = encoder_selectors(text, modality, folder, "finetune trains encoders")
        by_stream |= dict(zip((modality, SECOND), selectors, strict=False))
    EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode).check(list(by_stream.values()))
    return by_stream


def _load_encoders(resolved: Resolved[FinetuneOptions], init: InitHead | None) -> dict[str, Encoder]:
    """Load the encoders with all of their blocks."""
    options = resolved.options
    settings = EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode)
    selectors = init.selectors if init is not None else _selectors(resolved)
    encoders = {}
    for name, selector in selectors.items():
        encoders[name] = load_all_blocks(refuse_custom(selector), init.settings(name) if init is not None else settings)
    return encoders


def _configuration(
    resolved: Resolved[FinetuneOptions],
    labelled: LabelledData,
    encoders: Mapping[str, Encoder],
    splits: Mapping[str, WaveformSplit],
    init: InitHead | None,
) -> RunConfig:
    """Return the configuration of a run of `finetune`."""
    paths = {"features_dir", "audio_root", "init_head", "fold_file"}
    recorded = recorded_options(resolved, paths, {"trust_code"})
    recorded["data"] = str(Path(str(resolved.options.data)).resolve())
    recorded["fold_file"] = str(labelled.fold_file.resolve()) if labelled.fold_file else None
    for name in ("audio_encoder", "text_encoder", "segmenter", "tone_style", "whisper_mode"):
        if recorded.get(name):
            recorded[name] = str(recorded[name])
    identities, models = {}, {}
    for name, encoder in encoders.items():
        identities[name] = {
            "name": encoder.name,
            "weights_sha256": encoder.weights_sha256,
            "config": encoder.config,
            "layers": list(encoder.layers),
        }
        models[name] = encoder.source.as_json()
    inputs: dict[str, Any] = {
        **labelled.sources,
        "encoders": identities,
        "features": {name: split.inputs_sha256 for name, split in splits.items()},
        "head": init.config.hash if init is not None else None,
        **recorded_modules(resolved),
    }
    shapes = {name: shape.as_json() for name, shape in shapes_of(encoders).items()}
    return RunConfig("finetune", recorded, labelled.labels, inputs, shapes, models)


def _train(job: Job, reporter: Reporter) -> RunMetrics:
    """Train and write the run; return the content of metrics.json."""
    started = time.perf_counter()
    options, processes, device, splits = job.options, job.processes, job.resolved.device, job.splits
    shapes = shapes_of(job.encoders)
    head = build_head(options, shapes, len(job.labelled.labels), job.resolved.modules)
    if job.init is not None:
        head.load_state_dict(job.init.head.state_dict())
    model = EndToEnd(job.encoders, head).to(device)
    parity = check_parity(model, job.init.streams, splits, device, reporter) if job.init is not None else None
    model.choose_trained(options)  # after the parity check: adapters change the modules
    _report_trained(model, splits["train"], processes, reporter)
    counts = model.count()  # before adapters are merged
    processes.broadcast_weights(model, options.seed)
    data = TrainingData(splits["train"], splits["valid"], job.labelled.labels)
    masks = SpecAugment(options.spec_time, options.spec_frequency)
    trainer = Trainer(model, data, job.resolved, spec_augment=masks, processes=processes, reporter=reporter)
    fit_best(trainer, job.run, options)
    merge_lora(model)  # scores below are of the merged weights, as they are saved
    origins = {name: encoder.weights_note for name, encoder in job.encoders.items()}
    scores = score_best(trainer, origins, layer_weights(head, shapes), job.labelled.dropped)
    peak = max(processes.gather(peak_memory_gb(device)))
    reporter.say(f"peak memory {peak:.2f} GB" + (" per process" if processes.num_processes > 1 else ""))
    seconds = time.perf_counter() - started

    def write() -> None:
        _save_model(job.run, model.cpu(), splits["train"])
        found = environment(job.config, trainer, {}, seconds)
        found["peak_memory_gb"], found["parameter_counts"] = peak, counts
        found["parity"] = asdict(parity) if parity else None
        write_results(job.run, trainer, scores, found)

    processes.on_main_process(write)
    return scores.metrics


def _report_trained(model: EndToEnd, train: WaveformSplit, processes: Processes, reporter: Reporter) -> None:
    """Report the number of trained parameters and the hours of audio."""
    counts = model.count()
    for name, parameters in model.tuned.items():
        if not parameters:
            reporter.say(f"{name}: {model.encoder(name).name} stays frozen, because none of its parameters is trained")
    fraction = counts["encoders_trained"] / max(1, counts["encoders"])
    hours, several = train.audio_seconds.sum() / 3600, processes.num_processes > 1
    reporter.say(
        f"{counts['encoders_trained']:,} of the encoders' {counts['encoders']:,} parameters are "
        f"trained ({fraction:.2%}), with {counts['head']:,} of the head; {hours:.2f} h of audio per "
        "epoch" + (f", divided among {processes.num_processes} processes" if several else "")
    )


def _save_model(run: Path, model: EndToEnd, train: WaveformSplit) -> None:
    """Write the weights of the head, and a checkpoint of each encoder.

    Each checkpoint has a record of its training utterances, in which `_begin` marked it as not
    final. The record is marked as final only when the final weights are on disk.
    """
    write_weights(run, model.head)
    for name in model.encoders:
        encoder, folder = model.encoder(name), run / ENCODERS_FOLDER / name
        encoder.save(folder)
        sync(folder)
        seen = _seen(encoder, name, train if model.tuned[name] else None)  # a frozen one learned nothing here
        _record(folder, encoder, seen, final=True).save(folder)


def _seen(encoder: Encoder, name: str, train: WaveformSplit | None) -> dict[str, str]:
    """Return input hashes, by id, of utterances that an encoder has seen, including `train`."""
    seen = dict(encoder.fine_tuning.seen) if encoder.fine_tuning is not None else {}
    if train is not None:
        for utterance, sha256 in zip(train.utterances, train.stream_sha256(name), strict=True):
            seen[utterance.utterance_id] = sha256
    return seen


def _record(folder: Path, encoder: Encoder, seen: Mapping[str, str], final: bool) -> FineTuning:
    """Return the record of fine-tuning that is saved beside an encoder's weights."""
    settings, run = recorded_settings(encoder.config), folder.parent.parent.name
    return FineTuning(folder, run, encoder.name, encoder.layers, settings, encoder.modality, seen, final)
