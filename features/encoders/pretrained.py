"""Loading and saving of checkpoints, in the Hugging Face format and in this project's own.

All weights must match.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from features.atomic_files import write_atomically
from features.encoders.base import Encoder
from features.encoders.checkpoint_files import TEXTS, WEIGHTS, check_files, check_shards
from features.encoders.hub import fetch, is_path
from features.encoders.selector import Selector, short_model_name
from features.encoders.shared_embeddings import fill_shared_embeddings
from features.errors import InputError, UsageError

BUFFERS = frozenset({"position_ids", "token_type_ids", "inv_freq", "_weight", "num_batches_tracked"})
"""Last parts of weight names that old checkpoints contain and no model reads."""
PREPROCESSING_FILES = {"audio": "preprocessor_config.json", "text": "the tokenizer's files"}
MAX_REASON = 300
"""Characters of an error of transformers that a message repeats."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
RANDOM_NOTE = "random"
"""How the note of weights that were never trained begins."""


def checkpoint_location(selector: Selector, files: Sequence[str] = ()) -> str:
    """Return the folder to load: a local one, or the snapshot of a hub model.

    The snapshot is downloaded if it is not cached. It needs `files` besides the weights, by default
    those of the encoder. InputError if the model can only be a folder and does not exist, or if
    neither the cache nor the hub has it.
    """
    model = selector.model or selector.spec.model
    if model is None:
        raise InputError(f"{selector.flag}: needs a model: {selector.option_name} {selector.name}=FOLDER")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise InputError(f"{selector.flag}: needs a folder with config.json and weights, found the file {model}")
    if is_path(model):
        raise UsageError(f"{selector.flag}: the folder {model} does not exist (looked for {folder.absolute()})")
    try:
        return str(fetch(model, files or selector.spec.files))
    except UsageError as error:
        raise UsageError(f"{selector.flag}: {error}") from error
    except InputError as error:
        raise InputError(
            f"{selector.flag}: {error}\n{_folder_hint(selector)}\n{selector.name} needs {selector.spec.needs}"
        ) from error


def describe_model(selector: Selector) -> tuple[str, str]:
    """Return the short name of a checkpoint, and the note that says where its weights come from."""
    model = str(selector.model or selector.spec.model)
    return short_model_name(model), f"pretrained, {model}"


def _folder_hint(selector: Selector) -> str:
    return (
        f"Use a local folder with config.json, {PREPROCESSING_FILES[selector.modality]} and "
        f"model.safetensors: {selector.option_name} {selector.name}=/path/to/folder"
    )


def check_config(selector: Selector, location: str, model_type: str | None) -> None:
    """Check the small files of a checkpoint before anything is loaded.

    InputError if config.json is missing, invalid or of another model_type, if a failed download left
    a git-lfs pointer or an HTML page in place of a text file, or if an index of weights names files
    outside the folder.
    """
    check_files(selector, location, TEXTS)
    check_shards(selector, location)
    path = Path(location) / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it contains a {type(config).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{selector.flag}: {path} must be a JSON file of the checkpoint: {error}") from error
    found = config.get("model_type")
    if model_type is not None and found != model_type:
        raise InputError(f"{selector.flag}: {path} must say model_type {model_type!r}, found {found!r}")


@contextmanager
def loading_errors(selector: Selector, location: str) -> Iterator[None]:
    """Turn the errors of transformers into one InputError that says how to fix them."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # transformers raises almost any type for a damaged file
        check_files(selector, location, WEIGHTS)
        files = ", ".join(sorted(path.name for path in Path(location).iterdir())) or "nothing"
        raise InputError(
            f"{selector.flag}: the checkpoint could not be loaded from the folder {location}, "
            f"which contains {files}: {_reason(error)}\n{_folder_hint(selector)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return why a load failed, in one line."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "contains custom code" in text:
        return (
            "it needs custom code (auto_map), which is never executed; only architectures of transformers are supported"
        )
    if isinstance(error, UnpicklingError | EOFError):
        return "its .bin file is damaged, or contains objects that are not tensors"
    plain = isinstance(error, OSError | ValueError | RuntimeError | ImportError | SafetensorError) and text
    return (text if plain else f"{type(error).__name__} {text}".strip())[:MAX_REASON]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers: what matters in its reports is raised as an error here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_model(
    selector: Selector, location: str, model_class: Any, prefix: str, unused: tuple[str, ...] = ()
) -> nn.Module:
    """Load a model of a transformers class in float32.

    InputError if its weights do not match its config exactly. Only those under `prefix` are
    checked, without the `unused` ones. Without this check, transformers would silently initialize
    missing weights at random, and drop the blocks beyond those in the config.
    """
    with quiet_transformers(), loading_errors(selector, location), torch.random.fork_rng(devices=[]):
        model, info = model_class.from_pretrained(
            location,
            config=_plain_config(location),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            trust_remote_code=False,
        )
        fill_shared_embeddings(selector, location, model, info)
        _restore_constants(model)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError(f"{selector.flag}: {location} must hold merged weights, found LoRA adapters: merge them first")
    _refuse_misfits(selector, location, model, info, prefix, unused)
    loaded: nn.Module = model
    return loaded


def _refuse_misfits(
    selector: Selector, location: str, model: Any, info: Mapping[str, Any], prefix: str, unused: tuple[str, ...]
) -> None:
    """Raise InputError for weights that are missing, of another shape or unknown to the config."""

    def wanted(key: str) -> bool:
        return key.startswith(prefix) and not key.startswith(unused)

    missing = sorted(filter(wanted, info["missing_keys"]))
    mismatched = []
    for key, found, expected in sorted(info["mismatched_keys"]):
        if wanted(key):
            mismatched.append(f"{key}: {tuple(found)} in the weights, {tuple(expected)} by config.json")
    if missing or mismatched:
        raise InputError(
            f"{selector.flag}: the checkpoint at {location} must hold every weight of the encoder, "
            f"but {len(missing)} are missing and {len(mismatched)} have another shape, "
            f"such as {(mismatched + missing)[0]}"
        )
    unread = sorted(filter(wanted, _unread_keys(model, info["unexpected_keys"])))
    if unread:
        raise InputError(
            f"{selector.flag}: config.json of {location} must describe all weights of the encoder, "
            f"but it has no place for {len(unread)} of them, such as {unread[0]}"
        )


def _plain_config(location: str) -> Any:
    """Load a config, with the defaults of fields that only change how a model runs."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    config.return_dict = True
    config.output_hidden_states = config.output_attentions = False
    config._attn_implementation = None  # may name code on the hub
    return config


def _unread_keys(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Return unexpected keys within the model's own modules.

    Those of heads, quantizers, ... are ignored.
    """
    modules = dict(model.base_model.named_children())  # such as encoder, embeddings, feature_extractor
    keys = [key.removeprefix(f"{model.base_model_prefix}.") for key in unexpected]
    return [key for key in keys if key.split(".")[0] in modules and key.split(".")[-1] not in BUFFERS]


def _restore_constants(model: Any) -> None:
    """Restore `requires_grad=False` of the architecture's constants, which loading loses."""
    with torch.device("meta"):  # builds the architecture without allocating weights
        built = type(model)(model.config)
    constants = {name for name, parameter in built.named_parameters() if not parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in constants)


def save_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write model.safetensors in the Hugging Face format.

    Tensors of other names in an existing file are kept.
    """
    path = folder / WEIGHTS_FILE
    merged = load_file(path) if path.is_file() else {}
    for name, tensor in tensors.items():
        merged[name] = tensor.detach().cpu().contiguous()
    write_atomically(path, save(merged, {"format": "pt"}))


def save_native(encoder: Encoder, folder: Path) -> None:
    """Write config.json and model.safetensors in this project's own format, for `read_native`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save(encoder.state_dict()))
    document = {"encoder": encoder.name, "weights": encoder.weights_note, "config": encoder.config}
    write_atomically(folder / CONFIG_FILE, json.dumps(document, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class NativeCheckpoint:
    """A checkpoint in this project's own format."""

    config: dict[str, Any]
    weights_note: str
    """Where its weights come from, for people."""
    tensors: dict[str, Tensor]

    @property
    def is_random(self) -> bool:
        """True if the weights were never trained.

        The file format records this only in the note.
        """
        return self.weights_note.startswith(RANDOM_NOTE)

    def load_into(self, selector: Selector, encoder: Encoder) -> None:
        """Copy the weights into an encoder.

        InputError if any is missing, unexpected or of another shape.
        """
        try:
            encoder.load_state_dict(self.tensors, strict=True)
        except RuntimeError as error:
            raise InputError(f"{selector.flag}: the weights must fit the config, found: {error}") from error
        encoder.weights_note, encoder.is_random = self.weights_note, self.is_random
        if not encoder.is_random:
            encoder.model_name = short_model_name(str(selector.model))


def read_native(selector: Selector, config_keys: Collection[str]) -> NativeCheckpoint:
    """Read a folder that `save_native` wrote.

    InputError unless its config has exactly these keys.
    """
    folder = Path(str(selector.model)).expanduser()
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not (config.is_file() and weights.is_file()):
        raise InputError(f"{selector.flag}: needs the files {config} and {weights}, but not both exist")
    try:
        document = json.loads(config.read_text("utf-8"))
        if document["encoder"] != selector.name:
            raise ValueError(f"it is a checkpoint of {document['encoder']}")
        checkpoint = NativeCheckpoint(document["config"], document["weights"], load_file(weights))
    except (OSError, KeyError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise InputError(f"{selector.flag}: {folder} must hold a checkpoint of {selector.name}: {error}") from error
    if checkpoint.config.keys() != set(config_keys):
        raise InputError(f"{selector.flag}: config must have {sorted(config_keys)}, found {sorted(checkpoint.config)}")
    return checkpoint
