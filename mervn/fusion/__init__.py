"""The fusions by name. To add one: a module with a class as below, and an entry here.

A fusion is built as `Fusion(dim, heads, dropout, ...)`, with the options that its entry names by keyword. It maps
projected streams to one or more sequences, each pooled and then concatenated:
`forward(streams: dict[str, Ragged]) -> list[Ragged]`.
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
    options: tuple[str, ...] = ()
    """The options of a head that it takes besides."""
    attention: bool = True
    """Whether it reads `heads` and `attention_dropout`."""


_RECURRENT = ("rnn_layers", "rnn_hidden", "blocks", "merge")


FUSIONS: dict[str, FusionSpec] = {
    "xattn": FusionSpec(
        target="mervn.fusion.cross_attention:CrossAttention",
        description="each modality attends to the other; both are joined along time",
        streams=("text", "audio"),
        outputs=("text",),
        options=("residual", "norm", "feed_forward"),
    ),
    "bilstm_attn": FusionSpec(
        target="mervn.fusion.recurrent:RecurrentAttention",
        description="a BiLSTM a modality, then cross-attention blocks",
        streams=("text", "audio"),
        outputs=("text",),
        options=_RECURRENT,
    ),
    "cnn_bilstm_attn": FusionSpec(
        target="mervn.fusion.recurrent:RecurrentAttention",
        description="a temporal CNN and a BiLSTM a modality, then cross-attention blocks",
        streams=("text", "audio"),
        outputs=("text",),
        options=(*_RECURRENT, "cnn_layers", "kernel", "dilation_growth"),
    ),
    "late": FusionSpec(
        target="mervn.fusion.unimodal:Late",
        description="each modality pooled on its own, the vectors joined",
        streams=("text", "audio"),
        outputs=("text", "audio"),
        attention=False,
    ),
    "text": FusionSpec(
        target="mervn.fusion.unimodal:Text",
        description="the transcript alone",
        streams=("text",),
        outputs=("text",),
        attention=False,
    ),
    "audio": FusionSpec(
        target="mervn.fusion.unimodal:Audio",
        description="the audio alone",
        streams=("audio",),
        outputs=("audio",),
        attention=False,
    ),
}
