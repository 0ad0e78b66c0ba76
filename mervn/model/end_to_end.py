"""Encoders and head as one model, from waveforms and tokens to logits; what of it is trained, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from features.encoders.base import Encoder
from features.errors import UsageError
from features.ragged import Ragged
from mervn.config import FinetuneOptions
from mervn.model.head import Head, head_groups


class EndToEnd(nn.Module):
    """Encoders by stream, then the head. What is frozen has no gradient and is in eval mode, whatever `train` says."""

    def __init__(self, encoders: Mapping[str, Encoder], head: Head) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.head = head
        self.tuned: dict[str, list[nn.Parameter]] = {}
        """By stream the parameters of the encoder that are trained, from the epoch of their unfreezing on."""

    def encode(self, inputs: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return the features (sum T, D) float32 of prepared inputs, or (sum T, L, D) where layers are mixed."""
        return {name: encode_live(self.encoder(name), stream) for name, stream in inputs.items()}

    def forward(self, inputs: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 of prepared inputs: samples (sum S,), token ids (sum T,)."""
        logits: Tensor = self.head(self.encode(inputs))
        return logits

    def encoder(self, stream: str) -> Encoder:
        """Return the encoder of a stream."""
        found = self.encoders[stream]
        if not isinstance(found, Encoder):
            raise TypeError(f"an Encoder is needed, found {type(found).__name__}")
        return found

    def train(self, mode: bool = True) -> EndToEnd:
        """Put what is trained into training mode; dropout of what is frozen stays off."""
        self.training = mode
        self.head.train(mode)
        for name in self.encoders:
            encoder = self.encoder(name)
            _set_mode(encoder, mode, inherited=False, trainable=frozenset(map(id, encoder.get_trainable())))
        return self

    def choose(self, options: FinetuneOptions) -> None:
        """Decide which parameters of the encoders are trained, and freeze all until `enter_epoch`."""
        for name in self.encoders:
            encoder = self.encoder(name)
            self.tuned[name] = (
                _add_lora(encoder, options, options.lora_rank) if options.lora_rank else _chosen(encoder, options)
            )
            if options.gradient_checkpointing:
                for block in encoder.get_blocks():
                    _checkpoint(block)
        self.encoders.requires_grad_(False)

    def enter_epoch(self, epoch: int, options: FinetuneOptions) -> None:
        """Unfreeze what this epoch trains; epochs count from 1."""
        for parameters in self.tuned.values():
            for parameter in parameters:
                parameter.requires_grad_(epoch >= options.unfreeze_at)

    def groups(self, options: FinetuneOptions) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups; `scale` is a group's learning rate over the head's.

        A block k of N learns at encoder_learning_rate * layer_decay^(N - k), what is below the blocks at the power N.
        """
        found = [group | {"scale": 1.0} for group in head_groups(self.head, options)]
        for name in self.encoders:
            chosen = {id(parameter) for parameter in self.tuned[name]}
            blocks = self.encoder(name).get_blocks()
            depth = {id(p): k for k, block in enumerate(blocks, 1) for p in block.parameters()}
            for k in range(len(blocks) + 1):
                scale = options.encoder_learning_rate / options.learning_rate * options.layer_decay ** (len(blocks) - k)
                here = [p for p in self.encoders[name].parameters() if id(p) in chosen and depth.get(id(p), 0) == k]
                for decay, some in (
                    (options.weight_decay, [p for p in here if p.ndim > 1]),
                    (0.0, [p for p in here if p.ndim <= 1]),
                ):
                    if some:
                        found.append({"params": some, "weight_decay": decay, "scale": scale})
        return found

    def count(self) -> dict[str, int]:
        """Return the numbers of parameters: all, of the encoders, trained of the encoders, of the head."""
        encoders = sum(p.numel() for p in self.encoders.parameters())
        head = sum(p.numel() for p in self.head.parameters())
        trained = sum(p.numel() for some in self.tuned.values() for p in some)
        return {"all": encoders + head, "encoders": encoders, "encoders_trained": trained, "head": head}


def encode_live(encoder: Encoder, inputs: Ragged) -> Ragged:
    """Return the features of a batch, no rows for an empty input; several layers are (sum T, L, D)."""
    spoken = [size for size in inputs.sizes if size]
    sizes = [int(encoder.get_feat_lengths(size)) if size else 0 for size in inputs.sizes]
    if not spoken:
        shape = (0, encoder.dim) if len(encoder.layers) == 1 else (0, len(encoder.layers), encoder.dim)
        return Ragged.from_lengths(torch.zeros(shape, device=inputs.values.device), sizes)
    layers = [layer.values.float() for layer in encoder.forward_layers(Ragged.from_lengths(inputs.values, spoken))]
    return Ragged.from_lengths(layers[0] if len(layers) == 1 else torch.stack(layers, dim=1), sizes)


def merge_lora(model: EndToEnd) -> None:
    """Add the adapters to the weights they sit on, and take them out."""
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
    """Put low-rank adapters (Hu et al. 2021, arXiv 2106.09685) into an encoder's blocks and return what they train."""
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
    """Train what has only trained parameters; a module without any, constants aside, does as the one around it."""
    parameters = [parameter for parameter in module.parameters() if id(parameter) in trainable]
    whole = all(parameter.requires_grad for parameter in parameters) if parameters else inherited
    module.training = mode and whole
    for child in module.children():
        _set_mode(child, mode, whole, trainable)


def _checkpoint(block: nn.Module) -> None:
    """Have a block forget its activations and compute them again for its gradients (Chen et al. 2016, 1604.06174)."""
    plain: Callable[..., Any] = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and _any_trained(block.parameters()):
            return checkpoint(plain, *args, use_reentrant=False, **kwargs)
        return plain(*args, **kwargs)

    block.forward = forward


def _any_trained(parameters: Any) -> bool:
    return any(parameter.requires_grad for parameter in parameters)
