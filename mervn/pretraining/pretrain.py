"""`mervn pretrain-audio`: self-supervised pretraining of Fourier2Vec on the audio of a manifest.

The result is a checkpoint folder for `--audio-encoder fourier2vec=FOLDER`. Labels and transcripts
are not needed, and the test split is never read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from features.atomic_files import read_object, write_json, write_jsonl
from features.canonical import canonical_json
from features.device import precision_context, resolve_device
from features.encoders.fourier2vec import DEFAULTS, Fourier2Vec
from features.encoders.pretrained import save_native
from features.environment import package_versions
from features.errors import InputError
from features.manifests.manifest import Manifests, Utterance, read_manifests
from features.progress import SILENT, Reporter
from features.store.rejected import REJECTED_FILE, Rejection
from features.torch_seed import seeded
from mervn.config import PretrainOptions
from mervn.pretraining.log_mel_cache import Frames, read_frames
from mervn.pretraining.masked_frames import MIN_MEL, MaskedFrames
from mervn.pretraining.pretrained_audio import files_sha256, refuse_other_audio
from mervn.pretraining.pretrainer import Pretrainer, PretrainScores
from mervn.result_folder import clear, locked, require_same

SCHEMA = 1
PRETRAIN_FILE = "pretrain.json"
SCORES = ("l1", "mean_l1", "ratio")
SPLITS = ("train", "valid")
AUDIO_FILES = "audio_files_sha256"
"""Key of `files_sha256` in pretrain.json; earlier versions wrote none."""


class PretrainOutcome(TypedDict):
    """The `result` of pretrain.json."""

    weights: str
    """Where the weights come from, for people."""
    selected_epoch: int
    epochs: int
    steps: int
    valid: PretrainScores
    """Scores of the best epoch."""
    utterances: dict[str, int]
    """By split, like the following two."""
    hours: dict[str, float]
    audio_sha256: dict[str, str]
    rejected: int


class PretrainDocument(TypedDict):
    """The content of pretrain.json; the last two keys only once there is a result."""

    schema: int
    command: str
    options: dict[str, Any]
    inputs: Mapping[str, Mapping[str, str]]
    versions: NotRequired[dict[str, str]]
    audio_files_sha256: NotRequired[str]
    result: NotRequired[PretrainOutcome]


@dataclass(frozen=True)
class PretrainResult:
    """A pretrained encoder."""

    path: Path
    """Folder of the encoder."""
    result: PretrainOutcome
    """The `result` of pretrain.json, with the scores on the masked frames of valid."""
    trained: bool
    """False if a complete result existed already."""


def pretrain(options: PretrainOptions, data: Path, reporter: Reporter = SILENT) -> PretrainResult:
    """Pretrain Fourier2Vec on train and keep the epoch with the lowest loss on valid.

    With the same configuration, a complete result is returned and an interrupted one is resumed.
    Raises UsageError if the folder holds another configuration, InputError for invalid data.
    """
    device = resolve_device(options.device, float64=True)
    manifests = read_manifests(data, SPLITS, audio_root=options.audio_root, require_emotion=False, reporter=reporter)
    document = _document(options, data, manifests)
    folder = options.output or Path("checkpoints") / f"{data.resolve().name}-fourier2vec-{_hash(document)}"
    with locked(folder, PRETRAIN_FILE, "pretrained encoder"):
        existing = _prepare(folder, document, options.force)
        audio_files = files_sha256(manifests)  # before they are read: they can change meanwhile
        if existing is not None:
            _check_audio(folder, existing, manifests, audio_files, reporter)
            reporter.say(f"complete already: {folder} (--force trains again)")
            return PretrainResult(folder, existing, trained=False)
        with seeded(device, options.seed), precision_context(device, "fp32"):
            model = MaskedFrames(Fourier2Vec(DEFAULTS))
            frames, rejected = _read(folder, manifests, model.encoder, reporter)
            trainer = Pretrainer(model.to(device), frames["train"], frames["valid"], options, device)
            trainer.fit(folder, reporter)
        note = f"pretrained, masked frames, {frames['train'].seconds / 3600:.2g} h of {data.resolve().name}"
        result = _result(trainer, frames, rejected, note)
        _save(folder, trainer, note)
        about = {"versions": package_versions(), AUDIO_FILES: audio_files}
        write_json(folder / PRETRAIN_FILE, {**document, **about, "result": result})
        shutil.rmtree(folder / "frames")
    return PretrainResult(folder, result, trained=True)


def _document(options: PretrainOptions, data: Path, manifests: Manifests) -> PretrainDocument:
    """Return the content of pretrain.json before there is a result."""
    resolved = json.loads(options.model_dump_json())
    resolved["audio_root"] = str(options.audio_root.resolve()) if options.audio_root else None
    resolved["data"] = str(data.resolve())
    resolved["output"] = None  # so that the folder can be moved
    inputs = {"manifests": manifests.sha256}
    return {"schema": SCHEMA, "command": "pretrain-audio", "options": resolved, "inputs": inputs}


def _configuration(document: PretrainDocument) -> dict[str, Any]:
    """Return everything that decides the result, and nothing else."""
    # Earlier versions had the option features_dir.
    outside = PretrainOptions.not_in_hash() | {"features_dir"}
    options = {key: value for key, value in document["options"].items() if key not in outside}
    return {"command": document["command"], **options, "inputs": document["inputs"]}


def _hash(document: PretrainDocument) -> str:
    """Return the hash of the configuration for the name of the folder, 8 hex digits."""
    return hashlib.sha256(canonical_json(_configuration(document)).encode()).hexdigest()[:8]


def _prepare(folder: Path, document: PretrainDocument, force: bool) -> PretrainOutcome | None:
    """Prepare the folder; return the result of this configuration, or None without one."""
    path = folder / PRETRAIN_FILE
    if path.is_file():
        try:
            existing = cast(PretrainDocument, read_object(path, "a pretraining"))
            if existing["schema"] != SCHEMA:
                raise ValueError(f"schema must be {SCHEMA}, found {existing['schema']}")
            configuration, result = _configuration(existing), existing.get("result")
            if result is not None:
                _check_result(result)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} must describe a pretraining, but cannot be read: {error!r}") from error
        require_same(folder, "pretraining", configuration, _configuration(document))
        if not force and result is not None:
            return result
        if force:
            write_json(path, document)  # without a result, the folder counts as incomplete
            clear(folder, kept=(PRETRAIN_FILE,))
    write_json(path, document)
    return None


def _check_audio(
    folder: Path,
    result: PretrainOutcome,
    manifests: Mapping[str, Sequence[Utterance]],
    audio_files: str,
    reporter: Reporter,
) -> None:
    """Raise InputError if the audio has changed since the result; files that were only touched are remembered."""
    path = folder / PRETRAIN_FILE
    document = read_object(path, "a pretraining")
    if document.get(AUDIO_FILES) != audio_files:
        refuse_other_audio(folder, result["audio_sha256"], manifests, reporter)
        write_json(path, {**document, AUDIO_FILES: audio_files})


def _check_result(result: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError if a field that is read later is missing or not a number."""
    for key in ("weights", "audio_sha256"):
        if key not in result:
            raise KeyError(key)
    for number in (result["selected_epoch"], *map(result["valid"].__getitem__, SCORES)):
        if not isinstance(number, int | float):
            raise TypeError(f"selected_epoch and scores must be numbers, found {number!r}")


def _read(
    folder: Path, manifests: Mapping[str, Sequence[Utterance]], encoder: Fourier2Vec, reporter: Reporter
) -> tuple[dict[str, Frames], list[Rejection]]:
    """Read the audio of both splits and write rejected.jsonl.

    InputError if a split has no usable utterance.
    """
    (folder / "frames").mkdir(exist_ok=True)
    frames: dict[str, Frames] = {}
    rejected: list[Rejection] = []
    for split, utterances in manifests.items():
        frames[split], unusable = read_frames(utterances, encoder, folder / "frames" / f"{split}.f16", reporter)
        rejected += unusable
    write_jsonl(folder / REJECTED_FILE, [rejection.entry.as_json() for rejection in rejected])
    for split, found in frames.items():
        if max(found.sizes, default=0) < MIN_MEL:
            raise InputError(
                f"{split}.jsonl must hold audio of at least {10 * MIN_MEL + 15} ms, found no usable "
                f"utterance; the reasons are in {folder / REJECTED_FILE}"
            )
    hours = ", ".join(f"{found.seconds / 3600:.2f} h of {split}" for split, found in frames.items())
    reporter.say(f"{hours}; {len(rejected)} utterances rejected{' (see rejected.jsonl)' if rejected else ''}")
    return frames, rejected


def _result(trainer: Pretrainer, frames: Mapping[str, Frames], rejected: list[Rejection], note: str) -> PretrainOutcome:
    """Return the `result` of pretrain.json."""
    best = trainer.best
    utterances, hours, audio_sha256 = {}, {}, {}
    for split, found in frames.items():
        utterances[split] = len(found)
        hours[split] = round(found.seconds / 3600, 6)
        audio_sha256[split] = found.audio_sha256
    return {
        "weights": note,
        "selected_epoch": best.epoch,
        "epochs": trainer.next_epoch,
        "steps": trainer.steps,
        "valid": {"l1": trainer.best_l1, "mean_l1": trainer.mean_l1, "ratio": trainer.best_l1 / trainer.mean_l1},
        "utterances": utterances,
        "hours": hours,
        "audio_sha256": audio_sha256,
        "rejected": len(rejected),
    }


def _save(folder: Path, trainer: Pretrainer, note: str) -> None:
    """Write the encoder with the weights of the best epoch; InputError if there is none."""
    if trainer.best.weights is None:
        raise InputError("no epoch was trained: --epochs must be at least 1")
    encoder = trainer.model.encoder.cpu()
    encoder.load_state_dict(trainer.best.weights)
    encoder.weights_note, encoder.is_random = note, False
    save_native(encoder, folder)
