"""`finetune --init-head RUN`: data, encoders, layers, labels and the head of a `train-head` run."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from mervn.model.custom_module import saved_modules
from mervn.model.head import Head
from mervn.model.saved_run import data_and_streams, load_head
from mervn.run_folder import RunConfig, options_of, read_config

TAKEN = {*HeadOptions.model_fields, *LabelOptions.model_fields, *FoldOptions.model_fields, "data", "audio_root"}


@dataclass(frozen=True)
class InitHead:
    """A finished head, and the stores it was trained on."""

    run: Path
    config: RunConfig
    head: Head
    streams: Mapping[str, Stream]

    @property
    def selectors(self) -> dict[str, Selector]:
        """The encoder of each stream, as it was extracted; random weights come from the store that keeps them."""
        found = {}
        for name, stream in self.streams.items():
            kept, selector = stream.first.path / KEPT_ENCODER, stream.selector
            random = selector.model is None and (kept / CONFIG_FILE).is_file()
            found[name] = replace(selector, model=str(kept)) if random else selector
        return found

    def settings(self, name: str) -> EncoderSettings:
        """Return what the encoder of a stream was told besides its selector."""
        return recorded_settings(self.streams[name].first.info.identity.config)


def take_head(options: FinetuneOptions) -> tuple[FinetuneOptions, InitHead | None]:
    """Return the options with what the run gives; UsageError lists every flag that contradicts it."""
    if options.init_head is None:
        return options, None
    run = options.init_head
    config = read_config(run)
    if config.command != "train-head":
        raise UsageError(f"--init-head must be a run of train-head, {run} is one of {config.command}")
    head = load_head(run, config, options.trust_code)
    kept = saved_modules(run, config.options, config.inputs.get("modules", {}), options.trust_code)
    _, streams = data_and_streams(config, EvaluateOptions(features_dir=options.features_dir))
    init = InitHead(run, config, head, streams)
    taken = {name: value for name, value in {**config.options, **kept}.items() if name in TAKEN}
    known = options_of(run, taken, FinetuneOptions)
    faults = [
        f"  --{name.replace('_', '-')}: the run has {getattr(known, name)}, found {getattr(options, name)}"
        for name in sorted(TAKEN & options.model_fields_set)
        if name in taken or name in options.given
        if _plain(getattr(options, name)) != _plain(getattr(known, name))
    ]
    faults += _encoder_faults(options, init)
    if faults:
        raise UsageError(f"--init-head {run} decides what these say otherwise; leave them out:\n" + "\n".join(faults))
    changes = {name: getattr(known, name) for name in taken}
    for modality in ("audio", "text"):
        names = [str(s) for n, s in init.selectors.items() if modality_of(n) == modality]
        changes[f"{modality}_encoder"] = "+".join(names) or None
    return options.model_copy(update=changes), init


def _plain(value: Any) -> Any:
    """Return a value to compare: paths absolute."""
    if isinstance(value, Path):
        return str(value.resolve())
    return json.loads(json.dumps(value))


def _encoder_faults(options: FinetuneOptions, init: InitHead) -> list[str]:
    faults = []
    for modality in ("audio", "text"):
        text = getattr(options, f"{modality}_encoder")
        if text is None:
            continue
        streams = [stream for name, stream in init.streams.items() if modality_of(name) == modality]
        there = [init.selectors[stream.name] for stream in streams]
        given = parse_selectors(text, modality)
        if len(given) != len(streams) or not all(map(_is_stream, given, streams)):
            faults.append(f"  --{modality}-encoder: the run has {'+'.join(map(str, there)) or 'none'}, found {text}")
    return faults


def _is_stream(selector: Selector, stream: Stream) -> bool:
    """Tell whether a selector means the encoder, and the layers if it names any, of a stream."""
    anywhere = replace(selector, layers=None)
    return selector.layers in (None, stream.selector.layers) and not StoreQuery(anywhere).differences(stream.first.info)
