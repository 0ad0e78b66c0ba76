"""The poolings, losses and samplings by name (the fusions are in mervn/fusion/__init__.py), and the options they read.

To add a pooling or a loss: a class and an entry here.

A pooling is built as `Pooling(dim)` and maps a Ragged (sum T, D) to (B, D). A loss is built as `Loss(weights, ...)`,
class weights (C,) or None, and maps logits (B, C) and targets (B,) to a scalar.
"""

from __future__ import annotations

from dataclasses import dataclass

POOLINGS: dict[str, str] = {
    "cls": "mervn.model.pooling:ClsPooling",
    "mean": "mervn.model.pooling:MeanPooling",
    "max": "mervn.model.pooling:MaxPooling",
    "min": "mervn.model.pooling:MinPooling",
    "attn": "mervn.model.pooling:AttentivePooling",
}


@dataclass(frozen=True)
class LossSpec:
    """What is known of a loss without importing it."""

    target: str
    """`module:Class` of the loss."""
    options: tuple[str, ...] = ()
    """The options it is given besides the class weights."""


LOSSES: dict[str, LossSpec] = {
    "ce": LossSpec("mervn.model.losses:CrossEntropy"),
    "focal": LossSpec("mervn.model.losses:Focal", ("gamma",)),
    "label_smoothing": LossSpec("mervn.model.losses:LabelSmoothing", ("smoothing",)),
}


SAMPLINGS: dict[str, tuple[str, ...]] = {
    "random": (),
    "bucket": ("alpha",),
    "weighted": ("alpha", "beta"),
    "both": ("alpha", "beta"),
}
"""By sampling the options that it reads. What fusions and losses read stands in their specs."""
ATTENTION_OPTIONS = ("heads", "attention_dropout")
"""The options that only fusions with attention read."""
STREAM_OPTIONS: dict[str, tuple[str, ...]] = {
    "text": ("text_encoder", "text_store", "drop_text", "alpha", "segmenter", "tone_style"),
    "audio": (
        "audio_encoder", "audio_store", "drop_audio", "time_mask", "spec_time", "spec_frequency", "whisper_mode",
    ),
    "audio_2": ("dual_merge", "dual_time"),
}  # fmt: skip
"""By stream the options that are read only if the head has that stream."""
ADAPTERS_IGNORE = ("train_front_end",)
"""Options of a fine-tuning that trains some blocks, or adapters, alone."""
FROZEN_IGNORES = (
    "encoder_learning_rate", "layer_decay", "unfreeze_at", "gradient_checkpointing", "lora_rank", "train_front_end",
)  # fmt: skip
"""Options of a fine-tuning that are read only if it trains encoders."""
INIT_HEAD_IGNORES = ("segmenter", "tone_style", "whisper_mode")
"""Options of a fine-tuning that a head's run decides: its stores record them."""


@dataclass(frozen=True)
class FusionSpec:
    """What is known of a fusion without importing it."""

    target: str
    """`module:Class` of the fusion."""
    description: str
    streams: tuple[str, ...]
    """The modalities it reads."""
    outputs: tuple[str, ...]
    """What each sequence it returns begins with: `text` (its first row is [CLS]) or `audio`."""
    options: tuple[str, ...] = ()
    """The options of a head that it takes besides."""
    attention: bool = True
    """Whether it reads `heads` and `attention_dropout`."""


_RECURRENT = ("rnn_layers", "rnn_hidden", "blocks", "merge")


FUSIONS: dict[str, FusionSpec] = {
    "xattn": FusionSpec(
        target="mervn.model.cross_attention:CrossAttention",
        description="each modality attends to the other; both are joined along time",
        streams=("text", "audio"),
        outputs=("text",),
        options=("residual", "norm", "feed_forward"),
    ),
    "bilstm_attn": FusionSpec(
        target="mervn.model.recurrent:RecurrentAttention",
        description="a BiLSTM a modality, then cross-attention blocks",
        streams=("text", "audio"),
        outputs=("text",),
        options=_RECURRENT,
    ),
    "cnn_bilstm_attn": FusionSpec(
        target="mervn.model.recurrent:RecurrentAttention",
        description="a temporal CNN and a BiLSTM a modality, then cross-attention blocks",
        streams=("text", "audio"),
        outputs=("text",),
        options=(*_RECURRENT, "cnn_layers", "kernel", "dilation_growth"),
    ),
    "late": FusionSpec(
        target="mervn.model.unimodal:Late",
        description="each modality pooled on its own, the vectors joined",
        streams=("text", "audio"),
        outputs=("text", "audio"),
        attention=False,
    ),
    "text": FusionSpec(
        target="mervn.model.unimodal:Text",
        description="the transcript alone",
        streams=("text",),
        outputs=("text",),
        attention=False,
    ),
    "audio": FusionSpec(
        target="mervn.model.unimodal:Audio",
        description="the audio alone",
        streams=("audio",),
        outputs=("audio",),
        attention=False,
    ),
}
