"""Records of fine-tuning: `tuned.json` beside an encoder lists its training utterances.

Features of a training utterance leak its label. With the record, other commands refuse such
utterances in valid and test.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from features.atomic_files import write_atomically
from features.config import EncoderOptions
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.errors import InputError, UsageError, name_some
from features.manifests.manifest import Utterance

RECORD_FILE = "tuned.json"
ENCODERS_FOLDER = "encoders"
SCHEMA = 1
EVALUATION_SPLITS = ("valid", "test")
MAX_MESSAGE = 300
"""Maximum length of the message about an invalid field, in characters."""
FIELDS = {
    "run": "a name",
    "encoder": "a name",
    "layers": "a list of numbers or 'last'",
    "settings": "an object with the settings of an encoder",
    "modality": "audio or text",
    "seen": "an object of hashes",
    "final": "true or false",
}
"""Valid values of each field of tuned.json, in words."""


@dataclass(frozen=True)
class FineTuning:
    """The record of one fine-tuned encoder: its settings and its training utterances."""

    folder: Path
    run: str
    """Name of the run that fine-tuned the encoder."""
    encoder: str
    """Name of the encoder in the registry."""
    layers: tuple[Layer, ...]
    """Layers whose features the run used."""
    settings: EncoderSettings
    modality: str
    seen: Mapping[str, str]
    """SHA-256 of the audio or transcript of each training utterance, by utterance id; empty if the
    encoder stayed frozen."""
    final: bool = True
    """False while the run is training: its weights are not final and are not loaded."""

    @property
    def weights_note(self) -> str:
        """Origin of the weights, as people read it."""
        if not self.seen:
            return f"kept frozen by {self.run}"
        return f"fine-tuned on {len(self.seen)} utterances, {self.run}"

    def resolve_layers(self, selector: Selector) -> tuple[Layer, ...]:
        """Return the layers of a selector, by default the fine-tuned ones.

        UsageError for a layer above those.
        """
        if selector.layers is None:
            return self.layers
        if "last" not in self.layers:
            deepest = max(map(int, self.layers))
            if any(not isinstance(layer, int) or layer > deepest for layer in selector.layers):
                raise UsageError(f"{selector.flag}: was fine-tuned up to layer {deepest}; choose one of 0..{deepest}")
        return selector.layers

    def fill_settings(self, settings: EncoderSettings) -> EncoderSettings:
        """Return the settings, with the fine-tuning's own for each that is None."""
        recorded = {}
        for field in fields(settings):
            if getattr(settings, field.name) is None:
                recorded[field.name] = getattr(self.settings, field.name)
        return replace(settings, **recorded)

    def was_trained_on(self, utterance_id: str, input_sha256: str) -> bool:
        """Tell whether the encoder was trained on this input.

        Audio counts under any id. A transcript counts only under the same id: different speakers
        say the same words.
        """
        if self.modality == "audio":
            return input_sha256 in self._hashes
        return self.seen.get(utterance_id) == input_sha256

    def without(self, utterance_ids: Collection[str]) -> FineTuning:
        """Return the record of the other training utterances."""
        return replace(self, seen={name: sha256 for name, sha256 in self.seen.items() if name not in utterance_ids})

    @cached_property
    def _hashes(self) -> frozenset[str]:
        return frozenset(self.seen.values())

    def refuse_training_utterances(self, utterances: Iterable[tuple[Utterance, str]], are_all: bool = True) -> None:
        """Raise InputError if valid or test contain an utterance that the encoder was trained on.

        Each utterance comes with the SHA-256 of its input. If not `are_all`, others may follow.
        """
        leaked = []
        for utterance, sha256 in utterances:
            if utterance.split in EVALUATION_SPLITS and self.was_trained_on(utterance.utterance_id, sha256):
                leaked.append(utterance)
        if not leaked:
            return
        splits = " and ".join(dict.fromkeys(utterance.split for utterance in leaked))
        places = name_some([f"{u.file}:{u.line} {u.utterance_id!r}" for u in leaked])
        raise InputError(
            f"{self.encoder}={self.run} was fine-tuned on {'' if are_all else 'at least '}{len(leaked)} utterances of "
            f"{splits}: "
            f"{places}; its features would leak the labels of these utterances. "
            "Use a run that was not trained on them"
        )

    def save(self, folder: Path) -> None:
        """Write tuned.json, unless the folder has the same one."""
        # the folder is not recorded, so that a run can be moved
        document: dict[str, Any] = asdict(self) | {"schema": SCHEMA, "seen": dict(self.seen)}
        del document["folder"]
        content = json.dumps(document, ensure_ascii=False) + "\n"
        path = folder / RECORD_FILE
        if not path.is_file() or path.read_bytes() != content.encode():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)


def read_fine_tuning(folder: Path) -> FineTuning | None:
    """Read tuned.json of a folder; None if it does not exist, InputError if it is invalid."""
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}")
        _check_fields(document)
        settings = EncoderSettings(**document.pop("settings"))
        return FineTuning(folder=folder, settings=settings, layers=tuple(document.pop("layers")), **document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} must say what an encoder was fine-tuned on, found: {error!r}") from error


def _check_fields(document: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError for a field of tuned.json that is missing or invalid."""
    layers = document["layers"]
    valid = {
        "run": isinstance(document["run"], str),
        "encoder": isinstance(document["encoder"], str),
        "layers": isinstance(layers, list) and bool(layers) and all(map(_is_layer, layers)),
        "settings": _are_settings(document["settings"]),
        "modality": document["modality"] in ("audio", "text"),
        "seen": _is_object(document["seen"], str),
        "final": isinstance(document.get("final", True), bool),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            raise ValueError(f"{name} must be {FIELDS[name]}, not {document[name]!r}"[:MAX_MESSAGE])


def _is_layer(layer: object) -> bool:
    return layer == "last" or (type(layer) is int and layer >= 0)


def _is_object(value: object, kind: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, kind) for each in value.values())


def _are_settings(value: object) -> bool:
    """Tell whether a value holds settings that `--segmenter` and the like can have."""
    if not isinstance(value, dict):
        return False
    try:
        EncoderOptions.model_validate(value)
    except ValidationError:
        return False
    return True


def find_fine_tuning(selector: Selector) -> FineTuning | None:
    """Return the record of the fine-tuned encoder that a selector names; None for any other model.

    The model may be the folder of a run or the folder of one encoder in it. InputError if the run
    has no encoder of that name, or is not complete.
    """
    if selector.model is None:
        return None
    folder = Path(selector.model).expanduser()
    if (folder / RECORD_FILE).is_file():
        candidates = [folder]
    elif (folder / ENCODERS_FOLDER).is_dir():
        candidates = sorted((folder / ENCODERS_FOLDER).iterdir())
    else:
        return None
    # a run has one folder per encoder, perhaps of both modalities
    records = []
    for candidate in candidates:
        record = read_fine_tuning(candidate)
        if record is not None:
            records.append(record)
    if not records:
        raise _incomplete(selector, folder)
    for record in records:
        if record.encoder == selector.name:
            if not record.final:
                raise _incomplete(selector, folder)
            return record
    names = ", ".join(record.encoder for record in records)
    raise InputError(f"{selector.flag}: {folder} has no fine-tuned {selector.name}; it has {names}")


def _incomplete(selector: Selector, folder: Path) -> InputError:
    return InputError(
        f"{selector.flag}: {folder} is not complete: run the `mervn finetune` command that created it again"
    )
