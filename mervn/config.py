"""Option models of the commands that train and evaluate. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from features.config import (
    ADVANCED,
    NOT_IN_HASH,
    CorpusOptions,
    DataOptions,
    DeviceOptions,
    EncoderOptions,
    Group,
    Options,
    SelectorOptions,
    ThreadOptions,
)
from mervn.registry import Recipe
from mervn.run_options import CheckpointOptions, FeatureOptions, MissingOptions, ReportingOptions, TrustOptions
from mervn.run_options import FoldOptions as FoldOptions
from mervn.run_options import LabelOptions as LabelOptions
from mervn.run_options import RunOptions as RunOptions
from mervn.run_options import StoreOptions as StoreOptions
from mervn.training_options import Fraction, OptimizerOptions
from mervn.training_options import HeadOptions as HeadOptions
from mervn.training_options import TrainingOptions as TrainingOptions


class TrainHeadOptions(TrainingOptions, LabelOptions, FoldOptions, StoreOptions, RunOptions):
    """Options of `mervn train-head`."""

    num_seeds: Annotated[PositiveInt, Group.TRAINING, NOT_IN_HASH] = Field(
        1, description="Number of seeds to train with, from --seed on."
    )


class FinetuneOptions(
    TrainingOptions, LabelOptions, FoldOptions, DataOptions, SelectorOptions, EncoderOptions, MissingOptions,
    RunOptions, TrustOptions, DeviceOptions,
):  # fmt: skip
    """Options of `mervn finetune`."""

    default_batch_size: ClassVar[int] = 8

    init_head: Annotated[Path | None, Group.MODEL, NOT_IN_HASH] = Field(
        None, description="Run of train-head to start from: its data, encoders, layers, head and head weights."
    )
    epochs: PositiveInt = Field(10, description="Maximum number of epochs; epoch 0 only scores the initial model.")
    batch_size: PositiveInt | None = Field(None, description="Utterances per batch [default: 8].")
    patience: PositiveInt = Field(3, description="Early stopping: epochs without a better valid macro-F1.")
    learning_rate: PositiveFloat = Field(1e-4, description="Peak learning rate of the head.")
    encoder_learning_rate: Annotated[PositiveFloat, Group.TRAINING] = Field(
        1e-5, description="Peak learning rate of the encoders' last blocks."
    )
    layer_decay: Annotated[float, Field(gt=0, le=1), Group.TRAINING, ADVANCED] = Field(
        0.9, description="Layer-wise learning rate decay: factor from a block to the one below it."
    )
    unfreeze_last: Annotated[NonNegativeInt | None, Group.TRAINING] = Field(
        None, description="Train only the last K blocks of each encoder that feed the head [default: all blocks]."
    )
    unfreeze_at: Annotated[PositiveInt, Group.TRAINING, ADVANCED] = Field(
        1, description="First epoch, counted from 1, in which the encoders are trained."
    )
    train_front_end: Annotated[bool | None, Group.TRAINING, ADVANCED] = Field(
        None, description="Also train the convolutional feature encoder [default: only if its weights are random]."
    )
    gradient_checkpointing: Annotated[bool, Group.TRAINING, ADVANCED] = Field(
        False, description="Recompute activations in the backward pass to save memory; slower."
    )
    lora_rank: Annotated[PositiveInt | None, Group.TRAINING] = Field(
        None, description="Train LoRA adapters of this rank in the encoders' attention instead of their weights."
    )
    spec_time: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.0, description="SpecAugment: maximum fraction of the utterance in each of two time masks."
    )
    spec_frequency: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.0, description="SpecAugment: maximum fraction of the mel scale in each of two frequency masks."
    )
    workers: Annotated[NonNegativeInt, Group.GENERAL, ADVANCED, NOT_IN_HASH] = Field(
        2, description="Number of processes that decode audio; 0 for none."
    )

    @model_validator(mode="after")
    def _check_fold(self) -> Any:
        if self.fold == "all":
            raise ValueError("--fold all is for train-head; fine-tune one fold at a time: --fold K")
        return self


class CheckModuleOptions(Options):
    """Options of `mervn check-module FILE.py:Class`."""

    role: Annotated[Literal["fusion", "pooling", "loss"], Group.MODEL] = Field(
        "fusion", description="Role of the class."
    )


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


class DemoOptions(ThreadOptions):
    """Options of `mervn demo`."""

    output: Annotated[Path, Group.OUTPUT] = Field(
        Path("demo"), description="Folder for the corpus, the stores and the runs."
    )
    seed: Annotated[NonNegativeInt, Group.TRAINING] = Field(0, description="Seed of the corpus and of the training.")
    corpus_only: Annotated[bool, Group.DATA] = Field(False, description="Make the corpus, then stop.")


class PretrainOptions(CorpusOptions, OptimizerOptions, CheckpointOptions, DeviceOptions):
    """Options of `mervn pretrain-audio`."""

    exclusive = (("epochs", "minutes"),)

    output: Annotated[Path | None, Group.OUTPUT, NOT_IN_HASH] = Field(
        None, description="Result folder [default: checkpoints/ and a name from the configuration]."
    )
    epochs: Annotated[PositiveInt | None, Group.TRAINING] = Field(
        None, description="Number of epochs [default: 30, unless --minutes is given]."
    )
    minutes: Annotated[PositiveFloat | None, Group.TRAINING] = Field(
        None, description="Minutes of training, without reading, in place of --epochs; such a run is not reproducible."
    )
    batch_seconds: Annotated[PositiveFloat, Group.TRAINING] = Field(
        8.0, description="Seconds of audio per batch, padding included."
    )
    max_seconds: Annotated[float, Field(ge=1), Group.DATA, ADVANCED] = Field(
        15.0, description="Crop longer utterances to this many seconds, at a random place in each epoch."
    )
    mask_start: Annotated[float, Field(gt=0, le=1), Group.TRAINING, ADVANCED] = Field(
        0.065, description="Fraction of the 50 Hz frames at which a mask starts; at most half of the frames are masked."
    )
    mask_span: Annotated[PositiveInt, Group.TRAINING, ADVANCED] = Field(
        5, description="Length of a mask, in frames of 20 ms."
    )
    learning_rate: PositiveFloat = Field(1e-3, description="Peak learning rate of AdamW.")
    seed: Annotated[NonNegativeInt, Group.TRAINING] = Field(
        0, description="Seed of initialisation, order, crops and masks."
    )

    @model_validator(mode="after")
    def _check_length(self) -> Any:
        if self.epochs is not None and self.minutes is not None:
            raise ValueError(f"give epochs or minutes, not both, found epochs={self.epochs} minutes={self.minutes}")
        return self
