"""Options of evaluations, comparisons, ensembles, reports and studies. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from features.config import (
    ADVANCED,
    DataOptions,
    DeviceOptions,
    Group,
    Options,
)
from mervn.registry import Recipe
from mervn.run_options import FeatureOptions, ReportingOptions, TrustOptions


class EvaluateOptions(FeatureOptions, TrustOptions, ReportingOptions, DeviceOptions):
    """Options of `mervn evaluate RUN`."""

    exclusive = (("without", "corrupt"),)

    split: Annotated[Literal["train", "valid", "test"], Group.DATA] = Field(
        "valid", description="train, valid or test; each evaluation on test is recorded in test_access.jsonl."
    )
    data: Annotated[Path | None, Group.DATA] = Field(None, description="Folder of other data [default: the run's].")
    features_dir: Annotated[Path | None, Group.DATA] = Field(
        None, description="Folder of the feature stores [default: the run's]."
    )
    audio_root: Annotated[Path | None, Group.DATA, ADVANCED] = Field(
        None, description="Folder that wav_path is relative to [default: the run's]."
    )
    unit: Annotated[tuple[str, ...], Field(min_length=1), Group.OUTPUT] = Field(
        ("speaker_id",),
        description="Manifest key of the units that intervals rest on; of several keys, the widest interval counts.",
    )
    by: Annotated[tuple[str, ...], Group.OUTPUT] = Field(
        (), description="Also score each value of these manifest keys, or of duration and transcript_length."
    )
    without: Annotated[Literal["text", "audio"] | None, Group.DATA] = Field(
        None, description="Withhold a modality, text or audio: score as if every utterance lacked it."
    )
    corrupt: Annotated[Literal["tones", "asr"] | None, Group.DATA] = Field(
        None, description="Score other transcripts: with exchanged tone marks (tones), or transcript_asr (asr)."
    )
    leak_baselines: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Also score baselines that read only duration, missing or repeated transcript, or speaker."
    )

    @model_validator(mode="after")
    def _check_leak_baselines(self) -> Any:
        if self.leak_baselines and self.split == "train":
            raise ValueError("--leak-baselines are trained on train; score them on valid or test: --split valid")
        return self

    @model_validator(mode="after")
    def _check_changes(self) -> Any:
        if self.without is not None and self.corrupt is not None:
            raise ValueError("--without and --corrupt are scores of their own; give one of them")
        return self

    @property
    def change(self) -> str | None:
        """The change of the inputs, such as without-text or corrupt-tones, as in names of files."""
        if self.without is not None:
            return f"without-{self.without}"
        return None if self.corrupt is None else f"corrupt-{self.corrupt}"


class CompareOptions(Options):
    """Options of `mervn compare A B`."""

    split: Annotated[Literal["train", "valid", "test"], Group.DATA] = Field(
        "test", description="Split whose saved predictions are compared: train, valid or test."
    )
    metric: Annotated[Literal["accuracy", "macro_f1", "uar", "weighted_f1"], Group.OUTPUT] = Field(
        "macro_f1", description="Metric to compare: accuracy, macro_f1, uar or weighted_f1."
    )
    unit: Annotated[tuple[str, ...], Field(min_length=1), Group.OUTPUT] = Field(
        ("speaker_id",),
        description="Key of the units that interval and test rest on; of several keys, the widest interval counts.",
    )
    output: Annotated[Path | None, Group.OUTPUT] = Field(
        None, description="Folder for comparison.json and report.html [default: nothing is written]."
    )
    transcripts: Annotated[bool, Group.OUTPUT] = Field(
        True, description="Show the transcripts of the utterances on which A and B disagree in the report."
    )


class EnsembleOptions(Options):
    """Options of `mervn ensemble RUN...`."""

    split: Annotated[Literal["valid", "test"], Group.DATA] = Field(
        "valid", description="Split to score, from the saved predictions of the runs: valid or test."
    )
    choose: Annotated[bool, Group.MODEL] = Field(
        False, description="Choose among the runs: add the one that raises macro-F1 on valid most, until none does."
    )
    unit: Annotated[tuple[str, ...], Field(min_length=1), Group.OUTPUT] = Field(
        ("speaker_id",),
        description="Key of the units that intervals rest on; of several keys, the widest interval counts.",
    )
    output: Annotated[Path | None, Group.OUTPUT] = Field(
        None, description="Folder of the results [default: runs/ensemble-HASH of its members]."
    )


class ReportOptions(TrustOptions):
    """Options of `mervn report RUN`."""

    split: Annotated[Literal["valid", "test"] | None, Group.DATA] = Field(
        None, description="valid or test [default: test if it was evaluated, else valid]."
    )
    transcripts: Annotated[bool, Group.OUTPUT] = Field(
        True, description="Show the transcripts of mistakes, from the manifests of the run's data."
    )
    with_audio: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Put the audio of the mistakes into the page, at most 8 MB: it then holds voices."
    )
    attention: Annotated[NonNegativeInt, Group.OUTPUT] = Field(
        0, description="Number of mistakes whose attention weights are drawn; reads their features again."
    )


class AblateOptions(DataOptions, DeviceOptions):
    """Options of `mervn ablate GRID.toml`."""

    output: Annotated[Path | None, Group.OUTPUT] = Field(
        None, description="Folder of the study [default: studies/ and the name of the grid]."
    )
    trials: Annotated[PositiveInt | None, Group.TRAINING] = Field(
        None,
        description="Search the values under [tune] with this many trials per compared head [default: all].",
    )
    jobs: Annotated[PositiveInt | None, Group.GENERAL] = Field(
        None,
        description="Cells trained at once, each in a process with one thread [default: one per core; 1 on a GPU].",
    )
    engine: Annotated[Literal["local", "ray"], Group.GENERAL, ADVANCED] = Field(
        "local", description="Train the cells on this machine, or as tasks on a Ray cluster."
    )
    ray_address: Annotated[str | None, Group.GENERAL, ADVANCED] = Field(
        None, description="Address of a running Ray cluster, auto or HOST:PORT [default: start one on this machine]."
    )
    test: Annotated[bool, Group.DATA] = Field(
        False, description="After all cells are complete, evaluate on test what was chosen on valid."
    )
    unit: Annotated[str, Field(min_length=1), Group.DATA] = Field(
        "speaker_id", description="Manifest key of the units of evidence, over which intervals are computed."
    )
    recipe: Annotated[Recipe | None, Group.DATA] = Field(
        None, description="Built-in grid in place of GRID.toml, with the scores of a published table."
    )
    retry: Annotated[bool, Group.TRAINING] = Field(False, description="Train failed cells again.")
    dry_run: Annotated[bool, Group.OUTPUT] = Field(False, description="Print the plan, then stop.")
    example: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Print an example of a GRID.toml with comments, or the grid of --recipe, then stop."
    )
    trust_code: Annotated[bool, Group.GENERAL, ADVANCED] = Field(
        False, description="Run the custom modules that the grid names; review their code first."
    )

    @model_validator(mode="after")
    def _check_engine(self) -> Any:
        if self.engine != "ray" and self.ray_address is not None:
            raise ValueError("--ray-address needs --engine ray")
        return self
