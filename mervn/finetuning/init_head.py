"""`finetune --init-head RUN`: take data, encoders, labels and head from a run of `train-head`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.command_lines import recorded_settings
from features.encoders.pretrained import CONFIG_FILE
from features.encoders.selector import EncoderSettings, Selector, parse_selectors
from features.errors import UsageError
from features.store.index import StoreQuery
from features.store.models import KEPT_ENCODER
from mervn.config import EvaluateOptions, FinetuneOptions, FoldOptions, HeadOptions, LabelOptions
from mervn.data.streams import Stream, modality_of
from mervn.evaluation.own_data import with_own_data
from mervn.model.custom_module import CustomModule
from mervn.model.head import Head
from mervn.model.saved_run import data_and_streams, load_head_with, modules_of
from mervn.run_folder import RunConfig, options_of, read_config

TAKEN = {*HeadOptions.model_fields, *LabelOptions.model_fields, *FoldOptions.model_fields, "data", "audio_root"}
"""Options of `finetune` that the run provides."""


@dataclass(frozen=True)
class InitHead:
    """The trained head of a run, and the stores it was trained on."""

    run: Path
    config: RunConfig
    head: Head
    streams: Mapping[str, Stream]
    custom: Mapping[str, CustomModule]
    """The custom modules of the head, by role, with the code that it was trained with."""

    @property
    def selectors(self) -> dict[str, Selector]:
        """The encoder of each stream, as it was extracted.

        Random weights are read from the copy in the store.
        """
        selectors = {}
        for name, stream in self.streams.items():
            copy, selector = stream.first.path / KEPT_ENCODER, stream.selector
            if selector.model is None and (copy / CONFIG_FILE).is_file():
                selector = replace(selector, model=str(copy))
            selectors[name] = selector
        return selectors

    def settings(self, name: str) -> EncoderSettings:
        """Return the settings, besides the selector, with which a stream was extracted."""
        return recorded_settings(self.streams[name].first.info.identity.config)


def take_head(options: FinetuneOptions) -> tuple[FinetuneOptions, InitHead | None]:
    """Return the options completed from the run of --init-head, and its head; None without a run.

    UsageError lists all flags that contradict the run.
    """
    if options.init_head is None:
        return options, None
    run = options.init_head
    config = read_config(run)
    if config.command != "train-head":
        raise UsageError(f"--init-head must be a run of train-head, {run} is one of {config.command}")
    options = with_own_data(config, options)
    custom = modules_of(run, config, options.trust_code)
    head = load_head_with(run, config, custom)
    own = with_own_data(config, options.model_copy(update={"data": None}))
    _, streams = data_and_streams(config, EvaluateOptions(features_dir=own.features_dir))
    imported = [stream.encoder for stream in streams.values() if stream.imported]
    if imported:
        raise UsageError(
            f"--init-head {run} was trained on imported features ({', '.join(imported)}): there is no encoder to train"
        )
    init = InitHead(run, config, head, streams, custom)
    # the copies in the run are what was read, not the files that its options name
    kept = {role: module.reference for role, module in custom.items()}
    taken = {name: value for name, value in {**config.options, **kept}.items() if name in TAKEN}
    of_run = options_of(run, taken, FinetuneOptions)
    conflicts = _option_conflicts(options, of_run, taken) + _encoder_conflicts(options, init)
    if conflicts:
        message = f"options must agree with the run of --init-head, {run}; leave these out:\n"
        raise UsageError(message + "\n".join(conflicts))
    # config.json has plain JSON values: take the validated ones.
    changes = {name: getattr(of_run, name) for name in taken}
    for modality in ("audio", "text"):
        changes[f"{modality}_encoder"] = "+".join(_selectors_of(init, modality)) or None
    return options.model_copy(update=changes), init


def _option_conflicts(options: FinetuneOptions, of_run: FinetuneOptions, taken: Collection[str]) -> list[str]:
    """Return a line of a message for each option that differs from the run's."""
    conflicts = []
    for name in sorted(TAKEN & options.model_fields_set):
        in_run, found = getattr(of_run, name), getattr(options, name)
        if name in ("data", "audio_root") and found is None:
            continue  # those of the run
        # An option that the run does not record counts only if the user gave it.
        if (name in taken or name in options.given) and _plain(found) != _plain(in_run):
            conflicts.append(f"  --{name.replace('_', '-')}: the run has {in_run}, found {found}")
    return conflicts


def _selectors_of(init: InitHead, modality: str) -> list[str]:
    """Return the selectors of the streams of one modality, as text."""
    return [str(selector) for name, selector in init.selectors.items() if modality_of(name) == modality]


def _plain(value: Any) -> Any:
    """Return a value that can be compared: paths as absolute strings, tuples as lists."""
    if isinstance(value, Path):
        return str(value.resolve())
    return json.loads(json.dumps(value))


def _encoder_conflicts(options: FinetuneOptions, init: InitHead) -> list[str]:
    """Return a line of a message for each modality whose encoders differ from the run's."""
    conflicts = []
    for modality in ("audio", "text"):
        text = getattr(options, f"{modality}_encoder")
        if text is None:
            continue
        streams = [stream for name, stream in init.streams.items() if modality_of(name) == modality]
        given = parse_selectors(text, modality)
        if len(given) != len(streams) or not all(map(_selects, given, streams)):
            in_run = "+".join(_selectors_of(init, modality)) or "none"
            conflicts.append(f"  --{modality}-encoder: the run has {in_run}, found {text}")
    return conflicts


def _selects(selector: Selector, stream: Stream) -> bool:
    """Tell whether a selector means the encoder of a stream and, if it names layers, its layers."""
    if selector.layers not in (None, stream.selector.layers):
        return False
    return not StoreQuery(replace(selector, layers=None)).differences(stream.first.info)


def refuse_custom(selector: Selector) -> Selector:
    """Return a selector; UsageError for a custom encoder."""
    if selector.is_custom:
        raise UsageError(
            f"{selector.flag}: finetune needs an encoder of the registry, because a run holds the encoder's weights "
            "and no code of it; train a head with train-head, or add the encoder to features/encoders"
        )
    return selector
