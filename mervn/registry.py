"""The poolings and losses by name (the fusions are in mervn/fusion/__init__.py). To add one: a class and an entry here.

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
