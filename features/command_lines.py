"""Shell commands that messages suggest: complete and quoted, so that a user can paste them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.config import SPLITS, EncodeOptions
from features.encoders.selector import EncoderSettings, Selector, names_code
from features.extraction.import_options import StoreImportOptions
from features.store.identity import StoreIdentity


def features_folder(features_dir: Path | None, data: Path) -> Path:
    """Return the folder of the feature stores.

    It is `features_dir` if given, else $MERVN_FEATURES, else <data>/stores.
    """
    return features_dir or Path(os.environ.get("MERVN_FEATURES") or data / "stores")


@dataclass(frozen=True)
class DataPlace:
    """The folders of a command: manifests, feature stores and audio."""

    data: Path
    features_dir: Path
    audio_root: Path | None = None

    @property
    def flags(self) -> list[str]:
        """The flags of `mervn extract` for these folders, without those that equal its defaults."""
        flags = ["--data", str(self.data)]
        if self.features_dir != features_folder(None, self.data):
            flags += ["--features-dir", str(self.features_dir)]
        if self.audio_root is not None:
            flags += ["--audio-root", str(self.audio_root)]
        existing = [split for split in SPLITS if (self.data / f"{split}.jsonl").exists()]
        if 0 < len(existing) < len(SPLITS):
            flags += ["--splits", ",".join(existing)]
        return flags


def extract_command(place: DataPlace, selector: Selector, *flags: str) -> str:
    """Return the `mervn extract` command for the encoder of a selector."""
    return shlex.join(["mervn", "extract", *place.flags, f"--{selector.modality}-encoder", str(selector), *flags])


def import_command(place: DataPlace, recorded: Sequence[str]) -> str:
    """Return the `mervn store import` command that a store records: its source and `import_flags`."""
    return shlex.join(["mervn", "store", "import", *recorded, *place.flags])


def import_flags(options: StoreImportOptions) -> list[str]:
    """Return the flags of `mervn store import` that repeat these options, besides the folders."""
    flags = []
    for name in ("modality", "name", "hz", "centre", "layer", "store_dtype"):
        value = getattr(options, name)
        if value is not None:
            flags += [flag_name(name), f"{value:g}" if isinstance(value, float) else str(value)]
    return flags


def identity_flags(identity: StoreIdentity, spec_settings: Sequence[str]) -> list[str]:
    """Return the flags of `mervn extract` that give a store of this identity, besides the selector.

    `spec_settings` are the names of the settings that its encoder supports.
    """
    flags = [] if identity.store_dtype == "fp16" else ["--store-dtype", identity.store_dtype]
    if identity.encoder_precision != "fp32":
        flags += ["--encoder-precision", identity.encoder_precision]
    settings = recorded_settings(identity.config).only(spec_settings)
    for name, value in asdict(settings).items():
        if value is not None:
            flags += [flag_name(name), value]
    return flags


def flag_name(field: str) -> str:
    """Return the command-line flag of an option's field."""
    return f"--{field.replace('_', '-')}"


def settings_flags(options: EncodeOptions) -> list[str]:
    """Return the flags of `mervn extract`, besides the selector, that repeat these options."""
    flags = []
    for name in ("encoder_precision", "store_dtype", "segmenter", "tone_style", "whisper_mode"):
        value = getattr(options, name)
        if value is not None and value != EncodeOptions.model_fields[name].default:
            flags += [flag_name(name), str(value)]
    return flags


def recorded_flags(text: str) -> list[str]:
    """Return the flags of `mervn extract` recorded in a run's config.json.

    Returns an empty list if the text contains anything else, or names code. Users paste suggested
    commands, and a run may come from somebody else: unknown text is never suggested.
    """
    known = set(map(flag_name, EncodeOptions.model_fields))
    try:
        parts = shlex.split(text)
    except ValueError:
        return []
    is_known = len(parts) % 2 == 0 and known.issuperset(parts[::2])  # flag, value, flag, value, ...
    return parts if is_known and not any(map(names_code, parts)) else []


def recorded_settings(config: Mapping[str, Any]) -> EncoderSettings:
    """Return the encoder settings recorded in an encoder's config."""
    segmenter = config.get("segmenter")  # name and version, such as "pyvi 0.1.1"
    return EncoderSettings(
        segmenter=str(segmenter).split(" ")[0] if segmenter else None,
        tone_style=config.get("tone_style"),
        whisper_mode=config.get("mode"),
    )
