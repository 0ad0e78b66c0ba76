"""Commands that messages suggest: they name the data and the model, quoted, so that they work when pasted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.config import SPLITS, EncodeOptions
from features.encoders.selector import EncoderSettings, Selector
from features.store.identity import StoreIdentity


def features_folder(features_dir: Path | None, data: Path) -> Path:
    """Return the folder of the stores: the one given, else $MERVN_FEATURES, else <data>/stores."""
    return features_dir or Path(os.environ.get("MERVN_FEATURES") or data / "stores")


@dataclass(frozen=True)
class DataPlace:
    """Where the data, the stores and the audio of a command are."""

    data: Path
    features_dir: Path
    audio_root: Path | None = None

    @property
    def flags(self) -> list[str]:
        """The flags of an extraction from these folders; what the command would find by itself is left out."""
        flags = ["--data", str(self.data)]
        if self.features_dir != features_folder(None, self.data):
            flags += ["--features-dir", str(self.features_dir)]
        if self.audio_root is not None:
            flags += ["--audio-root", str(self.audio_root)]
        there = [split for split in SPLITS if (self.data / f"{split}.jsonl").exists()]
        if 0 < len(there) < len(SPLITS):
            flags += ["--splits", ",".join(there)]
        return flags


def extract_command(place: DataPlace, selector: Selector, *flags: str) -> str:
    """Return the `mervn extract` that extracts a selector's encoder."""
    return shlex.join(["mervn", "extract", *place.flags, f"--{selector.modality}-encoder", str(selector), *flags])


def identity_flags(identity: StoreIdentity, spec_settings: Sequence[str]) -> list[str]:
    """Return the flags of `mervn extract` that give a store of this identity, besides the selector.

    `spec_settings` are the settings that its encoder knows.
    """
    flags = [] if identity.store_dtype == "fp16" else ["--store-dtype", identity.store_dtype]
    if identity.encoder_precision != "fp32":
        flags += ["--encoder-precision", identity.encoder_precision]
    for name, value in asdict(recorded_settings(identity.config).only(spec_settings)).items():
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", value]
    return flags


def settings_flags(options: EncodeOptions) -> list[str]:
    """Return the flags of `mervn extract` that repeat how an encoder was run, besides the selector."""
    names = ("encoder_precision", "store_dtype", "segmenter", "tone_style", "whisper_mode")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    defaults = {name: EncodeOptions.model_fields[name].default for name in given}
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    return [part for name, value in changed.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def recorded_flags(text: str) -> list[str]:
    """Return the flags of `mervn extract` that a run's config.json records; none if it holds anything else.

    A run can come from somebody else, and a user pastes what a message suggests.
    """
    known = {f"--{name.replace('_', '-')}" for name in (*EncodeOptions.model_fields, "audio_encoder", "text_encoder")}
    try:
        parts = shlex.split(text)
    except ValueError:
        return []
    return parts if len(parts) % 2 == 0 and known.issuperset(parts[::2]) else []


def recorded_settings(config: Mapping[str, Any]) -> EncoderSettings:
    """Return the settings that an encoder's config records."""
    segmenter = config.get("segmenter")  # with its version
    return EncoderSettings(
        segmenter=str(segmenter).split(" ")[0] if segmenter else None,
        tone_style=config.get("tone_style"),
        whisper_mode=config.get("mode"),
    )
