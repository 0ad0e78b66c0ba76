"""Word embeddings of a DeBERTa-v3 checkpoint that holds only their difference to its generator's.

In replaced-token training with gradient-disentangled sharing (He et al. 2021, arXiv 2111.09543) the discriminator's
embedding is the generator's `weight` plus a `_weight` of its own. ViDeBERTa was released with the `_weight` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from features.encoders.selector import Selector
from features.errors import InputError

EMBEDDING = "embeddings.word_embeddings.weight"
DIFFERENCE = "embeddings.word_embeddings._weight"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
GENERATOR_FILES = ("model.generator.safetensors", "pytorch_model.generator.bin")
"""The second is the name that Microsoft gives to the generators of its own DeBERTa-v3 checkpoints."""


def fill_shared_embeddings(selector: Selector, location: str, model: Any, info: dict[str, Any]) -> None:
    """Add the generator's embedding to the difference that a checkpoint holds in its place.

    `info` is what transformers tells of the load; the embedding is no longer missing in it. InputError without the
    generator's weights.
    """
    lacks = EMBEDDING in info["missing_keys"]
    if not lacks or not any(key.endswith(DIFFERENCE) for key in info["unexpected_keys"]):
        return
    folder = _folder(location)
    difference, generator = (_read(folder, *wanted) for wanted in ((WEIGHTS_FILES, DIFFERENCE),
                                                                  (GENERATOR_FILES, EMBEDDING)))  # fmt: skip
    if difference is None or generator is None:
        raise InputError(
            f"{selector.flag}: {location} holds {DIFFERENCE}, the difference to the generator's embedding in "
            "DeBERTa-v3's training, and not the embedding itself. Put the generator's weights into that folder as "
            f"{' or '.join(GENERATOR_FILES)} (with the key {EMBEDDING}), so that both are added"
        )
    embedding = model.get_input_embeddings().weight
    shapes = {tuple(tensor.shape) for tensor in (embedding, difference, generator)}
    if len(shapes) > 1:
        raise InputError(
            f"{selector.flag}: the generator's word embedding must have the shape {tuple(embedding.shape)} of "
            f"config.json, as the difference in {location}; found {tuple(generator.shape)} and "
            f"{tuple(difference.shape)}"
        )
    with torch.no_grad():
        embedding.copy_(generator.float() + difference.float())
    info["missing_keys"] = set(info["missing_keys"]) - {EMBEDDING}


def _folder(location: str) -> Path:
    """Return a local folder, or the snapshot of a hub id in the local cache."""
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(location, "config.json")
    return Path(config).parent if isinstance(config, str) else Path(location)


def _read(folder: Path, names: tuple[str, ...], ending: str) -> Tensor | None:
    """Return the tensor whose key ends so, of the first of these files that exists; None without one."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            key = next((key for key in file.keys() if key.endswith(ending)), None)  # noqa: SIM118, no mapping
            return file.get_tensor(key) if key is not None else None
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return next((tensor for key, tensor in tensors.items() if key.endswith(ending)), None)
