"""Options that the chosen fusion, loss, sampling, streams or fine-tuning never read: such an option changes nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from features.encoders.selector import parse_selectors
from features.errors import UsageError
from mervn.config import FinetuneOptions, TrainHeadOptions, TrainingOptions
from mervn.data.streams import SECOND
from mervn.model.custom_module import fusion_spec, loss_spec
from mervn.registry import (
    ADAPTERS_IGNORE,
    ATTENTION_OPTIONS,
    FROZEN_IGNORES,
    FUSIONS,
    INIT_HEAD_IGNORES,
    LOSSES,
    SAMPLINGS,
    STREAM_OPTIONS,
)

OptionsT = TypeVar("OptionsT", bound=TrainingOptions)


def unread_options(options: TrainingOptions) -> dict[str, str]:
    """Return the options that nothing reads, each with the choice that leaves it unread, for people."""
    fusion, loss = fusion_spec(options.fusion), loss_spec(options.loss)
    streams = _streams(options, fusion.streams)
    unread: dict[str, str] = {}
    for spec in FUSIONS.values():
        unread |= dict.fromkeys(spec.options, f"--fusion {options.fusion} does not read it")
    if not fusion.attention:
        unread |= dict.fromkeys(ATTENTION_OPTIONS, f"--fusion {options.fusion} has no attention")
    for known in LOSSES.values():
        unread |= dict.fromkeys(known.options, f"--loss {options.loss} does not read it")
    for names in SAMPLINGS.values():
        some = set(names) - set(SAMPLINGS[options.sampling])
        unread |= dict.fromkeys(some, f"--sampling {options.sampling} does not read it")
    for stream, names in STREAM_OPTIONS.items():
        second = "there is no second audio stream"
        why = second if stream == SECOND else f"--fusion {options.fusion} reads no {stream}"
        unread |= dict.fromkeys(names if stream not in streams else (), why)
    if isinstance(options, FinetuneOptions):
        unread |= _untrained(options)
    taken = {*fusion.options, *loss.options}
    found = {name: why for name, why in unread.items() if name in type(options).model_fields and name not in taken}
    if options.fusion in FUSIONS and "dilation_growth" in fusion.options and options.cnn_layers == 1:
        found["dilation_growth"] = "the only layer of --cnn-layers 1 is not dilated"
    return found


def _streams(options: TrainingOptions, modalities: Collection[str]) -> set[str]:
    """Return the streams that the head will have."""
    found = set(modalities)
    if isinstance(options, TrainHeadOptions | FinetuneOptions) and "audio" in found and options.audio_encoder:
        found |= {SECOND} if len(parse_selectors(options.audio_encoder, "audio")) > 1 else set()
    return found


def _untrained(options: FinetuneOptions) -> dict[str, str]:
    """Return what a fine-tuning leaves unread."""
    unread: dict[str, str] = {}
    if options.lora_rank is not None or options.unfreeze_last is not None:
        chosen = "--lora-rank" if options.lora_rank is not None else "--unfreeze-last"
        unread |= dict.fromkeys(ADAPTERS_IGNORE, f"{chosen} decides what is trained")
    if options.unfreeze_last == 0:
        unread |= dict.fromkeys(FROZEN_IGNORES, "--unfreeze-last 0 trains no encoder")
    if options.init_head is not None:
        unread |= dict.fromkeys(INIT_HEAD_IGNORES, "--init-head decides it")
    else:
        unread["features_dir"] = "only the run of --init-head has stores"
    return unread


def refuse_unread(options: TrainingOptions, given: Collection[str]) -> None:
    """Raise a UsageError that lists the options that were given and that nothing reads."""
    lines = [
        f"  --{name.replace('_', '-')}: {why}" for name, why in sorted(unread_options(options).items()) if name in given
    ]
    if lines:
        raise UsageError("these options change nothing; leave them out:\n" + "\n".join(lines))


def without_unread(options: OptionsT) -> OptionsT:
    """Return the options with the default of each that nothing reads, so that none of them can have an effect."""
    fields = type(options).model_fields
    return options.model_copy(update={name: fields[name].get_default() for name in unread_options(options)})
