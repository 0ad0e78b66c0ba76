"""Registry of fusions, poolings, losses and samplings by name, with the options that each reads.

To add a fusion, pooling or loss, write a class and add an entry here.

A fusion is built as `Fusion(dim, heads, dropout, ...)` and maps streams {name: Ragged (sum T, D)}
to a list of Ragged. A pooling is built as `Pooling(dim)` and maps a Ragged (sum T, D) to (B, D). A
loss is built as `Loss(weights, ...)`, with class weights (C,) or None, and maps logits (B, C) and
targets (B,) to a scalar. A loss with `priors` is also given the class priors of train, (C,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POOLINGS: dict[str, str] = {
    "cls": "mervn.model.pooling:ClsPooling",
    "mean": "mervn.model.pooling:MeanPooling",
    "max": "mervn.model.pooling:MaxPooling",
    "min": "mervn.model.pooling:MinPooling",
    "attn": "mervn.model.pooling:AttentivePooling",
}


@dataclass(frozen=True)
class LossSpec:
    """Metadata of a loss, available without importing it."""

    target: str
    """`module:Class` of the loss."""
    options: tuple[str, ...] = ()
    """The options that it takes as keyword arguments, besides the class weights."""
    priors: bool = False
    """Whether it takes the class frequencies of train, (C,) with sum 1, as `priors`."""


LOSSES: dict[str, LossSpec] = {
    "ce": LossSpec("mervn.model.losses:CrossEntropy"),
    "focal": LossSpec("mervn.model.losses:Focal", ("gamma",)),
    "label_smoothing": LossSpec("mervn.model.losses:LabelSmoothing", ("smoothing",)),
    "logit_adjustment": LossSpec("mervn.model.losses:LogitAdjustment", ("tau",), priors=True),
}


SAMPLINGS: dict[str, tuple[str, ...]] = {
    "random": (),
    "bucket": ("alpha",),
    "weighted": ("alpha", "beta"),
    "both": ("alpha", "beta"),
}
"""The options that each sampling reads. For fusions and losses, see their specs."""
Recipe = Literal["demo", "demo-none", "emobox-iemocap", "meld", "superb-iemocap", "visec"]
"""Names of the recipes of `mervn ablate`, files in mervn/study/recipes."""
ATTENTION_OPTIONS = ("heads", "attention_dropout")
"""Options that only fusions with attention read."""
STREAM_OPTIONS: dict[str, tuple[str, ...]] = {
    "text": ("text_encoder", "text_store", "drop_text", "alpha", "segmenter", "tone_style"),
    "audio": (
        "audio_encoder", "audio_store", "drop_audio", "time_mask", "spec_time", "spec_frequency", "whisper_mode",
    ),
    "audio_2": ("dual_merge", "dual_time"),
}  # fmt: skip
"""Options that are read only if the head has the stream."""
ADAPTERS_IGNORE = ("train_front_end",)
"""Fine-tuning options without effect if only some blocks, or only adapters, are trained."""
FROZEN_IGNORES = (
    "encoder_learning_rate", "layer_decay", "unfreeze_at", "gradient_checkpointing", "lora_rank", "train_front_end",
)  # fmt: skip
"""Fine-tuning options without effect if the encoders are frozen."""
LINEAR_POOLING = "mean"
"""The only pooling of a linear head."""
LINEAR_IGNORES = ("dim", "mlp", "dropout", "input_dropout", "missing", "dual_merge", "dual_time")
"""Options of a head without effect on a linear head."""
FIT_IGNORES = (
    "loss", "gamma", "smoothing", "tau", "sampling", "batch_size", "frame_budget", "alpha", "beta", "accumulate", "amp",
    "drop_text", "drop_audio", "time_mask", "epochs", "patience", "learning_rate", "weight_decay", "warmup",
    "clip_norm", "schedule", "average_last", "checkpoint_every", "checkpoint_steps", "keep_checkpoints", "tensorboard",
)  # fmt: skip
"""Options of `train-head` without effect on the fit of a linear head."""
LATER_OPTIONS = ("average_last", "report")
"""Options that config.json records only if they differ from the default.

Runs of earlier versions do not have them, and keep their hashes."""
INIT_HEAD_IGNORES = ("segmenter", "tone_style", "whisper_mode")
"""Fine-tuning options without effect with --init-head: the stores of that run record them."""


@dataclass(frozen=True)
class FusionSpec:
    """Metadata of a fusion, available without importing it."""

    target: str
    """`module:Class` of the fusion."""
    description: str
    streams: tuple[str, ...]
    """The modalities it reads."""
    outputs: tuple[str, ...]
    """Modality with which each returned sequence begins: `text` (first token [CLS]) or `audio`."""
    options: tuple[str, ...] = ()
    """The head options that it takes as keyword arguments, besides `dim`, `heads` and `dropout`."""
    attention: bool = True
    """Whether it reads `heads` and `attention_dropout`."""
    linear: bool = False
    """Whether the head is one linear layer on time-means, which `train-head` fits at once."""


_RECURRENT = ("rnn_layers", "rnn_hidden", "blocks", "merge")


FUSIONS: dict[str, FusionSpec] = {
    "xattn": FusionSpec(
        target="mervn.model.cross_attention:CrossAttention",
        description="two-way cross-attention; both outputs concatenated along time",
        streams=("text", "audio"),
        outputs=("text",),
        options=("residual", "norm", "feed_forward"),
    ),
    "bilstm_attn": FusionSpec(
        target="mervn.model.recurrent:RecurrentAttention",
        description="a BiLSTM per modality, then cross-attention blocks",
        streams=("text", "audio"),
        outputs=("text",),
        options=_RECURRENT,
    ),
    "cnn_bilstm_attn": FusionSpec(
        target="mervn.model.recurrent:RecurrentAttention",
        description="a temporal CNN and a BiLSTM per modality, then cross-attention blocks",
        streams=("text", "audio"),
        outputs=("text",),
        options=(*_RECURRENT, "cnn_layers", "kernel", "dilation_growth"),
    ),
    "late": FusionSpec(
        target="mervn.model.unimodal:Late",
        description="late fusion: modalities pooled separately, vectors concatenated",
        streams=("text", "audio"),
        outputs=("text", "audio"),
        attention=False,
    ),
    "text": FusionSpec(
        target="mervn.model.unimodal:Text",
        description="text only",
        streams=("text",),
        outputs=("text",),
        attention=False,
    ),
    "audio": FusionSpec(
        target="mervn.model.unimodal:Audio",
        description="audio only",
        streams=("audio",),
        outputs=("audio",),
        attention=False,
    ),
    "linear": FusionSpec(
        target="mervn.model.linear:Separate",
        description="logistic regression on the time-means of both modalities",
        streams=("text", "audio"),
        outputs=("text", "audio"),
        attention=False,
        linear=True,
    ),
    "linear_text": FusionSpec(
        target="mervn.model.linear:Separate",
        description="logistic regression on the time-means of the text only",
        streams=("text",),
        outputs=("text",),
        attention=False,
        linear=True,
    ),
    "linear_audio": FusionSpec(
        target="mervn.model.linear:Separate",
        description="logistic regression on the time-means of the audio only",
        streams=("audio",),
        outputs=("audio",),
        attention=False,
        linear=True,
    ),
}
