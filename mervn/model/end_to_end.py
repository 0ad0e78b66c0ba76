"""EndToEnd: encoders and head as one model, from waveforms and token ids to logits.

The encoders are frozen, trained in part or in full, or adapted with LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from features.audio.torchaudio_import import import_torchaudio
from features.encoders import ENCODERS
from features.encoders.base import Encoder
from features.errors import UsageError
from features.ragged import Ragged
from mervn.config import FinetuneOptions, TrainingOptions
from mervn.data.streams import StreamShape
from mervn.model.head import Head
from mervn.model.trainable import ParameterGroup, Trainable, count_parameters, decay_groups


class EndToEnd(Trainable):
    """One encoder per stream, then the head.

    Frozen parts stay in eval mode without gradients, even after `train()`.
    """

    first_epoch = 0

    def __init__(self, encoders: Mapping[str, Encoder], head: Head) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.head = head
        self.tuned: dict[str, list[nn.Parameter]] = {}
        """By stream, the parameters of the encoder that are trained from epoch `unfreeze_at` on."""
        self.options: FinetuneOptions | None = None
        """Options of `choose_trained`, which select the trained parameters; None before."""

    def encode(self, inputs: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return features (sum T, D) float32 of prepared inputs, or (sum T, L, D) to mix layers."""
        return {name: encode_inputs(self.encoder(name), stream) for name, stream in inputs.items()}

    def classify(self, features: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from features."""
        logits: Tensor = self.head(features)
        return logits

    def encoder(self, stream: str) -> Encoder:
        """Return the encoder of a stream."""
        encoder = self.encoders[stream]
        if not isinstance(encoder, Encoder):
            raise TypeError(f"encoders must be of class Encoder, found {type(encoder).__name__}")
        return encoder

    def train(self, mode: bool = True) -> EndToEnd:
        """Set training mode on the trained parts; dropout in frozen parts stays off."""
        self.training = mode
        self.head.train(mode)
        for name in self.encoders:
            encoder = self.encoder(name)
            trainable = frozenset(map(id, encoder.get_trainable()))
            _set_mode(encoder, mode, inherited=False, trainable=trainable)
        return self

    def choose_trained(self, options: FinetuneOptions) -> None:
        """Select the encoders' parameters to train, and freeze all encoders until `start_epoch`.

        With `lora_rank`, adapters are added and only they are trained.
        """
        self.options = options
        for name in self.encoders:
            encoder = self.encoder(name)
            if options.lora_rank:
                self.tuned[name] = _add_lora(encoder, options, options.lora_rank)
            else:
                self.tuned[name] = _select_parameters(encoder, options)
            if options.gradient_checkpointing:
                for block in encoder.get_blocks():
                    _checkpoint(block)
        self.encoders.requires_grad_(False)

    def start_epoch(self, epoch: int) -> None:
        """Unfreeze the selected parameters from epoch `unfreeze_at` on; epochs count from 1."""
        is_trained = self.options is not None and epoch >= self.options.unfreeze_at
        for parameter in chain.from_iterable(self.tuned.values()):
            parameter.requires_grad_(is_trained)

    def parameter_groups(self, options: TrainingOptions) -> list[ParameterGroup]:
        """Return AdamW's parameter groups.

        `scale` is the learning rate of a group relative to the head's. Block k of N learns at
        encoder_learning_rate * layer_decay^(N - k); parameters below the blocks use k = 0.
        """
        groups = decay_groups(self.head, options.weight_decay)
        for group in groups:
            group["scale"] = 1.0
        if self.options is not None:
            for name in self.encoders:
                groups += self._encoder_groups(name, self.options)
        return groups

    def _encoder_groups(self, name: str, options: FinetuneOptions) -> list[ParameterGroup]:
        """Return the parameter groups of one encoder, by block, with and without weight decay."""
        tuned_ids = set(map(id, self.tuned[name]))
        blocks = self.encoder(name).get_blocks()
        block_of: dict[int, int] = {}  # id of a parameter -> number of its block, from 1
        for k, block in enumerate(blocks, 1):
            block_of |= dict.fromkeys(map(id, block.parameters()), k)
        members: dict[tuple[int, bool], list[nn.Parameter]] = {}  # by block and weight decay
        for parameter in self.encoders[name].parameters():
            if id(parameter) in tuned_ids:
                is_decayed = parameter.ndim > 1  # biases and norms have one dimension
                key = (block_of.get(id(parameter), 0), is_decayed)
                members.setdefault(key, []).append(parameter)
        groups: list[ParameterGroup] = []
        last_scale = options.encoder_learning_rate / options.learning_rate  # of the last block
        for k in range(len(blocks) + 1):
            scale = last_scale * options.layer_decay ** (len(blocks) - k)
            for is_decayed, decay in ((True, options.weight_decay), (False, 0.0)):
                if (k, is_decayed) in members:
                    groups.append({"params": members[k, is_decayed], "weight_decay": decay, "scale": scale})
        return groups

    def count(self) -> dict[str, int]:
        """Return numbers of parameters: all, the encoders', their trained ones, and the head's."""
        encoders = count_parameters(self.encoders.parameters())
        head = count_parameters(self.head.parameters())
        trained = count_parameters(chain.from_iterable(self.tuned.values()))
        return {"all": encoders + head, "encoders": encoders, "encoders_trained": trained, "head": head}


def encode_inputs(encoder: Encoder, inputs: Ragged) -> Ragged:
    """Return the features (sum T, D) float32 of a batch, or (sum T, L, D) for several layers.

    An empty input has no frames.
    """
    non_empty = [size for size in inputs.sizes if size]
    sizes = [int(encoder.get_feat_lengths(size)) if size else 0 for size in inputs.sizes]
    if not non_empty:
        shape = (0, encoder.dim) if len(encoder.layers) == 1 else (0, len(encoder.layers), encoder.dim)
        return Ragged.from_lengths(torch.zeros(shape, device=inputs.values.device), sizes)
    # Encoders do not accept empty sequences; without them the packed values are the same.
    encoded = encoder.forward_layers(Ragged.from_lengths(inputs.values, non_empty))
    layers = [layer.values.float() for layer in encoded]
    return Ragged.from_lengths(layers[0] if len(layers) == 1 else torch.stack(layers, dim=1), sizes)


def merge_lora(model: EndToEnd) -> None:
    """Merge LoRA adapters into the weights that they adapt, and remove them."""
    for encoder in model.encoders.values():
        for module in list(encoder.modules()):  # a copy, because the loop replaces modules
            for name, child in list(module.named_children()):
                if hasattr(child, "lora_A"):
                    adapted: Any = child
                    adapted.merge()
                    setattr(module, name, adapted.get_base_layer())


def _select_parameters(encoder: Encoder, options: FinetuneOptions) -> list[nn.Parameter]:
    """Return the parameters of an encoder to train.

    With `unfreeze_last` these are the parameters of its last blocks, otherwise all, with or without
    those of its front end. Constants of the model, such as Whisper's sinusoidal positions, are
    never trained.
    """
    trainable = encoder.get_trainable()
    if options.unfreeze_last is not None:
        in_last_blocks = _parameter_ids(_last_blocks(encoder, options.unfreeze_last))
        return [parameter for parameter in trainable if id(parameter) in in_last_blocks]
    # By default a front end is trained only if its weights are random.
    train_front_end = encoder.is_random if options.train_front_end is None else options.train_front_end
    if train_front_end:
        return list(trainable)
    in_front_end = _parameter_ids(encoder.get_front_end())
    return [parameter for parameter in trainable if id(parameter) not in in_front_end]


def _last_blocks(encoder: Encoder, number: int) -> list[nn.Module]:
    """Return the last `number` blocks, or all if an encoder has fewer."""
    blocks = list(encoder.get_blocks())
    return blocks[max(0, len(blocks) - number) :]


def _parameter_ids(modules: Iterable[nn.Module]) -> set[int]:
    """Return the ids of all parameters of modules."""
    ids = set[int]()
    for module in modules:
        ids.update(map(id, module.parameters()))
    return ids


def _add_lora(encoder: Encoder, options: FinetuneOptions, rank: int) -> list[nn.Parameter]:
    """Add low-rank adapters to an encoder's blocks and return the parameters of the adapters.

    LoRA (Hu et al. 2021, arXiv 2106.09685). UsageError if peft is not installed.
    """
    import_torchaudio()  # before peft, which imports transformers, which imports torchaudio and could fail
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(f"--lora-rank needs peft ({error}): pip install 'mervn[lora]'") from error
    blocks = list(encoder.get_blocks())
    if options.unfreeze_last is not None:
        blocks = _last_blocks(encoder, options.unfreeze_last)
    in_blocks = set[int]()
    for block in blocks:
        in_blocks.update(map(id, block.modules()))
    targets = []
    for name, module in encoder.named_modules():
        is_target = isinstance(module, nn.Linear) and name.split(".")[-1] in encoder.lora_targets
        if is_target and id(module) in in_blocks:
            targets.append(name)
    if not targets:
        return []
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, encoder)
    return [p for name, p in encoder.named_parameters() if "lora_" in name]


def _set_mode(module: nn.Module, mode: bool, inherited: bool, trainable: frozenset[int]) -> None:
    """Set training mode on modules whose parameters are all trained.

    Modules without parameters follow their parent, whose mode is `inherited`. `trainable` holds the
    ids of parameters that are not constants of the model.
    """
    parameters = [parameter for parameter in module.parameters() if id(parameter) in trainable]
    all_trained = all(parameter.requires_grad for parameter in parameters) if parameters else inherited
    module.training = mode and all_trained
    for child in module.children():
        _set_mode(child, mode, all_trained, trainable)


def _checkpoint(block: nn.Module) -> None:
    """Recompute a trained block's activations in the backward pass, to save memory.

    Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174).
    """
    plain_forward: Callable[..., Any] = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and any(p.requires_grad for p in block.parameters()):
            return checkpoint(plain_forward, *args, use_reentrant=False, **kwargs)
        return plain_forward(*args, **kwargs)

    block.forward = forward


def shapes_of(encoders: Mapping[str, Encoder]) -> dict[str, StreamShape]:
    """Return the shape of each encoder's features, from which a head is built."""
    shapes = {}
    for name, encoder in encoders.items():
        spec, layers = ENCODERS[encoder.modality][encoder.name], tuple(map(str, encoder.layers))
        shapes[name] = StreamShape(encoder.dim, layers, spec.stride, spec.centre, encoder.causal)
    return shapes
