"""Loading of a run together with the split that it is scored on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from features.canonical import canonical_json
from features.device import resolve_device
from features.errors import InputError, UsageError
from features.manifests.folds import read_fold
from features.manifests.manifest import Utterance, read_manifests
from features.progress import Reporter, WithoutBars
from mervn.config import EvaluateOptions, LabelOptions
from mervn.data.corrupted import CorruptedText, Corruption, TextReader, corrupt, refuse_corruption
from mervn.data.labels import apply_labels, task_label
from mervn.data.live_text import encode_transcripts, prepare_transcripts
from mervn.data.split import Split
from mervn.data.stored_sequences import Sequences
from mervn.data.stored_split import load_split
from mervn.data.streams import modality_of
from mervn.data.waveform_split import WaveformSplit, refuse_rejected
from mervn.data.withheld import WithheldModality, refuse_withholding
from mervn.evaluation.ledger import Look
from mervn.evaluation.own_data import folds_of, refuse_seen, trained_ids, with_own_data
from mervn.model.end_to_end import EndToEnd
from mervn.model.saved_run import data_and_streams, load_head, load_tuned
from mervn.model.trainable import Trainable
from mervn.run_folder import MODEL_FILE, RunConfig, options_of, read_config, read_metrics


@dataclass(frozen=True)
class LoadedModel:
    """A model with its input: stored features, or audio and transcripts."""

    model: Trainable
    split: Split
    reporter: Reporter
    """Shows progress bars only if scoring takes long."""
    sequences: Sequence[Sequences] = ()
    """Stored features that can be loaded into memory before scoring."""
    encoder_hashes: Mapping[str, str] = field(default_factory=dict)
    """weights_sha256 of the encoders that were trained with the head, by stream."""
    read_text: TextReader | None = None
    """Reads other transcripts than those of the split; None if no stream is text."""


@dataclass(frozen=True)
class OpenedRun:
    """A loaded run that is ready to be scored on a split; nothing is scored yet."""

    run: Path
    config: RunConfig
    data: Path
    loaded: LoadedModel
    device: torch.device
    sources: Mapping[str, Any]
    """Hash of the manifest, or number of the fold and hash of its file, for metrics-<split>.json."""
    dropped: Mapping[str, Mapping[str, int]]
    """By split, the number of utterances that --drop-label leaves out, by label."""
    look: Look
    """The entry of the ledger if the split is test."""
    is_own: bool
    """Whether the inputs, before a change of them, are those of the run's own split."""
    original: Split
    """The split before a change of its inputs."""
    model_sha256: str
    """Hash of model.safetensors, which the results record."""
    is_trained: bool = True
    """Whether model.safetensors is what the training wrote, as far as it is recorded."""
    change: str | None = None
    """The change of the inputs, such as without-text or corrupt-tones."""
    without: str | None = None
    """The modality that is withheld, `text` or `audio`."""
    corruption: Corruption | None = None
    """The corrupted transcripts."""

    @property
    def split(self) -> Split:
        """The split that the run is scored on."""
        return self.loaded.split

    @property
    def results_name(self) -> str:
        """The split, 8 digits of the inputs' hash if they are not the run's own, and the change."""
        return results_name(self.split.name, self.is_own, self.look, self.change)


def results_name(split: str, is_own: bool, look: Look, change: str | None) -> str:
    """Return what follows `metrics-` and `predictions-` in the names of files of results."""
    name = split if is_own else f"{split}-{look.inputs_sha256[:8]}"
    return name if change is None else f"{name}-{change}"


def open_run(run: Path, options: EvaluateOptions, reporter: Reporter) -> OpenedRun:
    """Load a run and the split of `options`.

    Raises UsageError if the folder is not a run, does not read the withheld modality and another
    one, or reads no text to corrupt. Raises InputError if the run is incomplete or the features that it
    was trained on are missing.
    """
    config = read_config(run)
    if options.without is not None:
        refuse_withholding(run, config.streams, options.without)
    if options.corrupt is not None:
        refuse_corruption(run, config.streams, options.corrupt)
    device = resolve_device(options.device, float64=True)
    options = with_own_data(config, options)
    data = options.data or Path(config.options["data"])
    label_options = options_of(run, config.options, LabelOptions)
    utterances, sources, manifests = _read(config, options, data, task_label(label_options), reporter)
    refuse_seen(run, config, options, utterances, reporter)
    labelled = apply_labels({options.split: utterances}, label_options, require_all=False)
    loaded = _load(run, config, options, labelled.utterances[options.split], reporter)
    is_own = _is_own(config, options.data is None, manifests, loaded.split)
    original, corruption = loaded.split, None
    if options.without is not None:
        loaded = replace(loaded, split=WithheldModality(original, options.without))
    elif options.corrupt is not None and loaded.read_text is not None:
        corruption = corrupt(original.utterances, options.corrupt)
        text = loaded.read_text(corruption.utterances, device)
        loaded = replace(loaded, split=CorruptedText(original, corruption, text))
    # a score of changed inputs says something new about the split, so it is another look
    model_sha256 = hashlib.sha256((run / MODEL_FILE).read_bytes()).hexdigest()
    is_trained = read_metrics(run).get("trained_model_sha256", model_sha256) == model_sha256
    if not is_trained:
        reporter.say(f"warning: {run / MODEL_FILE} is not what the training wrote: these are scores of other weights")
    look = Look(config.hash, _weights_sha256(run, loaded), _inputs_sha256(sources, loaded.split))
    return OpenedRun(
        run, config, data, loaded, device, sources, labelled.dropped, look, is_own, original, model_sha256, is_trained,
        options.change, options.without, corruption,
    )  # fmt: skip


def _load(
    run: Path, config: RunConfig, options: EvaluateOptions, utterances: Sequence[Utterance], reporter: Reporter
) -> LoadedModel:
    """Load the model of a run and open its input."""
    if config.command == "finetune":
        return _load_finetuned(run, config, options, utterances, reporter)
    head = load_head(run, config, options.trust_code)
    _, streams = data_and_streams(config, options)
    split = load_split(
        options.split, utterances, streams, config.labels,
        allow_missing=options.allow_missing, verify_inputs=options.verify_inputs, reporter=reporter,
    )  # fmt: skip
    kept = [layers for name, layers in split.streams.items() if modality_of(name) != options.without]
    read_text = None
    if "text" in streams:
        read_text = partial(encode_transcripts, streams["text"], trust_code=options.trust_code)
    return LoadedModel(head, split, WithoutBars(reporter), list(chain.from_iterable(kept)), read_text=read_text)


def _load_finetuned(
    run: Path, config: RunConfig, options: EvaluateOptions, utterances: Sequence[Utterance], reporter: Reporter
) -> LoadedModel:
    """Load the head and encoders of a run of `finetune`, and read the audio of the split."""
    head = load_head(run, config, options.trust_code)
    unread = []
    for name in ("features_dir", "memory_gb", "verify_inputs"):
        if name in options.given and getattr(options, name):
            unread.append(f"--{name.replace('_', '-')}")
    if unread:
        raise UsageError(f"{run} reads audio and transcripts, not stores; leave out {' and '.join(unread)}")
    encoders = {}
    for name, entry in config.inputs["encoders"].items():
        encoders[name] = load_tuned(run, name, str(entry.get("name")))
    workers = config.options["workers"]
    split = WaveformSplit(options.split, utterances, config.labels, encoders, workers, reporter)
    refuse_rejected({options.split: split}, options.allow_missing)
    own = trained_ids(run, config, options, reporter) if options.data is None else frozenset()
    for name, encoder in encoders.items():
        # the run's own manifests separate its splits, but the encoder may have been fine-tuned before, on other splits
        if encoder.fine_tuning is not None and own is not None:
            encoder.fine_tuning.without(own).refuse_training_utterances(
                zip(split.utterances, split.stream_sha256(name), strict=True)
            )
    hashes = {name: encoder.weights_sha256 for name, encoder in encoders.items()}
    read_text = partial(prepare_transcripts, encoders["text"]) if "text" in encoders else None
    return LoadedModel(EndToEnd(encoders, head), split, reporter, encoder_hashes=hashes, read_text=read_text)


def _read(
    config: RunConfig,
    options: EvaluateOptions,
    data: Path,
    label_of: Callable[[str], str | None],
    reporter: Reporter,
) -> tuple[Sequence[Utterance], dict[str, Any], dict[str, str]]:
    """Return the utterances of the split, their sources, and the hashes of the manifests by name.

    The sources are recorded in metrics.json. A run that was trained on a fold is scored
    on that fold of its own data.
    """
    folds, split = folds_of(config, options), options.split
    root = options.audio_root or config.options.get("audio_root")
    audio_root = Path(root) if root else None
    if folds is None:
        read = read_manifests(
            data, (split,), audio_root=audio_root, check_audio=False, task_label=label_of, reporter=reporter
        )
        return read[split], {"manifest_sha256": read.sha256[split]}, read.sha256
    fold = int(config.options["fold"])
    utterances, manifests = read_fold(data, folds, fold, (split,), audio_root, label_of, reporter)
    if not utterances[split]:
        raise InputError(f"{folds.path}: fold {fold} has no {split} utterances")
    # another look, if labels or speakers change: the hashes of the inputs have neither
    read_sha256 = hashlib.sha256(canonical_json(manifests).encode()).hexdigest()
    return utterances[split], {"fold": fold, "folds_sha256": folds.sha256, "manifests_sha256": read_sha256}, manifests


def _weights_sha256(run: Path, loaded: LoadedModel) -> str:
    """Hash the weights of the head, and of the encoders that were trained with it."""
    digest = hashlib.sha256((run / MODEL_FILE).read_bytes())
    for name in sorted(loaded.encoder_hashes):
        digest.update(f"{name}|{loaded.encoder_hashes[name]}".encode())
    return digest.hexdigest()


def _inputs_sha256(sources: Mapping[str, Any], split: Split) -> str:
    """Hash the sources of a split and the features, or audio and transcripts, that were read."""
    return hashlib.sha256(canonical_json({**sources, "read": split.inputs_sha256}).encode()).hexdigest()


def _is_own(config: RunConfig, is_own_data: bool, manifests: Mapping[str, str], split: Split) -> bool:
    """Tell whether a split is the run's own: for train and valid, the one that training read.

    Training did not read test, unless it is made of folds. Its own test split is that of the data of the run, or of a
    copy if training has read all of its manifests.
    """
    recorded, features = config.inputs.get("manifests"), config.inputs.get("features")
    if not isinstance(recorded, dict) or not isinstance(features, dict):
        return False
    # a manifest that training did not read, such as test, has no recorded hash
    if any(recorded.get(name, sha256) != sha256 for name, sha256 in manifests.items()):
        return False
    if split.name == "test":
        return is_own_data or manifests.keys() <= recorded.keys()
    return bool(features.get(split.name) == split.inputs_sha256)
