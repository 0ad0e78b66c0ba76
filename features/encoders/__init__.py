"""The encoders by name. To add one: a module with a final `Encoder`, and an entry here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder without importing it."""

    target: str
    """`module:Class` of the Encoder."""
    description: str
    model: str | None
    """Hub id or folder used when the selector names none; None: the encoder makes its own weights."""
    depth: float | None
    """Default layer as a share of the encoder's layers; None: its last output."""
    width: str
    layers: str
    rate: str
    """Output rows, per second of audio or per what of text."""
    needs: str
    """What must be there to load it."""
    licence: str
    reason: str = ""
    """Why the default layer is what it is."""


TEXT_ENCODERS: dict[str, EncoderSpec] = {
    "hashed_ngrams": EncoderSpec(
        target="features.encoders.hashed_ngrams:HashedNgrams",
        description="hashed syllable and character n-grams with positions; a baseline that knows no meaning",
        model=None,
        depth=None,
        width="256",
        layers="1",
        rate="1 a syllable, and [CLS]",
        needs="nothing",
        licence="Apache-2.0",
    ),
}

AUDIO_ENCODERS: dict[str, EncoderSpec] = {
    "fourier2vec": EncoderSpec(
        target="features.encoders.fourier2vec:Fourier2Vec",
        description="log-mel spectrogram, convolutions and a Transformer; random features unless pretrained",
        model=None,
        depth=None,
        width="256",
        layers="4",
        rate="50 Hz",
        needs="nothing",
        licence="Apache-2.0",
    ),
    "whisper": EncoderSpec(
        target="features.encoders.whisper:Whisper",
        description="encoder of Whisper or PhoWhisper, any size, 30 s windows",
        model="openai/whisper-small",
        depth=2 / 3,
        width="384 tiny, 512 base, 768 small, 1024 medium, 1280 large",
        layers="4 tiny, 6 base, 12 small, 24 medium, 32 large",
        rate="50 Hz",
        needs="a checkpoint: hub id or folder",
        licence="MIT (Whisper), BSD-3-Clause (PhoWhisper)",
        reason="middle layers carry emotion best, the last can be worst (arXiv 2308.08713)",
    ),
}

ENCODERS: dict[str, dict[str, EncoderSpec]] = {"text": TEXT_ENCODERS, "audio": AUDIO_ENCODERS}
