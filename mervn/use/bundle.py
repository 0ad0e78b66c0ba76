"""Bundles: a run with its encoders as one folder that needs nothing else (`mervn export`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from features.atomic_files import read_object, remove_folder, sync, sync_folder, temporary_beside, write_atomically
from features.config import is_custom_module
from features.device import resolve_device
from features.environment import package_versions
from features.errors import InputError, UsageError, name_some
from features.progress import SILENT, Reporter
from mervn.data.saved_check import CHECK_FILE
from mervn.model.custom_module import FOLDER as MODULES_FOLDER
from mervn.model.saved_run import load_head
from mervn.result_folder import NO_FOLDER
from mervn.run_folder import CONFIG_FILE, LEDGER_FILE, METRICS_FILE, MODEL_FILE, RunConfig, read_config, write_json
from mervn.use.bundle_encoders import load_encoders, save_encoders, short_note
from mervn.use.bundle_files import (
    BUNDLE_FILE,
    CARD_FILE,
    Bundle,
    check_files,
    describe_file,
    hash_files,
    read_bundle_file,
)
from mervn.use.canary import check_canary, write_canary
from mervn.use.model_card import model_card
from mervn.use.onnx_export import OnnxFiles, export_onnx, require_packages
from mervn.use.run_model import RunModel, assemble, open_run_model

SCORES = ("metrics-valid.json", "metrics-test.json")
"""Results of `mervn evaluate` that a bundle holds, if they are of its weights."""


@dataclass(frozen=True)
class ExportResult:
    """A bundle that was written, read again and checked."""

    path: Path
    bundle: Bundle
    difference: float
    """Maximum difference of the canary's probabilities, of the bundle from the run."""
    onnx: OnnxFiles | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.bundle.files.values())


@dataclass(frozen=True)
class BundleSettings:
    """Settings of an export."""

    link_encoders: bool = False
    """Name encoders of the hub by id and commit, instead of copying them."""
    onnx: bool = False
    features_dir: Path | None = None
    """Feature stores of the run, which name its encoders."""
    trust_code: bool = False


def write_bundle(
    run: Path, output: Path, settings: BundleSettings | None = None, reporter: Reporter = SILENT
) -> ExportResult:
    """Write a complete run as a bundle, and check that it gives the probabilities of the run.

    The folder appears at the end, when everything is written and checked. A bundle of the same run
    is replaced; UsageError if the folder holds anything else. Raises the errors of `open_run_model`.
    """
    settings = settings or BundleSettings()
    if (run / BUNDLE_FILE).is_file():
        raise UsageError(f"{run} is a bundle already; copy the folder")
    if settings.onnx:
        require_packages()  # before the work
    model = open_run_model(run, "cpu", features_dir=settings.features_dir, trust_code=settings.trust_code)
    _refuse_other(output, run, model.config)
    with _complete_folder(output) as folder:
        onnx, difference = _write(folder, model, settings, reporter)
    return ExportResult(output, read_bundle_file(output), difference, onnx)


def _write(
    folder: Path, model: RunModel, settings: BundleSettings, reporter: Reporter
) -> tuple[OnnxFiles | None, float]:
    """Write all files of a bundle, read it again, and return its ONNX files and the canary's difference."""
    run, config = model.path, replace_paths(model.config)
    write_json(folder / CONFIG_FILE, config.as_json())
    scores = _copy_results(run, folder)
    choices = settings.features_dir, settings.link_encoders, settings.trust_code
    encoders = save_encoders(run, model.config, folder, choices, reporter)
    write_canary(folder, model)
    onnx = export_onnx(model, folder, reporter) if settings.onnx else None
    bundle = Bundle(run.resolve().name, config.hash, encoders, hash_files(folder), package_versions(), "")
    try:
        card = model_card(bundle, config, scores, onnx)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{run}: {', '.join(scores)} must hold results as training, check and evaluation write them, but cannot be "
            f"read: {error!r}; evaluate the run again"
        ) from error
    write_atomically(folder / CARD_FILE, card)
    bundle = replace(bundle, card_sha256=describe_file(folder / CARD_FILE)["sha256"])
    write_json(folder / BUNDLE_FILE, bundle.as_json())
    written = _load(folder, bundle, settings.trust_code)
    return onnx, check_canary(folder, written)


def _refuse_other(output: Path, run: Path, config: RunConfig) -> None:
    """Raise UsageError unless the output does not exist, is empty, or is a bundle of the same run."""
    if not output.exists() and not output.is_symlink():
        return
    if not output.is_dir() or output.is_symlink():
        raise UsageError(f"--output must name a folder for the bundle, found something else: {output}")
    if not any(output.iterdir()):
        return
    if not (output / BUNDLE_FILE).is_file():
        raise UsageError(
            f"{output} is not empty and holds no bundle ({BUNDLE_FILE} is missing); choose another --output"
        )
    bundle = read_bundle_file(output)
    own_files = {name.split("/")[0] for name in bundle.files} | {CARD_FILE, BUNDLE_FILE}
    extra = sorted(path.name for path in output.iterdir() if path.name not in own_files)
    if extra:
        raise UsageError(f"{output} also holds {name_some(extra)}, which would be lost; choose another --output")
    card = output / CARD_FILE
    if card.is_file() and describe_file(card)["sha256"] != bundle.card_sha256:
        raise UsageError(f"{card} was edited and would be lost; choose another --output")
    existing, own = bundle.files[MODEL_FILE]["sha256"], describe_file(run / MODEL_FILE)["sha256"]
    if (bundle.run_hash, existing) != (config.hash, own):
        raise UsageError(f"{output} holds the bundle of another run ({bundle.run}); choose another --output")


@contextmanager
def _complete_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder, which gets its name when it is complete; an older bundle is removed after it."""
    temporary = temporary_beside(output.absolute())
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        raise UsageError(f"--output must be in a folder that can be created, found {output}: {error}") from error
    try:
        yield temporary
        sync(temporary)
        old = output.rename(temporary_beside(output.absolute())) if output.exists() else None
        temporary.rename(output)
        if old is not None:
            remove_folder(old)
        sync_folder(output.absolute().parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy_results(run: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Copy weights, custom modules and results of a run; return the results by name of their file.

    Results of other weights, such as those of an earlier training in this folder, are left out.
    """
    shutil.copyfile(run / MODEL_FILE, folder / MODEL_FILE)
    if (run / MODULES_FOLDER).is_dir():
        shutil.copytree(run / MODULES_FOLDER, folder / MODULES_FOLDER, copy_function=shutil.copyfile)
    sha256 = describe_file(folder / MODEL_FILE)["sha256"]
    found: dict[str, dict[str, Any]] = {}
    for name in (METRICS_FILE, CHECK_FILE, *SCORES):
        if not (run / name).is_file():
            continue
        document = read_object(run / name, "the results of a run")
        if name in SCORES and document.get("model_sha256") != sha256:
            continue
        if name == METRICS_FILE:
            if not isinstance(document.get("features"), dict):
                raise InputError(f"{run / name} must hold the results of a run, found no features; train it again")
            document["features"] = {stream: short_note(str(note)) for stream, note in document["features"].items()}
        write_json(folder / name, document)
        found[name] = document
    if (run / LEDGER_FILE).is_file():
        found[LEDGER_FILE] = {"looks": len((run / LEDGER_FILE).read_text("utf-8").splitlines())}
    return found


def replace_paths(config: RunConfig) -> RunConfig:
    """Return a configuration without the folders of the machine that it was trained on.

    Names of files and folders remain. The hash of the configuration does not change.
    """
    options = {name: _last_part(name, value) for name, value in config.options.items()}
    models = {name: _without_paths(model) for name, model in config.models.items()}
    return replace(config, options=options, models=models)


def _last_part(name: str, value: Any) -> Any:
    """Return an option without folders: paths and custom modules keep their last part."""
    if name in ("audio_encoder", "text_encoder"):
        return None  # the entries of bundle.json name the encoders
    if isinstance(value, str) and (is_custom_module(value) or Path(value).is_absolute()):
        return Path(value).name
    return value


def _without_paths(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a model without the folder that it was loaded from."""
    source = model.get("model")
    if isinstance(source, str) and model.get("commit") is None:
        source = Path(source).name
    return {**model, "model": source, "extract": ""}


def read_bundle(folder: Path, device: str = "auto", *, trust_code: bool = False) -> RunModel:
    """Load a bundle after checking its files, its encoders and the probabilities of its canary.

    The canary is computed on the CPU, then the model is moved to the device. Raises UsageError if
    the folder is no bundle, or for custom code without `trust_code`; InputError, which names the
    file or the difference, if anything is not as it was exported.
    """
    resolved = resolve_device(device, float64=True)
    bundle = read_bundle_file(folder)
    check_files(folder, bundle)
    model = _load(folder, bundle, trust_code)
    check_canary(folder, model)
    return assemble(folder, model.config, model.head, model.encoders, resolved)


def _load(folder: Path, bundle: Bundle, trust_code: bool) -> RunModel:
    """Load the head and the encoders of a bundle, on the CPU."""
    config = read_config(folder)
    if config.hash != bundle.run_hash or set(config.streams) != set(bundle.encoders):
        raise InputError(
            f"{folder / BUNDLE_FILE} must describe the run of {CONFIG_FILE}, found hash {bundle.run_hash} and encoders "
            f"of {', '.join(bundle.encoders)} for {config.hash} and {', '.join(config.streams)}"
        )
    head = load_head(folder, config, trust_code)
    return assemble(folder, config, head, load_encoders(folder, bundle, trust_code), torch.device("cpu"))


def save_bundle(model: RunModel, output: Path, features_dir: Path | None, trust_code: bool) -> None:
    """Write a run as a bundle, or copy the bundle that a model was loaded from; raises the errors of `write_bundle`."""
    if not (model.path / BUNDLE_FILE).is_file():
        write_bundle(model.path, output, BundleSettings(features_dir=features_dir, trust_code=trust_code))
        return
    source = model.path
    bundle = read_bundle_file(source)
    check_files(source, bundle)
    _refuse_other(output, source, model.config)
    with _complete_folder(output) as folder:
        for name in (*bundle.files, CARD_FILE, BUNDLE_FILE):
            if (source / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, folder / name)
        check_files(folder, bundle)
