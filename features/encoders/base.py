"""Base class of all encoders, and loading of an encoder from a selector."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from features.encoders.transcript_tokens import TranscriptCounter
from features.errors import InputError
from features.lazy_import import import_target
from features.ragged import Ragged
from features.text.normalize import TokenCounts

Lengths = Any  # an int, a numpy array or a tensor of ints


def at_least(lengths: Lengths, minimum: int) -> Lengths:
    """Return the lengths, with `minimum` for each that is smaller."""
    return max(lengths, minimum) if isinstance(lengths, int) else lengths.clip(minimum)


class Encoder(nn.Module, ABC):
    """Base class of encoders, which map prepared inputs to sequences of features.

    The features of an utterance do not depend on the rest of its batch. Subclasses are final. They
    set `dim`, `layers`, `num_layers`, `config`, `model_name` and `weights_note`.
    """

    name: ClassVar[str]
    """Name in the registry."""
    modality: ClassVar[str]
    numerics_version: ClassVar[int]
    """Increased by every change of the numbers it computes; part of a store's identity."""

    dim: int
    """D, the width of the features."""
    layers: tuple[Layer, ...]
    """Layers to return: k is transformers' `hidden_states[k]` (0: input of the first block), "last"
    the output."""
    num_layers: int
    config: dict[str, Any]
    """Every setting besides the weights that changes the numbers; part of a store's identity."""
    model_name: str
    """Short name of the model, for the name of a store's folder."""
    weights_sha256: str
    """Hash of the state dict before `drop_unused_blocks`: the same for every layer of one model."""
    weights_note: str
    """Where the weights come from, for people: "random, seed 0", a hub id, a folder."""
    is_random: bool = False
    """True if the weights are initialized from a seed and were never trained."""
    causal: bool = False
    """True for a decoder-only text model: a token's features depend on no later token."""
    constants: frozenset[str] = frozenset()
    """Names of parameters that the architecture creates with `requires_grad=False`; they are never
    trained."""
    source: ModelSource = ModelSource()
    """Where the weights were found, recorded with a store."""
    fine_tuning: FineTuning | None = None
    """The record of the fine-tuning that the weights come from, if any."""
    code_record: Mapping[str, str] | None = None
    """Absolute path and hash of the file of a custom encoder, recorded with a store."""
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Names of the linear layers in a block that get LoRA adapters; empty: LoRA is not
    supported."""

    @classmethod
    @abstractmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> Encoder:
        """Load the encoder that a selector names, in float32 on the CPU.

        InputError if it cannot be loaded.
        """

    def is_truncated(self, raw: Any) -> bool:
        """Tell whether a transcript exceeds the maximum length, so that `prepare` truncates it."""
        return False

    def num_tokens(self, transcript: str) -> int:
        """Return the length of what `prepare` returns for a normalized transcript."""
        return int(self.prepare(transcript).shape[0])

    @property
    def transcript_counter(self) -> TranscriptCounter | None:
        """The counter of tokens that works without the encoder; None if only the encoder can count."""
        return None

    @property
    def tokenization(self) -> dict[str, Any] | None:
        """Everything that decides the tokens of a transcript.

        None if it is not known, or if counting tokens takes no time.
        """
        return None

    def count_tokens(self, transcripts: Iterable[str]) -> TokenCounts | None:
        """Count tokens of normalized transcripts.

        None for an encoder without a subword tokenizer.
        """
        return None

    def token_texts(self, transcript: str) -> list[str] | None:
        """Return the text of each frame of a normalized transcript; None if its frames have none."""
        return None

    def drop_unused_blocks(self) -> None:
        """Drop the blocks above the requested layers."""

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the blocks that fine-tuning can unfreeze one by one, from input to output."""
        return ()

    def get_trainable(self) -> list[nn.Parameter]:
        """Return the parameters that fine-tuning may train: all but the constants."""
        return [parameter for name, parameter in self.named_parameters() if name not in self.constants]

    def get_front_end(self) -> Sequence[nn.Module]:
        """Return the convolutional front end; fine-tuning keeps a pretrained one frozen."""
        return ()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights and all other files that `load` needs, for NAME=folder.

        If the folder already has a checkpoint, the weights that this encoder still holds replace
        those in it.
        """

    @abstractmethod
    def prepare(self, raw: Any) -> Tensor:
        """Convert one utterance to its sequence in the input of `forward`.

        `raw` is samples float32 (S,) at 16 kHz, or a normalized transcript (str).
        """

    @abstractmethod
    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return the number of frames for a number of prepared samples (16 kHz) or tokens."""

    def get_padded_length(self, length: int) -> int:
        """Return the number of samples or tokens that `forward` pads an input of this length to."""
        return length

    @abstractmethod
    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode a batch of prepared inputs into features (sum T, D) of each of `layers`."""

    def forward(self, inputs: Ragged) -> Ragged:
        """Encode a batch of prepared inputs into features (sum T, D) of the first of `layers`."""
        return self.forward_layers(inputs)[0]


def resolve_layers(selector: Selector, num_layers: int) -> tuple[Layer, ...]:
    """Return the layers that a selector requests, by default the encoder's own.

    InputError for a layer above the top.
    """
    if selector.layers is None:
        depth = selector.spec.depth
        return ("last",) if depth is None else (max(1, round(depth * num_layers)),)
    layers = expand_layers(selector.layers, num_layers)
    for layer in layers:
        if isinstance(layer, int) and layer > num_layers:
            raise InputError(f"{selector.flag}: the layer must be 0..{num_layers} or 'last', found {layer}")
    return layers


@contextmanager
def capture_hidden_states(
    blocks: Sequence[nn.Module], layers: Sequence[Layer], after_first: nn.Module | None = None
) -> Iterator[dict[Layer, Tensor]]:
    """Collect hidden states with hooks while a model runs.

    State 0 is the input of the first block, and state k the output of block k. `after_first` is a
    module, if any, that changes the output of the first block before the second one reads it.
    "last" is not collected: it is the model's own output.
    """
    sources = [after_first or blocks[0], *blocks[1:]]
    states: dict[Layer, Tensor] = {}

    def before(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        states[0] = args[0] if args else kwargs["hidden_states"]

    def after(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = []
    for layer in layers:
        if layer == 0:
            handles.append(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        elif isinstance(layer, int):
            handles.append(sources[layer - 1].register_forward_hook(after(layer)))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def forward_each(forward_layers: Callable[[Ragged], list[Ragged]], inputs: Ragged) -> list[Ragged]:
    """Encode each sequence in a batch of its own, and join the features of each layer."""
    alone = [forward_layers(Ragged.from_sequences([sequence])) for sequence in inputs.split()]
    joined = []
    for parts in zip(*alone, strict=True):  # the features of one layer, by sequence
        joined.append(Ragged.from_sequences([part.values for part in parts]))
    return joined


def blocks_needed(layers: Sequence[Layer], num_layers: int) -> int:
    """Return how many blocks must run for these layers: at least one, whose input is layer 0."""
    return num_layers if "last" in layers else max(1, *map(int, layers))


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a state dict: name, dtype, shape and bytes of each entry, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_encoder(selector: Selector, settings: EncoderSettings = DEFAULT_SETTINGS) -> Encoder:
    """Load the encoder that a selector names, frozen and in eval mode, on the CPU.

    The model may be the run of a fine-tuning. Settings that this encoder does not support are
    ignored.
    """
    encoder = load_all_blocks(selector, settings)
    encoder.drop_unused_blocks()
    return encoder


def load_all_blocks(selector: Selector, settings: EncoderSettings = DEFAULT_SETTINGS) -> Encoder:
    """Load an encoder as `load_encoder` does, but keep the blocks above the requested layers."""
    settings = settings.only(selector.spec.settings)
    record = find_fine_tuning(selector)
    resolved = selector
    if record is not None:
        resolved = replace(selector, model=str(record.folder), layers=record.resolve_layers(selector))
        settings = record.fill_settings(settings)
    encoder_class: type[Encoder] = import_target(selector.spec.target)
    encoder = encoder_class.load(resolved, settings)
    if record is not None:
        encoder.fine_tuning, encoder.model_name, encoder.weights_note = record, record.run, record.weights_note
        # the checkpoint still has the note of the weights that training began with
        encoder.is_random = False
    encoder.weights_sha256, encoder.source = weights_sha256(encoder), find_source(selector)
    constants = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
    encoder.constants = frozenset(constants)
    encoder.requires_grad_(False)
    return encoder.eval()


def samples_tensor(samples: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """Convert audio samples (S,) to a float32 tensor.

    ValueError for another shape or an empty array.
    """
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"samples must be a non-empty (S,) array, found shape {samples.shape}")
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
