"""The fusions by name. To add one: a module with a class as below, and an entry here.

A fusion is built as `Fusion(dim, heads, dropout)` and maps projected streams to one or more sequences:
`forward(streams: dict[str, Ragged]) -> list[Ragged]`, each pooled and then concatenated.
"""

from __future__ import annotations

from dataclasses import dataclass


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


FUSIONS: dict[str, FusionSpec] = {
    "xattn": FusionSpec(
        target="mervn.fusion.cross_attention:CrossAttention",
        description="each modality attends to the other; both are joined along time",
        streams=("text", "audio"),
        outputs=("text",),
    ),
    "late": FusionSpec(
        target="mervn.fusion.unimodal:Late",
        description="each modality pooled on its own, the vectors joined",
        streams=("text", "audio"),
        outputs=("text", "audio"),
    ),
    "text": FusionSpec(
        target="mervn.fusion.unimodal:Text",
        description="the transcript alone",
        streams=("text",),
        outputs=("text",),
    ),
    "audio": FusionSpec(
        target="mervn.fusion.unimodal:Audio",
        description="the audio alone",
        streams=("audio",),
        outputs=("audio",),
    ),
}
