"""Option models of feature extraction (names, defaults, help texts); imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError, core_schema

SplitName = Literal["train", "valid", "test"]
ShardOfN = Annotated[str, Field(pattern=r"^[1-9]\d*/[1-9]\d*$")]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
CUSTOM_MODULE = re.compile(r".+\.py:[A-Za-z_]\w*")


class Group(Enum):
    """Help group of an option, in the order in which `--help` shows them."""

    DATA = "Data"
    ENCODERS = "Encoders"
    MODEL = "Model"
    TRAINING = "Training"
    SAMPLING = "Sampling"
    OUTPUT = "Output"
    GENERAL = "General"


class Mark(Enum):
    """Property of an option, declared in its annotation."""

    ADVANCED = "ADVANCED"
    """Only `--help-all` shows it."""
    NOT_IN_HASH = "NOT_IN_HASH"
    """It is no part of a run's hash: it changes no result, or the hash includes its content."""


ADVANCED, NOT_IN_HASH = Mark.ADVANCED, Mark.NOT_IN_HASH


def is_custom_module(name: str) -> bool:
    """Tell whether a name means a class in a user's file, `FILE.py:Class`."""
    return CUSTOM_MODULE.fullmatch(name) is not None


@dataclass(frozen=True)
class OneOf:
    """Restricts a str field to the names of a registry; `custom` also allows FILE.py:Class."""

    names: Iterable[str]
    custom: bool = False

    @property
    def choices(self) -> list[str]:
        """The valid values, as help and errors show them."""
        return [*self.names, "FILE.py:Class"] if self.custom else [*self.names]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Return the pydantic schema that checks the name."""
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> str:
        if isinstance(value, str):
            is_name, is_custom = value in list(self.names), self.custom and is_custom_module(value)
            if is_name or is_custom:
                return value
        *first, last = self.choices
        choices = f"{', '.join(first)} or {last}"
        raise PydanticCustomError("one_of", "input should be {choices}", {"choices": choices})


class Options(BaseModel):
    """Options of one command: frozen, unknown keys are errors, field name = flag name."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Sets of options that exclude each other; a flag replaces the others if a file gives them."""
    _general: frozenset[str] = PrivateAttr(frozenset())
    """Options that mervn.toml or --config gives."""

    @property
    def given(self) -> frozenset[str]:
        """The options given for this call, without those from mervn.toml and --config."""
        return frozenset(self.model_fields_set) - self._general

    def with_general(self, names: Iterable[str]) -> Self:
        """Return a copy in which these options count as defaults for many calls.

        It is no error if a command does not read them.
        """
        found = self.model_copy()
        found._general = frozenset(names)
        return found

    @classmethod
    def marks(cls, name: str) -> list[Any]:
        """Return the markers of a field, also those that it has in base classes."""
        found: list[Any] = []
        for base in cls.__mro__:
            if issubclass(base, Options) and name in base.model_fields:
                found += base.model_fields[name].metadata
        return found

    @classmethod
    def help_group(cls, name: str) -> Group:
        """Return the help group of a field."""
        for mark in cls.marks(name):
            if isinstance(mark, Group):
                return mark
        return Group.GENERAL

    @classmethod
    @cache  # a run asks ten times, and the answer takes a millisecond
    def not_in_hash(cls) -> frozenset[str]:
        """Return the fields that are no part of a run's hash."""
        return frozenset(name for name in cls.model_fields if NOT_IN_HASH in cls.marks(name))


class ThreadOptions(Options):
    """Number of CPU threads."""

    threads: Annotated[PositiveInt | None, Group.GENERAL, ADVANCED, NOT_IN_HASH] = Field(
        None, description="Number of CPU threads [default: PyTorch's choice]."
    )


class DeviceOptions(ThreadOptions):
    """Device and number of CPU threads."""

    device: Annotated[str, Group.GENERAL, NOT_IN_HASH] = Field(
        "auto", description="cpu, cuda, cuda:1, ...; auto: a GPU if available."
    )


class CorpusOptions(Options):
    """Location of the manifests and the audio."""

    data: Annotated[Path | None, Group.DATA, NOT_IN_HASH] = Field(
        None, description="Folder with train.jsonl, valid.jsonl and test.jsonl [default: ./data]."
    )
    audio_root: Annotated[Path | None, Group.DATA, ADVANCED, NOT_IN_HASH] = Field(
        None, description="Folder that wav_path is relative to [default: the folder of the manifest]."
    )


class DataOptions(CorpusOptions):
    """Location of the manifests, the audio and the feature stores."""

    features_dir: Annotated[Path | None, Group.DATA, NOT_IN_HASH] = Field(
        None, description="Feature stores [default: $MERVN_FEATURES or DATA/stores]."
    )


class SelectorOptions(Options):
    """Selectors of the encoders."""

    audio_encoder: Annotated[str | None, Group.ENCODERS, NOT_IN_HASH] = Field(
        None, description="NAME[=MODEL][@LAYERS] or FILE.py:Class, two by +; see `mervn encoders`."
    )
    text_encoder: Annotated[str | None, Group.ENCODERS, NOT_IN_HASH] = Field(
        None, description="NAME[=MODEL][@LAYERS] or FILE.py:Class; see `mervn encoders`."
    )


class EncoderOptions(Options):
    """Settings of the encoders; each is read by some encoders only."""

    segmenter: Annotated[Literal["pyvi", "underthesea", "vncorenlp", "none"] | None, Group.ENCODERS, ADVANCED] = Field(
        None,
        description="Word segmenter of the text encoder "
        "[default: pyvi for phobert and videberta, else none]. "
        "vncorenlp needs Java and the folder $MERVN_VNCORENLP.",
    )
    tone_style: Annotated[Literal["keep", "old", "new"] | None, Group.ENCODERS, ADVANCED] = Field(
        None,
        description="Placement of tone marks for the text encoder: keep, old (hòa) or new (hoà) "
        "[default: new for phobert, else keep].",
    )
    whisper_mode: Annotated[Literal["30s", "trimmed"] | None, Group.ENCODERS, ADVANCED] = Field(
        None,
        description="Pad the audio to 30 s, as Whisper was trained, or encode only the real frames: "
        "faster, but not how Whisper was trained [default: 30s].",
    )


class EncodeOptions(DataOptions, SelectorOptions, EncoderOptions, DeviceOptions):
    """Options of the commands that run encoders over the data."""

    encoder_precision: Annotated[Literal["fp32", "bf16"], Group.ENCODERS] = Field(
        "fp32", description="Precision in which the encoder computes."
    )
    store_dtype: Annotated[Literal["fp16", "fp32"], Group.OUTPUT] = Field(
        "fp16", description="Precision of the features on disk."
    )
    batch_seconds: Annotated[PositiveFloat | None, Group.ENCODERS] = Field(
        None,
        description="Seconds of audio per batch, padding included "
        "[default: as in the store's first extraction; 8 on CPU, 480 on GPU].",
    )
    update: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Replace the features of utterances whose audio or transcript changed."
    )


class ExtractOptions(EncodeOptions):
    """Options of `mervn extract`."""

    splits: Annotated[tuple[SplitName, ...], Group.DATA] = Field(SPLITS, description="Splits to extract.")
    limit: Annotated[PositiveInt | None, Group.DATA] = Field(
        None, description="Extract only the first N utterances of each split."
    )
    verify_inputs: Annotated[bool, Group.DATA, ADVANCED] = Field(
        False, description="Decode all audio that is already extracted and check that it has not changed."
    )
    plan: Annotated[bool, Group.OUTPUT] = Field(False, description="Print what would be done, and its cost, then stop.")
    retry_rejected: Annotated[bool, Group.DATA, ADVANCED] = Field(
        False, description="Retry rejected utterances even if their audio and transcript have not changed."
    )
    format: Annotated[Literal["hdf5", "zarr"] | None, Group.OUTPUT, ADVANCED] = Field(
        None, description="File format of new parts [default: that of the store's other parts, else hdf5]."
    )
    shard: Annotated[ShardOfN | None, Group.GENERAL, ADVANCED] = Field(
        None, description="I/N: extract only the I-th of N parts of the data, for job arrays."
    )
    engine: Annotated[Literal["local", "ray"], Group.GENERAL, ADVANCED] = Field(
        "local", description="Extract in this process, or in actors on a Ray cluster."
    )
    workers: Annotated[Annotated[int, Field(ge=0)] | None, Group.GENERAL, ADVANCED] = Field(
        None,
        description="Processes that decode audio ahead of the encoder [default: on a GPU the number of cores less one, "
        "at most 8; on a CPU, whose cores encode, 0]. With --engine ray: actors [default: one per GPU, else per CPU].",
    )
    ray_address: Annotated[str | None, Group.GENERAL, ADVANCED] = Field(
        None, description="Address of a running Ray cluster, auto or HOST:PORT [default: start one on this machine]."
    )

    @model_validator(mode="after")
    def _check_engine_and_shard(self) -> Self:
        if self.engine != "ray" and self.ray_address is not None:
            raise ValueError("--ray-address needs --engine ray")
        if self.engine == "ray" and self.workers == 0:
            raise ValueError("--workers must be at least 1 with --engine ray, found 0")
        if self.shard is not None:
            number, count = map(int, self.shard.split("/"))
            if number > count:
                raise ValueError(f"--shard must be I/N with I from 1 to N, found {self.shard}")
        return self


class LayersOptions(EncodeOptions):
    """Options of `mervn layers`."""


class StoreListOptions(DataOptions):
    """Options of `mervn store list`."""


class StoreInfoOptions(Options):
    """Options of `mervn store info`."""


class StoreVerifyOptions(Options):
    """Options of `mervn store verify`."""

    set_aside: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Rename damaged parts, so that `mervn extract` encodes their utterances again."
    )


class StoreCompactOptions(Options):
    """Options of `mervn store compact`."""


class StoreConvertOptions(Options):
    """Options of `mervn store convert`."""

    format: Annotated[Literal["hdf5", "zarr"] | None, Group.OUTPUT] = Field(
        None, description="Format to convert to [default: the one that the first part does not have]."
    )


class StoreRemoveOptions(Options):
    """Options of `mervn store rm`."""

    yes: Annotated[bool, Group.GENERAL] = Field(False, description="Remove the store without asking.")


class EncodersOptions(Options):
    """Options of `mervn encoders`."""


class DoctorOptions(Options):
    """Options of `mervn doctor`."""
