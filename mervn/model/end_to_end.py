"""EndToEnd: encoders and head as one model, from waveforms and token ids to logits; which parameters are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from features.encoders.base import Encoder
from features.errors import UsageError
from features.ragged import Ragged
from mervn.config import FinetuneOptions, TrainingOptions
from mervn.model.head import Head, head_groups
from mervn.model.trainable import Trainable


class EndToEnd(Trainable):
    """One encoder per stream, then the head. Frozen parts stay in eval mode without gradients, even after `train()`."""

    first_epoch = 0

    def __init__(self, encoders: Mapping[str, Encoder], head: Head) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.head = head
        self.tuned: dict[str, list[nn.Parameter]] = {}
        """By stream the encoder's parameters that are trained, from the epoch in which they are unfrozen."""
        self.options: FinetuneOptions | None = None
        """What is trained, and how fast; set by `choose_trained`."""

    def encode(self, inputs: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return the features (sum T, D) float32 of prepared inputs, or (sum T, L, D) where layers are mixed."""
        return {name: encode_inputs(self.encoder(name), stream) for name, stream in inputs.items()}

    def classify(self, features: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from features."""
        logits: Tensor = self.head(features)
        return logits

    def encoder(self, stream: str) -> Encoder:
        """Return the encoder of a stream."""
        found = self.encoders[stream]
        if not isinstance(found, Encoder):
            raise TypeError(f"an Encoder is needed, found {type(found).__name__}")
        return found

    def train(self, mode: bool = True) -> EndToEnd:
        """Set training mode on what is trained; dropout in frozen parts stays off."""
        self.training = mode
        self.head.train(mode)
        for name in self.encoders:
            encoder = self.encoder(name)
            _set_mode(encoder, mode, inherited=False, trainable=frozenset(map(id, encoder.get_trainable())))
        return self

    def choose_trained(self, options: FinetuneOptions) -> None:
        """Decide which parameters of the encoders are trained, and freeze all of them until `start_epoch`."""
        self.options = options
        for name in self.encoders:
            encoder = self.encoder(name)
            self.tuned[name] = (
                _add_lora(encoder, options, options.lora_rank) if options.lora_rank else _chosen(encoder, options)
            )
            if options.gradient_checkpointing:
                for block in encoder.get_blocks():
                    _checkpoint(block)
        self.encoders.requires_grad_(False)

    def start_epoch(self, epoch: int) -> None:
        """Unfreeze what this epoch trains; epochs count from 1."""
        for parameters in self.tuned.values():
            for parameter in parameters:
                parameter.requires_grad_(self.options is not None and epoch >= self.options.unfreeze_at)

    def parameter_groups(self, options: TrainingOptions) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups; `scale` is the learning rate of a group relative to the head's.

        Block k of N learns at encoder_learning_rate * layer_decay^(N - k), what is below the blocks at the power N.
        """
        groups = [group | {"scale": 1.0} for group in head_groups(self.head, options)]
        if self.options is not None:
            for name in self.encoders:
                groups += self._encoder_groups(name, self.options)
        return groups

    def _encoder_groups(self, name: str, options: FinetuneOptions) -> list[dict[str, Any]]:
        """Return the parameter groups of one encoder, by block, with and without weight decay."""
        chosen = {id(parameter) for parameter in self.tuned[name]}
        blocks = self.encoder(name).get_blocks()
        depth: dict[int, int] = {}
        for k, block in enumerate(blocks, 1):
            depth |= dict.fromkeys(map(id, block.parameters()), k)
        groups = []
        for k in range(len(blocks) + 1):
            scale = options.encoder_learning_rate / options.learning_rate * options.layer_decay ** (len(blocks) - k)
            here = [p for p in self.encoders[name].parameters() if id(p) in chosen and depth.get(id(p), 0) == k]
            decayed, kept = [p for p in here if p.ndim > 1], [p for p in here if p.ndim <= 1]
            for parameters, decay in ((decayed, options.weight_decay), (kept, 0.0)):
                if parameters:
                    groups.append({"params": parameters, "weight_decay": decay, "scale": scale})
        return groups

    def count(self) -> dict[str, int]:
        """Return the numbers of parameters: all, of the encoders, trained of the encoders, of the head."""
        encoders = sum(p.numel() for p in self.encoders.parameters())
        head = sum(p.numel() for p in self.head.parameters())
        trained = sum(p.numel() for some in self.tuned.values() for p in some)
        return {"all": encoders + head, "encoders": encoders, "encoders_trained": trained, "head": head}


def encode_inputs(encoder: Encoder, inputs: Ragged) -> Ragged:
    """Return the features of a batch, no frames for an empty input; several layers are (sum T, L, D)."""
    spoken = [size for size in inputs.sizes if size]
    sizes = [int(encoder.get_feat_lengths(size)) if size else 0 for size in inputs.sizes]
    if not spoken:
        shape = (0, encoder.dim) if len(encoder.layers) == 1 else (0, len(encoder.layers), encoder.dim)
        return Ragged.from_lengths(torch.zeros(shape, device=inputs.values.device), sizes)
    layers = [layer.values.float() for layer in encoder.forward_layers(Ragged.from_lengths(inputs.values, spoken))]
    return Ragged.from_lengths(layers[0] if len(layers) == 1 else torch.stack(layers, dim=1), sizes)


def merge_lora(model: EndToEnd) -> None:
    """Merge the adapters into the weights that they adapt, and remove them."""
    for encoder in model.encoders.values():
        for module in list(encoder.modules()):
            for name, child in list(module.named_children()):
                if hasattr(child, "lora_A"):
                    adapted: Any = child
                    adapted.merge()
                    setattr(module, name, adapted.get_base_layer())


def _chosen(encoder: Encoder, options: FinetuneOptions) -> list[nn.Parameter]:
    """Return the parameters of an encoder that are trained: those of its last blocks, or all but its front end.

    Constants of the model, such as Whisper's sinusoidal positions, stay as they are.
    """
    trainable = encoder.get_trainable()
    if options.unfreeze_last is not None:
        blocks = list(encoder.get_blocks())
        last = blocks[max(0, len(blocks) - options.unfreeze_last) :]
        inside = {id(p) for block in last for p in block.parameters()}
        return [p for p in trainable if id(p) in inside]
    keep = encoder.is_random if options.train_front_end is None else options.train_front_end
    front = set() if keep else {id(p) for part in encoder.get_front_end() for p in part.parameters()}
    return [p for p in trainable if id(p) not in front]


def _add_lora(encoder: Encoder, options: FinetuneOptions, rank: int) -> list[nn.Parameter]:
    """Add low-rank adapters (Hu et al. 2021, arXiv 2106.09685) to an encoder's blocks and return their parameters."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(f"--lora-rank needs peft ({error}): pip install 'mervn[lora]'") from error
    blocks = list(encoder.get_blocks())
    if options.unfreeze_last is not None:
        blocks = blocks[max(0, len(blocks) - options.unfreeze_last) :]
    inside = {id(module) for block in blocks for module in block.modules()}
    targets = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside and name.split(".")[-1] in encoder.lora_targets
    ]
    if not targets:
        return []
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, encoder)
    return [p for name, p in encoder.named_parameters() if "lora_" in name]


def _set_mode(module: nn.Module, mode: bool, inherited: bool, trainable: frozenset[int]) -> None:
    """Set training mode on modules whose parameters are all trained; one without parameters follows its parent."""
    parameters = [parameter for parameter in module.parameters() if id(parameter) in trainable]
    whole = all(parameter.requires_grad for parameter in parameters) if parameters else inherited
    module.training = mode and whole
    for child in module.children():
        _set_mode(child, mode, whole, trainable)


def _checkpoint(block: nn.Module) -> None:
    """Checkpoint a block: recompute its activations in the backward pass (Chen et al. 2016, arXiv 1604.06174)."""
    plain: Callable[..., Any] = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and _any_trained(block.parameters()):
            return checkpoint(plain, *args, use_reentrant=False, **kwargs)
        return plain(*args, **kwargs)

    block.forward = forward


def _any_trained(parameters: Any) -> bool:
    return any(parameter.requires_grad for parameter in parameters)
