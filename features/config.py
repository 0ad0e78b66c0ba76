"""Option models of stage one: flag names, defaults, descriptions. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError, core_schema

SPLITS: tuple[Literal["train", "valid", "test"], ...] = ("train", "valid", "test")


OWN = re.compile(r".+\.py:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Tell whether a name means a class in a user's own file, `FILE.py:Class`."""
    return OWN.fullmatch(name) is not None


@dataclass(frozen=True)
class OneOf:
    """Restricts a str field to a registry's names, `Annotated[str, OneOf(FUSIONS)]`; with `own` also FILE.py:Class."""

    names: Iterable[str]
    own: bool = False

    @property
    def choices(self) -> list[str]:
        """What may stand there, for people."""
        return [*self.names, "FILE.py:Class"] if self.own else [*self.names]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Accept the names."""
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> str:
        if isinstance(value, str) and (value in list(self.names) or (self.own and is_own(value))):
            return value
        *first, last = self.choices
        raise PydanticCustomError("one_of", "input should be {choices}", {"choices": f"{', '.join(first)} or {last}"})


class Options(BaseModel):
    """Options of one command: frozen, unknown keys are errors, field name = flag name."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    rivals: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Options of which one stands in place of the others."""
    _general: frozenset[str] = PrivateAttr(frozenset())

    @property
    def given(self) -> frozenset[str]:
        """The options that were given for this call; not those of mervn.toml or --config, which are for many calls."""
        return frozenset(self.model_fields_set) - self._general

    def with_general(self, names: Iterable[str]) -> Self:
        """Mark options as general defaults: one that the other options leave unread is no fault."""
        found = self.model_copy()
        found._general = frozenset(names)
        return found


class CorpusOptions(Options):
    """Where the data is."""

    data: Path | None = Field(
        None, description="Folder of train.jsonl, valid.jsonl, test.jsonl; else data in mervn.toml, else ./data."
    )
    audio_root: Path | None = Field(
        None, description="Folder that wav_path is relative to; else the folder of the manifest."
    )


class DataOptions(CorpusOptions):
    """Where the data and the stores are."""

    features_dir: Path | None = Field(
        None, description="Folder of the feature stores; else $MERVN_FEATURES, else DATA/stores."
    )


class EncodeOptions(DataOptions):
    """Which encoders to run, and how."""

    audio_encoder: str | None = Field(None, description="NAME[=MODEL][@LAYERS], two joined by +; see `mervn encoders`.")
    text_encoder: str | None = Field(None, description="NAME[=MODEL][@LAYERS]; see `mervn encoders`.")
    encoder_precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision the encoder computes in.")
    segmenter: Literal["pyvi", "underthesea", "vncorenlp", "none"] | None = Field(
        None,
        description="Word segmenter of a text encoder; if unset pyvi for phobert and videberta, none for any other. "
        "vncorenlp needs Java and the folder $MERVN_VNCORENLP.",
    )
    tone_style: Literal["keep", "old", "new"] | None = Field(
        None,
        description="Tone marks for a text encoder: as they are (keep), old (hòa) or new (hoà) style; if unset new for "
        "phobert, keep for any other.",
    )
    whisper_mode: Literal["30s", "trimmed"] | None = Field(
        None, description="Whisper over padded windows of 30 s (unset), or over the real rows alone: faster, less true."
    )
    store_dtype: Literal["fp16", "fp32"] = Field("fp16", description="Precision on disk.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if torch sees one.")
    threads: Annotated[int, Field(ge=1)] | None = Field(None, description="CPU threads; torch's own choice if unset.")
    batch_seconds: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Padded seconds of audio per batch; if unset as the store's first extraction, which takes 8 on a "
        "CPU and 480 on a GPU.",
    )
    update: bool = Field(False, description="Replace the features of utterances whose audio or transcript changed.")


class ExtractOptions(EncodeOptions):
    """Options of `mervn extract`."""

    splits: tuple[Literal["train", "valid", "test"], ...] = Field(SPLITS, description="Splits to extract.")
    limit: Annotated[int, Field(ge=1)] | None = Field(None, description="Only the first N utterances of each split.")
    verify_inputs: bool = Field(False, description="Decode all audio that was extracted before and compare it.")
    plan: bool = Field(False, description="Print what would be done and what it would take, then stop.")
    retry_rejected: bool = Field(
        False, description="Try again what was rejected before, though neither audio nor transcript has changed."
    )
    format: Literal["hdf5", "zarr"] | None = Field(
        None, description="Format of new parts; that of the store's other parts if unset, else hdf5."
    )
    shard: Annotated[str, Field(pattern=r"^[1-9]\d*/[1-9]\d*$")] | None = Field(
        None, description="I/N: only the I-th of N shares of the work, for job arrays."
    )
    engine: Literal["local", "ray"] = Field("local", description="This process, or actors on a Ray cluster.")
    workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Ray actors; one a GPU of the cluster if unset, or one a CPU where there is no GPU."
    )
    ray_address: str | None = Field(
        None, description="A running Ray cluster (auto, or HOST:PORT); if unset one is started on this machine."
    )

    @model_validator(mode="after")
    def _check_engine(self) -> Any:
        if self.engine != "ray" and (self.workers is not None or self.ray_address is not None):
            raise ValueError("workers and ray_address need --engine ray")
        if self.shard is not None:
            number, count = map(int, self.shard.split("/"))
            if number > count:
                raise ValueError(f"shard must be I/N with I from 1 to N, found {self.shard}")
        return self


class LayersOptions(EncodeOptions):
    """Options of `mervn layers`."""


class StoreListOptions(DataOptions):
    """Options of `mervn store list`."""


class StoreInfoOptions(Options):
    """Options of `mervn store info`."""


class StoreVerifyOptions(Options):
    """Options of `mervn store verify`."""

    set_aside: bool = Field(False, description="Rename damaged parts, so that extract encodes their utterances again.")


class StoreCompactOptions(Options):
    """Options of `mervn store compact`."""


class StoreConvertOptions(Options):
    """Options of `mervn store convert`."""

    format: Literal["hdf5", "zarr"] | None = Field(
        None, description="The format to convert to; the other than its first part's if unset."
    )


class StoreRemoveOptions(Options):
    """Options of `mervn store rm`."""

    yes: bool = Field(False, description="Do not ask.")


class EncodersOptions(Options):
    """Options of `mervn encoders`."""


class DoctorOptions(Options):
    """Options of `mervn doctor`."""
