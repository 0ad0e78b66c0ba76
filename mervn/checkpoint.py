"""Checkpoints of a training, as stage one has them."""

from __future__ import annotations

from features.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    remove_older,
    rng_tensors,
    save_checkpoint,
)

__all__ = (
    "latest_checkpoint",
    "load_checkpoint",
    "load_optimizer_tensors",
    "load_rng_tensors",
    "optimizer_tensors",
    "remove_older",
    "rng_tensors",
    "save_checkpoint",
)
