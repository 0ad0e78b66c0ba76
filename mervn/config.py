"""Option models of stage two: flag names, defaults, descriptions. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from features.config import CorpusOptions, DataOptions, OneOf, Options
from features.manifests.label_names import lookalikes, normalize_label
from mervn.registry import FUSIONS, LOSSES, POOLINGS

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class HeadOptions(Options):
    """What a head is."""

    fusion: Annotated[str, OneOf(FUSIONS, own=True)] = Field("xattn", description="How the modalities meet.")
    pooling: Annotated[str, OneOf(POOLINGS, own=True)] = Field("attn", description="How a sequence becomes a vector.")
    dim: Positive = Field(256, description="Width of the projections and of the fusion.")
    heads: Positive = Field(4, description="Attention heads.")
    attention_dropout: Share = Field(0.0, description="Dropout on attention weights.")
    residual: bool = Field(False, description="xattn: add what was asked to what was heard.")
    norm: bool = Field(False, description="xattn: LayerNorm before attention.")
    feed_forward: bool = Field(False, description="xattn: a feed-forward part after attention.")
    rnn_layers: Positive = Field(1, description="bilstm_attn, cnn_bilstm_attn: layers of the BiLSTM.")
    rnn_hidden: Positive = Field(128, description="bilstm_attn, cnn_bilstm_attn: its width in each direction.")
    blocks: Positive = Field(1, description="bilstm_attn, cnn_bilstm_attn: cross-attention blocks.")
    merge: Literal["concat", "gate"] = Field(
        "concat", description="bilstm_attn, cnn_bilstm_attn: what was heard as it is, or gated against what was before."
    )
    cnn_layers: Positive = Field(2, description="cnn_bilstm_attn: layers of the temporal CNN.")
    kernel: Positive = Field(3, description="cnn_bilstm_attn: frames of its kernel, an odd number.")
    dilation_growth: Positive = Field(2, description="cnn_bilstm_attn: how much wider each layer's dilation is.")
    mlp: tuple[Positive, ...] = Field((256, 128), description="Widths of the classifier's hidden layers.")
    dropout: Share = Field(0.1, description="Dropout in the classifier.")
    input_dropout: Share = Field(0.0, description="Dropout on the projected rows of each stream, before the fusion.")
    missing: Literal["token", "none"] = Field(
        "token", description="An empty stream becomes a learned row (token), or nothing attends to it (none)."
    )

    dual_merge: Literal["concat", "sum"] = Field("concat", description="How two audio streams joined by + meet.")
    dual_time: Literal["repeat", "linear"] = Field(
        "repeat", description="The second stream's row at a time of the first: the one there, or interpolated."
    )

    @model_validator(mode="after")
    def _check_heads(self) -> Any:
        attends = self.fusion not in FUSIONS or FUSIONS[self.fusion].attention
        if attends and self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, found dim={self.dim} heads={self.heads}")
        convolves = self.fusion not in FUSIONS or "kernel" in FUSIONS[self.fusion].options
        if convolves and self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that every frame stays its centre, found {self.kernel}")
        return self


class TrainingOptions(HeadOptions):
    """How a head is trained."""

    loss: Annotated[str, OneOf(LOSSES, own=True)] = Field("focal", description="The loss.")
    gamma: Annotated[float, Field(ge=0)] = Field(2.0, description="Focusing of the focal loss.")
    smoothing: Share = Field(0.1, description="Smoothing of label_smoothing.")
    class_weights: Literal["none", "balanced"] = Field("none", description="Class weights in the loss.")
    sampling: Literal["random", "bucket", "weighted", "both"] = Field(
        "both", description="Random batches, batches of like length, class and length weighted draws, or both."
    )
    batch_size: Positive | None = Field(
        None, description="Utterances a batch where no --frame-budget is given; 32 if unset, 8 for finetune."
    )
    frame_budget: Positive | None = Field(
        None, description="Padded rows a batch, over text and audio, in place of --batch-size."
    )
    alpha: Annotated[float, Field(ge=0)] = Field(0.03, description="Seconds a syllable counts in the mixed length.")
    beta: Annotated[float, Field(ge=0)] = Field(0.5, description="Power of the length in the sampling weights.")
    accumulate: Positive = Field(1, description="Batches whose gradients make one step.")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="Precision of the forward pass; auto is bf16 where the machine computes in it, else off."
    )
    drop_text: Share = Field(0.0, description="Chance that an utterance is trained on without its transcript.")
    drop_audio: Share = Field(0.0, description="Chance that an utterance is trained on without its audio.")
    time_mask: Share = Field(0.0, description="Up to this share of an utterance's audio frames is zeroed in training.")
    epochs: Positive = Field(50, description="Most epochs.")
    patience: Positive = Field(10, description="Epochs without a better valid macro-F1 before stopping.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-4, description="Greatest learning rate of AdamW.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="Weight decay of AdamW.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="The learning rate after its rise.")
    warmup: Share = Field(0.1, description="Share of the steps in which the learning rate rises.")
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="Greatest norm of the gradients.")
    deterministic: bool = Field(False, description="Use deterministic GPU algorithms, without TF32; slower.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of initialisation, dropout and sampling.")

    @model_validator(mode="after")
    def _check_batches(self) -> Any:
        if self.batch_size is not None and self.frame_budget is not None:
            raise ValueError(
                f"give --batch-size or --frame-budget, found both: {self.batch_size} and {self.frame_budget}"
            )
        return self

    rivals = (("batch_size", "frame_budget"),)
    default_batch: ClassVar[int] = 32
    """Utterances a batch where nothing is said."""

    @property
    def utterances_a_batch(self) -> int | None:
        """Utterances a batch; None where a frame budget decides."""
        return None if self.frame_budget is not None else self.batch_size or self.default_batch


class StoreOptions(DataOptions):
    """Which stores feed a head."""

    audio_encoder: str | None = Field(
        None, description="Audio encoder, NAME[=MODEL][@LAYERS], two joined by +; else the only store."
    )
    text_encoder: str | None = Field(None, description="Text encoder, NAME[=MODEL][@LAYERS]; else the only store.")
    audio_store: Path | None = Field(None, description="Folder of the audio store, where a selector is not enough.")
    text_store: Path | None = Field(None, description="Folder of the text store, where a selector is not enough.")
    allow_missing: bool = Field(
        False, description="Go on without utterances that a store lacks, counted in every result."
    )
    verify_inputs: bool = Field(False, description="Decode every audio file and compare it with what was extracted.")
    memory_gb: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="GB of features kept in memory or on the GPU, else streamed; half of what is free if unset.",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if torch sees one.")
    threads: Positive | None = Field(None, description="CPU threads; torch's own choice if unset.")


class LabelOptions(Options):
    """Which emotions a head tells apart."""

    labels: tuple[str, ...] = Field((), description="The emotions there are; any other is an error. All if unset.")
    label_map: tuple[str, ...] = Field((), description="old=new: emotions to rename or merge.")
    drop_label: tuple[str, ...] = Field((), description="Emotions, after renaming, to leave out; counted.")

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
    """Which utterances are train, valid and test, where the manifests do not say."""

    fold: Annotated[str, Field(pattern=r"^([1-9]\d*|all)$")] | None = Field(
        None, description="K: train on the K-th fold of folds-*.json beside the manifests; all: on each in turn."
    )
    fold_file: Path | None = Field(None, description="The file of folds, where there is not just one beside the data.")


class RunOptions(Options):
    """Where a run goes, and what is kept on the way."""

    output: Path | None = Field(None, description="The run's folder; else runs/ and a name from the configuration.")
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(1, description="Epochs between checkpoints; 0 for none.")
    checkpoint_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps between checkpoints within an epoch; 0 for none."
    )
    keep_checkpoints: Positive = Field(1, description="The latest checkpoints to keep.")
    tensorboard: bool = Field(False, description="Write the history for TensorBoard too, into the run.")
    force: bool = Field(False, description="Train again though a complete run of this configuration is there.")


class TrainHeadOptions(TrainingOptions, LabelOptions, FoldOptions, StoreOptions, RunOptions):
    """Options of `mervn train-head`."""

    num_seeds: Positive = Field(1, description="Train so many seeds, from --seed on, and report mean and deviation.")


class FinetuneOptions(TrainingOptions, LabelOptions, FoldOptions, DataOptions, RunOptions):
    """Options of `mervn finetune`."""

    init_head: Path | None = Field(
        None, description="A train-head run that gives data, encoders, layers, the head and its weights."
    )
    audio_encoder: str | None = Field(None, description="NAME[=MODEL][@LAYERS], two joined by +; see `mervn encoders`.")
    text_encoder: str | None = Field(None, description="NAME[=MODEL][@LAYERS]; see `mervn encoders`.")
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
        None, description="Whisper over padded windows of 30 s (unset), or over the real rows alone."
    )
    epochs: Positive = Field(10, description="Most epochs; epoch 0 is the model as it came in.")
    patience: Positive = Field(3, description="Epochs without a better valid macro-F1 before stopping.")
    default_batch: ClassVar[int] = 8
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-4, description="Greatest learning rate of the head.")
    encoder_learning_rate: Annotated[float, Field(gt=0)] = Field(
        1e-5, description="Greatest learning rate of the encoders' last blocks."
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Factor on the learning rate from a block to the one below it."
    )
    unfreeze_last: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Train only the last K blocks of each encoder that feed the head; all if unset."
    )
    unfreeze_at: Positive = Field(1, description="The epoch, counted from 1, from which the encoders are trained.")
    train_front_end: bool | None = Field(
        None, description="Train the convolutions over the signal too; if unset only where they are random."
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations again to save memory; slower.")
    lora_rank: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Train low-rank adapters of this rank in the encoders' attention instead of their weights."
    )
    spec_time: Share = Field(
        0.0, description="SpecAugment: two spans, each up to this share of the utterance, are silent in training."
    )
    spec_frequency: Share = Field(
        0.0, description="SpecAugment: two bands, each up to this share of the mel scale, are cut out in training."
    )
    workers: Annotated[int, Field(ge=0)] = Field(2, description="Processes that decode audio; 0 for none.")
    allow_missing: bool = Field(False, description="Go on without utterances whose audio cannot be used, counted.")
    trust_code: bool = Field(False, description="Run the user's own modules that the --init-head run holds.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if torch sees one.")
    threads: Positive | None = Field(None, description="CPU threads; torch's own choice if unset.")

    @model_validator(mode="after")
    def _check_fold(self) -> Any:
        if self.fold == "all":
            raise ValueError("--fold all is for train-head; fine-tune one fold at a time: --fold K")
        return self


class CheckModuleOptions(Options):
    """Options of `mervn check-module FILE.py:Class`."""

    role: Literal["fusion", "pooling", "loss"] = Field("fusion", description="What the class is.")


class EvaluateOptions(Options):
    """Options of `mervn evaluate RUN`."""

    split: Literal["train", "valid", "test"] = Field(
        "valid", description="The split to evaluate; every new look at test is recorded in test_access.jsonl."
    )
    data: Path | None = Field(None, description="Another data folder than the run's.")
    features_dir: Path | None = Field(None, description="Folder of the feature stores, if not the run's.")
    audio_root: Path | None = Field(None, description="Folder that wav_path is relative to, if not the run's.")
    allow_missing: bool = Field(False, description="Go on without utterances that a store lacks, counted.")
    trust_code: bool = Field(False, description="Run the user's own modules that the run holds.")
    verify_inputs: bool = Field(False, description="Decode every audio file and compare it with what was extracted.")
    memory_gb: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="GB of features kept in memory or on the GPU, else streamed; half of what is free if unset.",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if torch sees one.")
    threads: Positive | None = Field(None, description="CPU threads; torch's own choice if unset.")


class DemoOptions(Options):
    """Options of `mervn demo`."""

    output: Path = Field(Path("demo"), description="Folder for the corpus, the stores and the runs.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of the corpus and of the training.")
    corpus_only: bool = Field(False, description="Make the corpus and stop.")
    threads: Positive | None = Field(None, description="CPU threads; torch's own choice if unset.")


NOT_CONFIGURATION = frozenset(StoreOptions.model_fields) - {"allow_missing"} | {
    "fold_file", "output", "num_seeds", "checkpoint_every", "checkpoint_steps", "keep_checkpoints", "tensorboard",
    "force", "workers", "trust_code", "init_head",
}  # fmt: skip
"""Options that say where things are or how to go about it; what they point to is in a run's inputs."""


class PretrainOptions(CorpusOptions):
    """Options of `mervn pretrain-audio`."""

    rivals = (("epochs", "minutes"),)

    output: Path | None = Field(
        None, description="Folder of the result; else checkpoints/ and a name from the configuration."
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Passes over train; 30 if neither epochs nor minutes are given."
    )
    minutes: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Minutes of training, reading aside, instead of epochs; such a run cannot be repeated exactly.",
    )
    batch_seconds: Annotated[float, Field(gt=0)] = Field(8.0, description="Padded seconds of audio a batch.")
    max_seconds: Annotated[float, Field(ge=1)] = Field(
        15.0, description="Longer utterances give a random crop of so many seconds an epoch."
    )
    mask_start: Annotated[float, Field(gt=0, le=1)] = Field(
        0.065, description="Masked spans begin at this share of the 50 Hz frames; at most half is masked."
    )
    mask_span: Annotated[int, Field(ge=1)] = Field(5, description="Frames of 20 ms a masked span.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="Greatest learning rate of AdamW.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.01, description="Weight decay of AdamW.")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the training in which the learning rate rises."
    )
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="Greatest norm of the gradients.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of initialisation, order, crops and masks.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...; auto takes a GPU if torch sees one.")
    threads: Annotated[int, Field(ge=1)] | None = Field(None, description="CPU threads; torch's own choice if unset.")
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(1, description="Epochs between checkpoints; 0 for none.")
    force: bool = Field(False, description="Train again though a complete result of this configuration is there.")

    @model_validator(mode="after")
    def _check_length(self) -> Any:
        if self.epochs is not None and self.minutes is not None:
            raise ValueError(f"give epochs or minutes, not both, found epochs={self.epochs} minutes={self.minutes}")
        return self
