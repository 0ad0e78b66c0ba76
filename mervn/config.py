"""Option models of the commands. Imports nothing heavy."""

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
from mervn.evidence_options import AblateOptions as AblateOptions
from mervn.evidence_options import CompareOptions as CompareOptions
from mervn.evidence_options import EnsembleOptions as EnsembleOptions
from mervn.evidence_options import EvaluateOptions as EvaluateOptions
from mervn.evidence_options import ReportOptions as ReportOptions
from mervn.run_options import CheckpointOptions, MissingOptions, TrustOptions
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

    role: Annotated[Literal["fusion", "pooling", "loss", "encoder"], Group.MODEL] = Field(
        "fusion", description="Role of the class."
    )


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
