"""Text of `mervn predict --transcribe`: what speech recognition finds in audio that has no transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from features.audio.resampling import Samples
from features.audio.segment import AudioError
from features.audio.segment_reader import SegmentReader
from features.signals import check_interrupted
from mervn.use.clips import Clip

if TYPE_CHECKING:
    from mervn.use.speech_recognizer import SpeechRecognizer

AT_ONCE = 32
"""Number of clips that are decoded and transcribed together."""


class Transcriber:
    """Adds text to clips with audio and without text, by the speech recognition of `mervn transcribe`."""

    def __init__(self, model: str, device: str) -> None:
        """Load a model; `model` is whisper=MODEL."""
        from mervn.use.transcribe import load_recognizer  # imports transformers

        self._recognizer: SpeechRecognizer = load_recognizer(model, device=device, option="--transcribe")
        self._reader = SegmentReader()

    def identity(self) -> dict[str, Any]:
        """Return everything that changes the text besides the audio."""
        return self._recognizer.identity()

    def add_texts(self, clips: Sequence[Clip]) -> list[Clip | AudioError]:
        """Return the clips, those without text with the one that is recognised.

        In place of a clip whose audio cannot be read, return the reason.
        """
        from mervn.use.transcribe import transcribe

        found: list[Clip | AudioError] = list(clips)
        lacking = [i for i, clip in enumerate(clips) if clip.audio is not None and not (clip.text or "").strip()]
        for first in range(0, len(lacking), AT_ONCE):
            check_interrupted()
            waves: dict[int, Samples] = {}
            for i in lacking[first : first + AT_ONCE]:
                try:
                    waves[i] = clips[i].samples(self._reader)
                except AudioError as error:
                    found[i] = error
            texts = transcribe(list(waves.values()), self._recognizer)
            for i, text in zip(waves, texts, strict=True):
                found[i] = replace(clips[i], text=text)
        return found
