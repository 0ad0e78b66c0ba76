"""Unread options: those without effect under the other options, such as the fusion or the loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from features.encoders.selector import parse_selectors
from features.errors import UsageError
from mervn.config import FinetuneOptions, TrainHeadOptions, TrainingOptions
from mervn.data.streams import SECOND
from mervn.registry import (
    ADAPTERS_IGNORE,
    ATTENTION_OPTIONS,
    FIT_IGNORES,
    FROZEN_IGNORES,
    FUSIONS,
    INIT_HEAD_IGNORES,
    LINEAR_IGNORES,
    LINEAR_POOLING,
    LOSSES,
    SAMPLINGS,
    STREAM_OPTIONS,
    FusionSpec,
    LossSpec,
)

OptionsT = TypeVar("OptionsT", bound=TrainingOptions)


def unread_options(options: TrainingOptions, fusion: FusionSpec, loss: LossSpec) -> dict[str, str]:
    """Return the options that have no effect, each with the reason that a message shows.

    `fusion` and `loss` are those that the options name.
    """
    streams = _streams(options, fusion.streams)
    unread: dict[str, str] = {}
    # mark the options of all fusions, losses and samplings, then unmark those of the chosen ones
    for spec in FUSIONS.values():
        unread |= dict.fromkeys(spec.options, f"--fusion {options.fusion} does not read it")
    if not fusion.attention:
        unread |= dict.fromkeys(ATTENTION_OPTIONS, f"--fusion {options.fusion} has no attention")
    for other_loss in LOSSES.values():
        unread |= dict.fromkeys(other_loss.options, f"--loss {options.loss} does not read it")
    for names in SAMPLINGS.values():
        others = set(names) - set(SAMPLINGS[options.sampling])
        unread |= dict.fromkeys(others, f"--sampling {options.sampling} does not read it")
    for stream, names in STREAM_OPTIONS.items():
        if stream not in streams:
            why = "the head has no second audio stream"
            if stream != SECOND:
                why = f"--fusion {options.fusion} does not read {stream}"
            unread |= dict.fromkeys(names, why)
    if isinstance(options, FinetuneOptions):
        unread |= _unread_by_finetune(options)
    for name in list(unread):
        if name not in type(options).model_fields or name in (*fusion.options, *loss.options):
            del unread[name]
    if fusion.linear:
        unread |= _unread_by_linear(options)
    if options.fusion in FUSIONS and "dilation_growth" in fusion.options and options.cnn_layers == 1:
        unread["dilation_growth"] = "the only layer of --cnn-layers 1 is not dilated"
    return unread


def _streams(options: TrainingOptions, modalities: Collection[str]) -> set[str]:
    """Return the streams that the head will have."""
    streams = set(modalities)
    if isinstance(options, TrainHeadOptions | FinetuneOptions) and "audio" in streams:
        selectors = parse_selectors(options.audio_encoder, "audio", imported=True) if options.audio_encoder else []
        if len(selectors) > 1:
            streams.add(SECOND)
    return streams


def _unread_by_linear(options: TrainingOptions) -> dict[str, str]:
    """Return the options that have no effect on a linear head or, in `train-head`, on its fit."""
    unread = dict.fromkeys(LINEAR_IGNORES, f"--fusion {options.fusion} does not read it")
    if options.pooling != LINEAR_POOLING:
        unread["pooling"] = f"--fusion {options.fusion} always pools by the {LINEAR_POOLING}"
    if isinstance(options, TrainHeadOptions):
        reason = f"--fusion {options.fusion} is fitted by logistic regression"
        unread |= dict.fromkeys(FIT_IGNORES, reason)
    return unread


def _unread_by_finetune(options: FinetuneOptions) -> dict[str, str]:
    """Return the options of `finetune` that have no effect beside its other options."""
    unread: dict[str, str] = {}
    if options.lora_rank is not None or options.unfreeze_last is not None:
        chosen = "--lora-rank" if options.lora_rank is not None else "--unfreeze-last"
        unread |= dict.fromkeys(ADAPTERS_IGNORE, f"{chosen} selects the parameters to train")
    if options.unfreeze_last == 0:
        unread |= dict.fromkeys(FROZEN_IGNORES, "--unfreeze-last 0 trains no encoder")
    if options.init_head is not None:
        unread |= dict.fromkeys(INIT_HEAD_IGNORES, "--init-head RUN provides it")
    else:
        unread["features_dir"] = "finetune reads stores only with --init-head"
    return unread


def refuse_unread(unread: Mapping[str, str], given: Collection[str]) -> None:
    """Raise UsageError if any of the given options has no effect; the message lists all of them."""
    lines = []
    for name, why in sorted(unread.items()):
        if name in given:
            lines.append(f"  --{name.replace('_', '-')}: {why}")
    if lines:
        raise UsageError("these options have no effect here; leave them out:\n" + "\n".join(lines))


def without_unread(options: OptionsT, unread: Collection[str]) -> OptionsT:
    """Return the options with the unread ones reset to their defaults.

    Configurations that differ only in unread options then compare equal.
    """
    fields = type(options).model_fields
    defaults = {name: fields[name].get_default() for name in unread}
    return options.model_copy(update=defaults)
