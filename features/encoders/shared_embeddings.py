"""Word embeddings of DeBERTa-v3 checkpoints that contain only a difference to their generator's.

In replaced-token training with gradient-disentangled sharing (He et al. 2021, arXiv 2111.09543) the
discriminator's embedding is the generator's `weight` plus a `_weight` of its own. ViDeBERTa was
released with the `_weight` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from features.encoders.hub import is_file_name, read_index
from features.encoders.selector import Selector
from features.errors import InputError

EMBEDDING = "embeddings.word_embeddings.weight"
DIFFERENCE = "embeddings.word_embeddings._weight"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
GENERATOR_FILES = ("model.generator.safetensors", "pytorch_model.generator.bin")
"""The second is the name of the generators of Microsoft's own DeBERTa-v3 checkpoints."""


def fill_shared_embeddings(selector: Selector, location: str, model: Any, info: dict[str, Any]) -> None:
    """Add the generator's word embedding to a checkpoint that contains only the difference to it.

    Other checkpoints do not change. `info` is the loading info of transformers; the embedding is
    removed from its missing keys. InputError if the generator's weights are missing.
    """
    is_missing = EMBEDDING in info["missing_keys"]
    if not is_missing or not any(key.endswith(DIFFERENCE) for key in info["unexpected_keys"]):
        return
    folder = Path(location)
    difference = _read_tensor(folder, WEIGHTS_FILES, DIFFERENCE)
    generator = _read_tensor(folder, GENERATOR_FILES, EMBEDDING)
    if difference is None or generator is None:
        raise InputError(
            f"{selector.flag}: {location} contains {DIFFERENCE}, the difference to the generator's "
            "embedding in DeBERTa-v3's training, and not the embedding itself. Put the generator's "
            f"weights into that folder as {' or '.join(GENERATOR_FILES)} "
            f"(with the key {EMBEDDING}), so that both are added"
        )
    embedding = model.get_input_embeddings().weight
    if not embedding.shape == difference.shape == generator.shape:
        raise InputError(
            f"{selector.flag}: the generator's word embedding must have the shape "
            f"{tuple(embedding.shape)} of config.json, as the difference in {location}; "
            f"found {tuple(generator.shape)} and {tuple(difference.shape)}"
        )
    with torch.no_grad():
        embedding.copy_(generator.float() + difference.float())
    info["missing_keys"] = set(info["missing_keys"]) - {EMBEDDING}


def _read_tensor(folder: Path, names: tuple[str, ...], ending: str) -> Tensor | None:
    """Return the tensor whose key has this ending, from the first of these files that exists.

    A file may be sharded. None if there is no such file or key.
    """
    for path in _weight_files(folder, names):
        tensor = _tensor_of(path, ending)
        if tensor is not None:
            return tensor
    return None


def _weight_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the first of these files that exists, or the shards that its index names."""
    for name in names:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = filter(is_file_name, read_index(index) or [])
            return [folder / shard for shard in sorted(set(shards))]
    return []


def _tensor_of(path: Path, ending: str) -> Tensor | None:
    """Return the tensor of a file whose key has this ending; None if there is none."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is not a mapping)
                if key.endswith(ending):
                    found: Tensor = file.get_tensor(key)
                    return found
        return None
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    for key, tensor in tensors.items():
        if key.endswith(ending):
            return tensor
    return None
