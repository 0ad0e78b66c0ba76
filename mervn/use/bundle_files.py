"""bundle.json: format, encoders and files of a bundle, each file with its size and SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from features.atomic_files import read_object
from features.encoders import ENCODERS
from features.encoders.finetuned import ENCODERS_FOLDER
from features.encoders.selector import EncoderSettings, Layer
from features.errors import InputError, UsageError, name_some
from mervn.data.streams import SECOND
from mervn.model.custom_module import FOLDER as MODULES_FOLDER
from mervn.run_folder import CONFIG_FILE, METRICS_FILE, MODEL_FILE
from mervn.use.run_model import BUNDLE_FILE as BUNDLE_FILE

CARD_FILE = "README.md"
"""The model card. It is not hashed: its authors complete it by hand."""
FORMAT = 1
"""Version of the form of a bundle."""
NEEDED = (CONFIG_FILE, METRICS_FILE, MODEL_FILE)
"""Files that every bundle has, besides those of the canary."""
CLOSED_FOLDERS = (ENCODERS_FOLDER, MODULES_FOLDER)
"""Folders in which a file that bundle.json does not list could change what is loaded."""


@dataclass(frozen=True)
class BundledEncoder:
    """The encoder of one stream: where it is, how it is loaded, and what it must be."""

    modality: str
    name: str
    """Name in the registry, or FILE.py:Class of a custom encoder, without folders."""
    layers: tuple[Layer, ...]
    settings: EncoderSettings
    precision: str
    """Precision in which it computes: fp32 or bf16."""
    store_dtype: str | None
    """Precision to which its features are rounded: fp16 or fp32; None: not rounded."""
    weights_sha256: str
    config: Mapping[str, Any]
    """Every setting besides the weights that changes the numbers, with the version of the segmenter."""
    numerics_version: int
    segmenter_sha256: str | None
    """Hash of the files of the word segmenter, which a bundle does not hold."""
    model: str | None
    """Path of the model within the folder of the encoder; `.` is the folder, None is no model."""
    link: str | None
    """Hub id and commit of weights that the bundle does not hold."""
    weights: str
    """Origin of the weights, for people."""
    licence: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BundledEncoder:
        """Build an entry from its JSON object; raises ValueError, KeyError or TypeError for an invalid one."""
        fields = dict(document)
        fields["layers"] = tuple(fields["layers"])
        fields["settings"] = EncoderSettings(**fields["settings"])
        entry = cls(**fields)
        if entry.modality not in ENCODERS:
            raise ValueError(f"modality must be audio or text, found {entry.modality!r}")
        if not entry.layers or not all(isinstance(layer, int | str) for layer in entry.layers):
            raise ValueError(f"layers must be numbers or 'last', found {entry.layers!r}")
        for path in (entry.name.partition(":")[0], entry.model):
            if path is not None and not _is_inside(path):
                raise ValueError(f"a path must lead to a file of the bundle, found {path!r}")
        return entry

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "layers": list(self.layers)}


@dataclass(frozen=True)
class Bundle:
    """The content of bundle.json."""

    run: str
    """Name of the run that was exported."""
    run_hash: str
    """Hash of its configuration."""
    encoders: Mapping[str, BundledEncoder]
    """By stream."""
    files: Mapping[str, Mapping[str, Any]]
    """Size and sha256 of each file, by its path within the bundle."""
    versions: Mapping[str, str]
    """Versions of the packages that computed the probabilities of the canary."""
    card_sha256: str
    """Hash of the model card as it was exported. A card may be edited; an export does not replace an edited one."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        encoders = {name: entry.as_json() for name, entry in self.encoders.items()}
        return {**asdict(self), "format": FORMAT, "encoders": encoders}


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file of a bundle but its card and bundle.json."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (CARD_FILE, BUNDLE_FILE):
            found[name] = describe_file(path)
    return found


def describe_file(path: Path) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_bundle_file(folder: Path) -> Bundle:
    """Read bundle.json.

    Raises UsageError if the folder is no bundle, InputError if the file is damaged or of another
    format.
    """
    path = folder / BUNDLE_FILE
    if not path.is_file():
        raise UsageError(f"{folder} must be a bundle that `mervn export` wrote, but {path} does not exist")
    document = read_object(path, "the description of a bundle")
    found = document.pop("format", None)
    if found != FORMAT:
        raise InputError(f"{path} must have format {FORMAT}, found {found!r}: export again with this version")
    try:
        encoders = {name: BundledEncoder.from_json(entry) for name, entry in document.pop("encoders").items()}
        bundle = Bundle(encoders=encoders, **document)
        _check(bundle)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} must describe a bundle, but cannot be read: {error!r}") from error
    return bundle


def _check(bundle: Bundle) -> None:
    """Raise ValueError, KeyError or TypeError for values that no export writes."""
    if not bundle.encoders or set(bundle.encoders) - {"text", "audio", SECOND}:
        raise ValueError(f"encoders must be those of text, audio and {SECOND}, found {list(bundle.encoders)}")
    for name, entry in bundle.files.items():
        if not _is_inside(name):
            raise ValueError(f"files must be within the bundle, found {name!r}")
        if not (isinstance(entry["size"], int) and isinstance(entry["sha256"], str)):
            raise ValueError(f"a file must have a size and a sha256, found {entry!r}")
    lacking = set(NEEDED) - bundle.files.keys()
    if lacking:
        raise ValueError(f"files must list {', '.join(sorted(lacking))}")


def _is_inside(name: str) -> bool:
    """Tell whether a relative path stays within its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def check_files(folder: Path, bundle: Bundle) -> None:
    """Raise InputError, which names the files, unless all files of a bundle are as they were exported.

    Other files may exist where they change nothing, such as .gitattributes of a repository.
    """
    faults = []
    for name, entry in bundle.files.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != entry["size"]:
            faults.append(f"{name} has {path.stat().st_size} bytes, not {entry['size']}")
        elif describe_file(path)["sha256"] != entry["sha256"]:
            faults.append(f"{name} has another content (SHA-256)")
    for closed in CLOSED_FOLDERS:
        for path in sorted((folder / closed).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in bundle.files:
                faults.append(f"{name} is not listed in {BUNDLE_FILE}")
    if faults:
        raise InputError(
            f"the files of the bundle {folder} must be those that were exported, but {name_some(faults, '; ')}"
        )
