"""The poolings, losses and samplings by name (the fusions are in mervn/fusion/__init__.py), and the options they read.

To add a pooling or a loss: a class and an entry here.

A pooling is built as `Pooling(dim)` and maps a Ragged (sum T, D) to (B, D). A loss is built as `Loss(weights, ...)`,
class weights (C,) or None, and maps logits (B, C) and targets (B,) to a scalar.
"""

from __future__ import annotations

from dataclasses import dataclass

POOLINGS: dict[str, str] = {
    "cls": "mervn.pooling:ClsPooling",
    "mean": "mervn.pooling:MeanPooling",
    "max": "mervn.pooling:MaxPooling",
    "min": "mervn.pooling:MinPooling",
    "attn": "mervn.pooling:AttentivePooling",
}


@dataclass(frozen=True)
class LossSpec:
    """What is known of a loss without importing it."""

    target: str
    """`module:Class` of the loss."""
    options: tuple[str, ...] = ()
    """The options it is given besides the class weights."""


LOSSES: dict[str, LossSpec] = {
    "ce": LossSpec("mervn.losses:CrossEntropy"),
    "focal": LossSpec("mervn.losses:Focal", ("gamma",)),
    "label_smoothing": LossSpec("mervn.losses:LabelSmoothing", ("smoothing",)),
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
