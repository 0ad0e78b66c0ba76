"""Fine-tuned encoders: a folder of `mervn finetune`, and the utterances that its encoders learned from.

Such an encoder knows the emotions of what it saw: features of a seen utterance in valid or test would be answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.errors import InputError, UsageError
from features.manifests.manifest import Utterance

TUNED_FILE = "tuned.json"
ENCODERS_FOLDER = "encoders"
SCHEMA = 1
UNSEEN_SPLITS = ("valid", "test")
SHOWN = 5
LONGEST = 300
"""Characters of what is said of a field."""
FIELDS = {
    "run": "a name",
    "encoder": "a name",
    "layers": "a list of numbers or 'last'",
    "settings": "an object of names",
    "modality": "audio or text",
    "seen": "an object of hashes",
    "final": "true or false",
}
"""What each field of tuned.json must be."""


@dataclass(frozen=True)
class Tuned:
    """One fine-tuned encoder and what it learned from."""

    folder: Path
    run: str
    """The name of the run."""
    encoder: str
    layers: tuple[Layer, ...]
    settings: EncoderSettings
    modality: str
    seen: Mapping[str, str]
    """The hash of the audio, or of the transcript, of every utterance trained on, by id."""
    final: bool = True
    """False until the weights beside it are final: such an encoder is not loaded."""

    @property
    def note(self) -> str:
        """Where the weights come from, for people."""
        return f"fine-tuned on {len(self.seen)} utterances, {self.run}" if self.seen else f"kept frozen by {self.run}"

    def check_layers(self, selector: Selector) -> tuple[Layer, ...]:
        """Return the layers wanted; UsageError for one that the fine-tuning did not reach."""
        if selector.layers is None:
            return self.layers
        if "last" not in self.layers:
            deepest = max(int(layer) for layer in self.layers)
            if any(not isinstance(layer, int) or layer > deepest for layer in selector.layers):
                raise UsageError(f"{selector.flag}: was fine-tuned up to layer {deepest}; take one of 0..{deepest}")
        return selector.layers

    def complete(self, settings: EncoderSettings) -> EncoderSettings:
        """Return the settings it was fine-tuned with where none are given."""
        unset = {field.name for field in fields(settings) if getattr(settings, field.name) is None}
        return replace(settings, **{name: getattr(self.settings, name) for name in unset})

    def saw(self, utterance_id: str, input_sha256: str) -> bool:
        """Tell whether it learned from this input: the same audio under any id, or the same words under this one."""
        if self.modality == "audio":
            return input_sha256 in self._hashes
        return self.seen.get(utterance_id) == input_sha256

    @cached_property
    def _hashes(self) -> frozenset[str]:
        return frozenset(self.seen.values())

    def refuse_seen(self, utterances: Iterable[tuple[Utterance, str]]) -> None:
        """Raise InputError where it saw an utterance, given with the hash of its input, of valid or test."""
        seen = [u for u, sha256 in utterances if u.split in UNSEEN_SPLITS and self.saw(u.utterance_id, sha256)]
        if seen:
            places = ", ".join(f"{u.file}:{u.line} {u.utterance_id!r}" for u in seen[:SHOWN])
            more = f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else ""
            raise InputError(
                f"{self.encoder}={self.run} was fine-tuned on {len(seen)} utterances of {seen[0].split}: "
                f"{places}{more}; what it gives for them knows their emotion. Take a run that was not trained on them"
            )

    def save(self, folder: Path) -> None:
        """Write tuned.json."""
        document: dict[str, Any] = asdict(self) | {"schema": SCHEMA, "seen": dict(self.seen)}
        del document["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TUNED_FILE, json.dumps(document, ensure_ascii=False) + "\n")


def read_tuned(folder: Path) -> Tuned | None:
    """Read tuned.json of a folder; None where there is none, InputError if it is damaged."""
    path = folder / TUNED_FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}")
        _check_fields(document)
        settings = EncoderSettings(**document.pop("settings"))
        return Tuned(folder=folder, settings=settings, layers=tuple(document.pop("layers")), **document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} must say what an encoder was fine-tuned on, found: {error!r}") from error


def _check_fields(document: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError for a field of tuned.json that is missing or holds something else."""
    layers = document["layers"]
    correct = {
        "run": isinstance(document["run"], str),
        "encoder": isinstance(document["encoder"], str),
        "layers": isinstance(layers, list) and bool(layers) and all(map(_is_layer, layers)),
        "settings": _is_object(document["settings"], str | None),
        "modality": document["modality"] in ("audio", "text"),
        "seen": _is_object(document["seen"], str),
        "final": isinstance(document.get("final", True), bool),
    }
    for name, right in correct.items():
        if not right:
            raise ValueError(f"{name} must be {FIELDS[name]}, not {document[name]!r}"[:LONGEST])


def _is_layer(layer: object) -> bool:
    return layer == "last" or (type(layer) is int and layer >= 0)


def _is_object(value: object, kind: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, kind) for each in value.values())


def find_tuned(selector: Selector) -> Tuned | None:
    """Return the fine-tuned encoder that a selector names: a run, or a folder in it; None for any other model.

    InputError where the run holds no encoder of that name, or is not complete.
    """
    if selector.model is None:
        return None
    folder = Path(selector.model).expanduser()
    if (folder / TUNED_FILE).is_file():
        found = [read_tuned(folder)]
    elif (folder / ENCODERS_FOLDER).is_dir():
        found = [read_tuned(path) for path in sorted((folder / ENCODERS_FOLDER).iterdir())]
        if not any(found):
            raise _incomplete(selector, folder)
    else:
        return None
    tuned = [one for one in found if one is not None]
    for one in tuned:
        if one.encoder == selector.name:
            if not one.final:
                raise _incomplete(selector, folder)
            return one
    there = ", ".join(one.encoder for one in tuned)
    raise InputError(f"{selector.flag}: {folder} holds no fine-tuned {selector.name}; it holds {there}")


def _incomplete(selector: Selector, folder: Path) -> InputError:
    return InputError(f"{selector.flag}: {folder} is not complete: run the finetune command that made it again")
