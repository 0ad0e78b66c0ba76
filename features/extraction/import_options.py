"""Options of `mervn store import`; imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from features.config import ADVANCED, SPLITS, DataOptions, Group, SplitName

Finite = Field(allow_inf_nan=False)


class StoreImportOptions(DataOptions):
    """Options of `mervn store import`."""

    modality: Annotated[Literal["audio", "text"] | None, Group.ENCODERS] = Field(
        None, description="Modality of the features (required)."
    )
    name: Annotated[str | None, Group.ENCODERS] = Field(
        None, description="Name of the features in --audio-encoder or --text-encoder (required)."
    )
    hz: Annotated[Annotated[PositiveFloat, Finite] | None, Group.ENCODERS] = Field(
        None, description="Frames per second of audio; needed for features (T, D), not for one vector per utterance."
    )
    centre: Annotated[Annotated[NonNegativeFloat, Finite] | None, Group.ENCODERS, ADVANCED] = Field(
        None, description="Seconds from the start to the centre of the first frame [default: half a frame]."
    )
    layer: Annotated[NonNegativeInt | None, Group.ENCODERS, ADVANCED] = Field(
        None, description="Number of the layer, if several layers of one encoder are imported [default: last]."
    )
    splits: Annotated[tuple[SplitName, ...], Group.DATA] = Field(SPLITS, description="Splits to import.")
    allow_missing: Annotated[bool, Group.DATA] = Field(
        False, description="Import without the utterances that have no features, and list them."
    )
    store_dtype: Annotated[Literal["fp16", "fp32"] | None, Group.OUTPUT] = Field(
        None, description="Precision of the features on disk [default: fp16 if all of them are float16, else fp32]."
    )
    format: Annotated[Literal["hdf5", "zarr"] | None, Group.OUTPUT, ADVANCED] = Field(
        None, description="File format of the store [default: hdf5]."
    )

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.modality == "text" and self.hz is not None:
            raise ValueError("--hz is for audio; tokens of text have no rate")
        if self.centre is not None and self.hz is None:
            raise ValueError("--centre needs --hz")
        return self
