"""What every encoder is, and how one is loaded from a selector."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from features.encoders.finetuned import FineTuning, find_fine_tuning
from features.encoders.model_source import ModelSource, find_source
from features.encoders.selector import DEFAULT_SETTINGS, EncoderSettings, Layer, Selector, expand_layers
from features.errors import InputError
from features.lazy_import import import_target
from features.ragged import Ragged
from features.text.normalize import TokenCounts

Lengths = Any  # an int, a numpy array or a tensor of ints: the closed forms below work on each


class Encoder(nn.Module, ABC):
    """A frozen network from prepared input to feature sequences, exact under any batch.

    Final subclasses set `dim`, `layers`, `num_layers` and `config`, and say what they are made of in `weights_note`.
    """

    name: ClassVar[str]
    """As in the registry."""
    modality: ClassVar[str]
    numerics_version: ClassVar[int]
    """Raised by any fix that changes numbers; part of a store's identity."""

    dim: int
    """D, the width of a feature row."""
    layers: tuple[Layer, ...]
    """The layers returned: k is transformers' `hidden_states[k]` (0: the first block's input), "last" the output."""
    num_layers: int
    config: dict[str, Any]
    """Every setting that changes numbers and is not in the weights; part of a store's identity."""
    model_name: str
    """Short name of the weights, for the store's folder."""
    weights_sha256: str
    """Over the state dict as loaded, before `drop_unused`: the same for every layer of one model."""
    weights_note: str
    """Where the weights come from, for people: "random, seed 0", a hub id, a folder."""
    is_random: bool = False
    """True if the weights are initialised from a seed and were never trained."""
    fixed: frozenset[str] = frozenset()
    """Names of parameters that the model is built with as constants (`requires_grad=False`): never trained."""
    source: ModelSource = ModelSource()
    """Where the weights were found, for the record of a store."""
    fine_tuning: FineTuning | None = None
    """The record of the fine-tuning that the weights come from, if any."""
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Names of the linear maps in a block that low-rank adapters sit on; none: adapters are of no use."""

    @classmethod
    @abstractmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> Encoder:
        """Build the encoder a selector names, in float32 on the CPU; InputError says what was looked for."""

    def is_truncated(self, raw: Any) -> bool:
        """Tell whether a transcript is longer than this encoder takes, so that `prepare` cuts it."""
        return False

    def count_tokens(self, transcripts: Iterable[str]) -> TokenCounts | None:
        """Count what a subword tokenizer makes of normalised transcripts; None without such a tokenizer."""
        return None

    def drop_unused(self) -> None:
        """Let go of what the layers wanted do not need."""

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return what is unfrozen block by block, from the last; the first is the nearest to the input."""
        return ()

    def get_trainable(self) -> list[nn.Parameter]:
        """Return the parameters that fine-tuning may train: all but the constants of the model."""
        return [parameter for name, parameter in self.named_parameters() if name not in self.fixed]

    def get_front_end(self) -> Sequence[nn.Module]:
        """Return the convolutions over the signal, which fine-tuning leaves frozen where they are pretrained."""
        return ()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights and all else that `load` needs, for NAME=folder.

        Where a checkpoint is there already, the weights that this encoder still holds replace those of it.
        """

    @abstractmethod
    def prepare(self, raw: Any) -> Tensor:
        """Turn one utterance into the rows `forward` takes: samples float32 (S,) or a normalised transcript (str)."""

    @abstractmethod
    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return how many rows `forward` gives for so many rows of prepared input (samples at 16 kHz, tokens)."""

    def get_padded_length(self, length: int) -> int:
        """Return how many samples or tokens are computed for an input of so many: those that `forward` pads it to."""
        return length

    @abstractmethod
    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode packed prepared inputs into features (sum T, D) of each of `layers`, one sequence an utterance."""

    def forward(self, inputs: Ragged) -> Ragged:
        """Encode packed prepared inputs into features (sum T, D) of the first of `layers`."""
        return self.forward_layers(inputs)[0]


def resolve_layers(selector: Selector, num_layers: int) -> tuple[Layer, ...]:
    """Return the layers a selector means for an encoder of `num_layers`: numbers 0..N or "last"."""
    if selector.layers is None:
        depth = selector.spec.depth
        return ("last",) if depth is None else (max(1, round(depth * num_layers)),)
    layers = expand_layers(selector.layers, num_layers)
    for layer in layers:
        if isinstance(layer, int) and layer > num_layers:
            raise InputError(f"{selector.flag}: the layer must be 0..{num_layers} or 'last', found {layer}")
    return layers


@contextmanager
def captured(
    blocks: Sequence[nn.Module], layers: Sequence[Layer], after_first: nn.Module | None = None
) -> Iterator[dict[Layer, Tensor]]:
    """Collect hidden states of numbered layers while a model runs: 0 is the input of `blocks[0]`, k block k's output.

    A module that changes the first block's output before the second one reads it is `after_first`. "last" is not
    collected: it is the model's own output.
    """
    sources = [after_first or blocks[0], *blocks[1:]]
    states: dict[Layer, Tensor] = {}

    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        states[0] = args[0] if args else kwargs["hidden_states"]

    def after(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)] if 0 in layers else []
    handles += [sources[k - 1].register_forward_hook(after(k)) for k in layers if isinstance(k, int) and k > 0]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def blocks_needed(layers: Sequence[Layer], num_layers: int) -> int:
    """Return how many blocks must run for these layers; at least one, for its input is layer 0."""
    return num_layers if "last" in layers else max(1, *(int(layer) for layer in layers))


def weights_sha256(module: nn.Module) -> str:
    """Hash a state dict: for each entry in order of name, its name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_encoder(selector: Selector, settings: EncoderSettings = DEFAULT_SETTINGS) -> Encoder:
    """Build the encoder that a selector names, frozen and in eval mode, on the CPU.

    Settings that this encoder does not know are not for it. The model may be a fine-tuned run.
    """
    encoder = load_whole(selector, settings)
    encoder.drop_unused()
    return encoder


def load_whole(selector: Selector, settings: EncoderSettings = DEFAULT_SETTINGS) -> Encoder:
    """Build an encoder as `load_encoder` does, with the blocks above the layers wanted."""
    settings, named = settings.only(selector.spec.settings), selector
    record = find_fine_tuning(selector)
    if record is not None:
        selector = replace(selector, model=str(record.folder), layers=record.resolve_layers(selector))
        settings = record.fill_settings(settings)
    encoder_class: type[Encoder] = import_target(selector.spec.target)
    encoder = encoder_class.load(selector, settings)
    if record is not None:
        encoder.fine_tuning, encoder.model_name, encoder.weights_note = record, record.run, record.weights_note
        encoder.is_random = False  # the checkpoint still has the note of the weights that training began with
    encoder.weights_sha256, encoder.source = weights_sha256(encoder), find_source(named)
    encoder.fixed = frozenset(name for name, parameter in encoder.named_parameters() if not parameter.requires_grad)
    encoder.requires_grad_(False)
    return encoder.eval()


def samples_tensor(samples: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """Return audio samples (S,) as a float32 tensor; ValueError for another shape or an empty array."""
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"samples must be a non-empty (S,) array, found shape {samples.shape}")
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
