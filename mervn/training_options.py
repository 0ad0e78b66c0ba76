"""Option models of a head and its training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from features.config import ADVANCED, Group, OneOf, Options
from mervn.registry import FUSIONS, LOSSES, POOLINGS

Fraction = Annotated[float, Field(ge=0, lt=1)]


class HeadOptions(Options):
    """Architecture of a head."""

    fusion: Annotated[str, OneOf(FUSIONS, custom=True), Group.MODEL] = Field("xattn", description="Fusion.")
    pooling: Annotated[str, OneOf(POOLINGS, custom=True), Group.MODEL] = Field("attn", description="Pooling.")
    dim: Annotated[PositiveInt, Group.MODEL] = Field(256, description="Width of the projections and of the fusion.")
    heads: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        4, description="Number of attention heads (fusions with attention)."
    )
    attention_dropout: Annotated[Fraction, Group.MODEL, ADVANCED] = Field(
        0.0, description="Dropout on the attention weights."
    )
    residual: Annotated[bool, Group.MODEL, ADVANCED] = Field(
        False, description="Add a residual connection around the attention (xattn)."
    )
    norm: Annotated[bool, Group.MODEL, ADVANCED] = Field(
        False, description="Apply LayerNorm before the attention (xattn)."
    )
    feed_forward: Annotated[bool, Group.MODEL, ADVANCED] = Field(
        False, description="Add a feed-forward block after the attention (xattn)."
    )
    rnn_layers: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        1, description="Number of BiLSTM layers (bilstm_attn, cnn_bilstm_attn)."
    )
    rnn_hidden: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        128, description="Hidden size of the BiLSTM per direction (bilstm_attn, cnn_bilstm_attn)."
    )
    blocks: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        1, description="Number of cross-attention blocks (bilstm_attn, cnn_bilstm_attn)."
    )
    merge: Annotated[Literal["concat", "gate"], Group.MODEL, ADVANCED] = Field(
        "concat",
        description="Use the attention output directly (concat), or gate it with its input (gate) "
        "(bilstm_attn, cnn_bilstm_attn).",
    )
    cnn_layers: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        2, description="Number of layers of the temporal CNN (cnn_bilstm_attn)."
    )
    kernel: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        3, description="Kernel size of the CNN in frames, an odd number (cnn_bilstm_attn)."
    )
    dilation_growth: Annotated[PositiveInt, Group.MODEL, ADVANCED] = Field(
        2, description="Factor between the dilations of successive CNN layers (cnn_bilstm_attn)."
    )
    mlp: Annotated[tuple[PositiveInt, ...], Group.MODEL, ADVANCED] = Field(
        (256, 128), description="Sizes of the classifier's hidden layers."
    )
    dropout: Annotated[Fraction, Group.MODEL] = Field(0.1, description="Dropout in the classifier.")
    input_dropout: Annotated[Fraction, Group.MODEL, ADVANCED] = Field(
        0.0, description="Dropout on the projected frames of each stream, before the fusion."
    )
    missing: Annotated[Literal["token", "none"], Group.MODEL, ADVANCED] = Field(
        "token", description="Replace an empty stream by a learned token, or mask it out (none)."
    )
    dual_merge: Annotated[Literal["concat", "sum"], Group.MODEL, ADVANCED] = Field(
        "concat", description="Concatenate or add the two audio streams that + joins."
    )
    dual_time: Annotated[Literal["repeat", "linear"], Group.MODEL, ADVANCED] = Field(
        "repeat",
        description="Align the second audio stream with the first: repeat its frames, or interpolate linearly.",
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


class OptimizerOptions(Options):
    """AdamW with warmup and gradient clipping."""

    learning_rate: Annotated[PositiveFloat, Group.TRAINING] = Field(5e-4, description="Peak learning rate of AdamW.")
    weight_decay: Annotated[NonNegativeFloat, Group.TRAINING, ADVANCED] = Field(
        0.01, description="Weight decay of AdamW."
    )
    warmup: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.1, description="Fraction of the steps in which the learning rate rises."
    )
    clip_norm: Annotated[PositiveFloat, Group.TRAINING, ADVANCED] = Field(1.0, description="Gradient clipping norm.")


class TrainingOptions(HeadOptions, OptimizerOptions):
    """Training of a head."""

    exclusive = (("batch_size", "frame_budget"),)
    default_batch_size: ClassVar[int] = 32
    """Utterances per batch if neither --batch-size nor --frame-budget is given."""

    loss: Annotated[str, OneOf(LOSSES, custom=True), Group.TRAINING] = Field("focal", description="Loss.")
    gamma: Annotated[NonNegativeFloat, Group.TRAINING, ADVANCED] = Field(
        2.0, description="Focusing parameter of the focal loss."
    )
    smoothing: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.1, description="Smoothing of the label_smoothing loss."
    )
    tau: Annotated[NonNegativeFloat, Group.TRAINING, ADVANCED] = Field(
        1.0, description="Weight of the log class priors in the logit_adjustment loss."
    )
    class_weights: Annotated[Literal["none", "balanced"], Group.TRAINING] = Field(
        "none", description="Class weights in the loss."
    )
    sampling: Annotated[Literal["random", "bucket", "weighted", "both"], Group.SAMPLING] = Field(
        "both", description="Batches: random, bucket (by length), weighted or both."
    )
    batch_size: Annotated[PositiveInt | None, Group.SAMPLING] = Field(
        None, description="Utterances per batch [default: 32]."
    )
    frame_budget: Annotated[PositiveInt | None, Group.SAMPLING, ADVANCED] = Field(
        None, description="Frames and tokens per batch, padding included; replaces --batch-size."
    )
    alpha: Annotated[NonNegativeFloat, Group.SAMPLING, ADVANCED] = Field(
        0.03, description="Seconds that a syllable adds to an utterance's length for sampling."
    )
    beta: Annotated[NonNegativeFloat, Group.SAMPLING, ADVANCED] = Field(
        0.5, description="Exponent of the length in the sampling weights."
    )
    accumulate: Annotated[PositiveInt, Group.TRAINING, ADVANCED] = Field(
        1, description="Gradient accumulation: batches per optimizer step."
    )
    amp: Annotated[Literal["auto", "off", "bf16", "fp16"], Group.TRAINING, ADVANCED] = Field(
        "auto", description="Mixed precision: auto (bf16 if the device supports it, else off), off, bf16 or fp16."
    )
    drop_text: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.0, description="Probability of dropping the transcript of an utterance in training."
    )
    drop_audio: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.0, description="Probability of dropping the audio of an utterance in training."
    )
    time_mask: Annotated[Fraction, Group.TRAINING, ADVANCED] = Field(
        0.0, description="Maximum fraction of an utterance's audio frames that is masked in training."
    )
    epochs: Annotated[PositiveInt, Group.TRAINING] = Field(50, description="Maximum number of epochs.")
    patience: Annotated[PositiveInt, Group.TRAINING] = Field(
        10, description="Early stopping: epochs without a better valid macro-F1."
    )
    average_last: Annotated[PositiveInt, Group.TRAINING, ADVANCED] = Field(
        1, description="Average the weights of the last K epochs up to the best one; 1: only the best one's."
    )
    schedule: Annotated[Literal["cosine", "constant"], Group.TRAINING, ADVANCED] = Field(
        "cosine", description="Learning rate schedule after the warmup."
    )
    deterministic: Annotated[bool, Group.TRAINING, ADVANCED] = Field(
        False, description="Use deterministic GPU algorithms, without TF32; slower."
    )
    seed: Annotated[NonNegativeInt, Group.TRAINING] = Field(
        0, description="Seed of initialisation, dropout and sampling."
    )

    @model_validator(mode="after")
    def _check_batches(self) -> Any:
        if self.batch_size is not None and self.frame_budget is not None:
            raise ValueError(
                f"give --batch-size or --frame-budget, found both: {self.batch_size} and {self.frame_budget}"
            )
        return self

    @property
    def utterances_per_batch(self) -> int | None:
        """Utterances per batch; None if a frame budget decides."""
        return None if self.frame_budget is not None else self.batch_size or self.default_batch_size
