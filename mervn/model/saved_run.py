"""Loading of finished runs: the head with its weights, fine-tuned encoders, and the stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from features.command_lines import DataPlace, features_folder
from features.encoders import ENCODERS
from features.encoders.base import Encoder, load_encoder
from features.encoders.finetuned import ENCODERS_FOLDER
from features.encoders.selector import Selector
from features.errors import InputError
from mervn.config import EvaluateOptions, HeadOptions
from mervn.data.streams import Stream, StreamShape, find_streams, modality_of
from mervn.model.custom_module import CustomModule, saved_modules
from mervn.model.head import Head, build_head
from mervn.model.head_modules import head_modules
from mervn.run_folder import CONFIG_FILE, METRICS_FILE, MODEL_FILE, RunConfig, options_of


def load_head(run: Path, config: RunConfig, trust_code: bool = False) -> Head:
    """Build the head of a complete run and load its weights, on the CPU.

    UsageError if it contains custom modules and `trust_code` is not set, because loading runs their
    code. InputError if the run is not complete, or if its weights do not fit the head that
    config.json describes.
    """
    return load_head_with(run, config, modules_of(run, config, trust_code))


def modules_of(run: Path, config: RunConfig, trust_code: bool) -> dict[str, CustomModule]:
    """Read the custom modules of a complete run, by role; raises the errors of `load_head`."""
    if not (run / METRICS_FILE).is_file():
        raise InputError(f"{run} is not complete: run the same {config.command} command again to resume it")
    return saved_modules(run, config.options, config.inputs.get("modules", {}), trust_code)


def load_head_with(run: Path, config: RunConfig, custom: Mapping[str, CustomModule]) -> Head:
    """Load a head with custom modules that `modules_of` read; raises the errors of `load_head`."""
    options = options_of(run, config.options, HeadOptions)
    modules = head_modules(options, custom)
    shapes = {name: StreamShape(**shape) for name, shape in config.streams.items()}
    missing = [name for name in modules.fusion.streams if name not in shapes]
    if missing:
        raise InputError(f"{run / CONFIG_FILE}: streams must hold {' and '.join(missing)}, found {', '.join(shapes)}")
    if not custom:  # custom modules may not support the meta device
        _check_shapes(run, options, shapes, len(config.labels))
    head = build_head(options, shapes, len(config.labels), modules)
    try:
        head.load_state_dict(load_file(run / MODEL_FILE), strict=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"{run / MODEL_FILE} must hold the weights of this run's head, found: {error}") from error
    return head.eval()


def _check_shapes(run: Path, options: HeadOptions, shapes: Mapping[str, StreamShape], num_classes: int) -> None:
    """Raise InputError if the weights do not fit the head of config.json.

    This builds the head on the meta device, so that an absurd size allocates no memory.
    """
    saved: dict[str, tuple[int, ...]] = {}
    try:
        with torch.device("meta"):
            head = build_head(options, shapes, num_classes)
        with safe_open(run / MODEL_FILE, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                saved[name] = tuple(file.get_slice(name).get_shape())
    except (OSError, RuntimeError, ValueError, OverflowError, TypeError, SafetensorError) as error:
        raise InputError(f"{run / MODEL_FILE} must hold the weights of this run's head, found: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for name in sorted(expected.keys() | saved.keys()):  # the shape of a missing name is None
        if expected.get(name) != saved.get(name):
            raise InputError(
                f"{run / MODEL_FILE} must hold the weights of the head of {CONFIG_FILE}, "
                f"found {name} of shape {saved.get(name)}, not {expected.get(name)}"
            )


def load_tuned(run: Path, stream: str, name: str) -> Encoder:
    """Load a stream's encoder from a run of `finetune`; InputError if `name` is unknown."""
    if name not in ENCODERS[modality_of(stream)]:
        names = ", ".join(ENCODERS[modality_of(stream)])
        raise InputError(f"{run / CONFIG_FILE}: the encoder of {stream} must be one of {names}, found {name!r}")
    return load_encoder(Selector(modality_of(stream), name, str(run / ENCODERS_FOLDER / stream)))


def data_and_streams(config: RunConfig, options: EvaluateOptions) -> tuple[Path, dict[str, Stream]]:
    """Return the data folder, and the streams of the store identities that the run was trained on.

    Options that are not given come from the run. InputError if a store is missing.
    """
    data = options.data or Path(config.options["data"])
    folder = options.features_dir
    if folder is None and options.data is None and config.options.get("features_dir"):
        folder = Path(config.options["features_dir"])
    # Stores that the run was given by path, which hold features of its own data only.
    explicit: dict[str, Path | None] = {}
    for modality in ("audio", "text"):
        path = config.options.get(f"{modality}_store")
        if path and options.data is None:
            explicit[modality] = Path(path)
    audio_root = options.audio_root or config.options.get("audio_root")
    place = DataPlace(data, features_folder(folder, data), Path(audio_root) if audio_root else None)
    return data, find_streams(config.inputs["stores"], place, explicit, config.models)
