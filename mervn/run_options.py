"""Option models of the data, features, labels and folds of a run, and of what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from features.config import ADVANCED, NOT_IN_HASH, DataOptions, DeviceOptions, Group, Options, SelectorOptions
from features.manifests.label_names import lookalikes, normalize_label


class MissingOptions(Options):
    """Treatment of utterances without features or usable audio."""

    allow_missing: Annotated[bool, Group.DATA, ADVANCED] = Field(
        False, description="Leave out utterances without features or usable audio; every result counts them."
    )


class FeatureOptions(MissingOptions):
    """Reading of stored features."""

    verify_inputs: Annotated[bool, Group.DATA, ADVANCED, NOT_IN_HASH] = Field(
        False, description="Decode every audio file and check that it is the one that was extracted."
    )
    memory_gb: Annotated[NonNegativeFloat | None, Group.DATA, ADVANCED, NOT_IN_HASH] = Field(
        None,
        description="Keep the features in memory or on the GPU if they fit into this many GB; otherwise each batch "
        "reads its own from disk [default: half of what is free].",
    )


class StoreOptions(DataOptions, SelectorOptions, FeatureOptions, DeviceOptions):
    """Choice of the feature stores that a head reads."""

    audio_store: Annotated[Path | None, Group.ENCODERS, ADVANCED, NOT_IN_HASH] = Field(
        None, description="Folder of the audio store, if several stores match --audio-encoder."
    )
    text_store: Annotated[Path | None, Group.ENCODERS, ADVANCED, NOT_IN_HASH] = Field(
        None, description="Folder of the text store, if several stores match --text-encoder."
    )


class LabelOptions(Options):
    """Set of emotion labels."""

    labels: Annotated[tuple[str, ...], Group.DATA] = Field(
        (), description="Allowed emotion labels; any other is an error [default: all]."
    )
    label_map: Annotated[tuple[str, ...], Group.DATA, ADVANCED] = Field(
        (), description="OLD=NEW: labels to rename or merge."
    )
    drop_label: Annotated[tuple[str, ...], Group.DATA, ADVANCED] = Field(
        (), description="Labels to leave out, after renaming; every result counts them."
    )

    @field_validator("labels", "drop_label")
    @classmethod
    def _normalize(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(normalize_label, labels))

    @field_validator("label_map")
    @classmethod
    def _normalize_map(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("=".join(map(normalize_label, entry.split("=", 1))) for entry in entries)

    @model_validator(mode="after")
    def _check_labels(self) -> Any:
        for before, label in lookalikes(self.labels):
            raise ValueError(f"--labels: {label!r} only looks different from {before!r}; give one of them")
        return self


class FoldOptions(Options):
    """Cross-validation folds in place of the manifests' splits."""

    fold: Annotated[Annotated[str, Field(pattern=r"^([1-9]\d*|all)$")] | None, Group.DATA] = Field(
        None, description="Fold K of folds-*.json beside the manifests; train-head: or all in turn."
    )
    fold_file: Annotated[Path | None, Group.DATA, ADVANCED, NOT_IN_HASH] = Field(
        None, description="File of the folds, if there is more than one beside the manifests."
    )


class CheckpointOptions(Options):
    """Checkpoints of a training."""

    checkpoint_every: Annotated[NonNegativeInt, Group.OUTPUT, ADVANCED, NOT_IN_HASH] = Field(
        1, description="Epochs between checkpoints; 0 for none."
    )
    force: Annotated[bool, Group.OUTPUT, NOT_IN_HASH] = Field(
        False, description="Train again even if this configuration is already trained."
    )


class ReportingOptions(Options):
    """Report of a run as a page."""

    report: Annotated[bool, Group.OUTPUT, ADVANCED, NOT_IN_HASH] = Field(
        True, description="Also write report.html, the run as a page."
    )


class RunOptions(CheckpointOptions, ReportingOptions):
    """Output folder of a run, and what is saved during training."""

    output: Annotated[Path | None, Group.OUTPUT, NOT_IN_HASH] = Field(
        None, description="Run folder [default: runs/ and a name from the configuration]."
    )
    checkpoint_steps: Annotated[NonNegativeInt, Group.OUTPUT, ADVANCED, NOT_IN_HASH] = Field(
        0, description="Optimizer steps between checkpoints within an epoch; 0 for none."
    )
    keep_checkpoints: Annotated[PositiveInt, Group.OUTPUT, ADVANCED, NOT_IN_HASH] = Field(
        1, description="Number of latest checkpoints to keep."
    )
    tensorboard: Annotated[bool, Group.OUTPUT, ADVANCED, NOT_IN_HASH] = Field(
        False, description="Also write the training history for TensorBoard, into the run."
    )


class TrustOptions(Options):
    """Permission to run code that a run contains."""

    trust_code: Annotated[bool, Group.GENERAL, ADVANCED, NOT_IN_HASH] = Field(
        False, description="Run the custom modules that the run contains; review their code first."
    )
