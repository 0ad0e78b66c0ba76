"""Text of `mervn predict --transcribe`: what speech recognition finds in audio that has no transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from features.audio.resampling import Samples
from features.signals import check_interrupted
from mervn.use.clips import Clip

if TYPE_CHECKING:
    from mervn.transcription.speech_recognizer import SpeechRecognizer

AT_ONCE = 32
"""Number of clips that are transcribed between looks at Ctrl-C."""


class Transcriber:
    """Adds text to clips with audio and without text, by the speech recognition of `mervn transcribe`."""

    def __init__(self, model: str, device: str) -> None:
        """Load a model; `model` is whisper=MODEL."""
        from mervn.transcription.transcribe import load_recognizer  # imports transformers

        self._recognizer: SpeechRecognizer = load_recognizer(model, device=device, option="--transcribe")

    def identity(self) -> dict[str, Any]:
        """Return everything that changes the text besides the audio."""
        return self._recognizer.identity()

    def lacks_text(self, clip: Clip) -> bool:
        """Tell whether a clip has audio and no text."""
        return clip.audio is not None and not (clip.text or "").strip()

    def add_texts(self, clips: Sequence[Clip], samples: Sequence[Samples]) -> list[Clip]:
        """Return the clips, those without text with the one that is recognised in their samples (S,)."""
        from mervn.transcription.transcribe import transcribe

        found = list(clips)
        lacking = [i for i, clip in enumerate(clips) if self.lacks_text(clip)]
        for first in range(0, len(lacking), AT_ONCE):
            check_interrupted()
            places = lacking[first : first + AT_ONCE]
            texts = transcribe([samples[i] for i in places], self._recognizer)
            for i, text in zip(places, texts, strict=True):
                found[i] = replace(clips[i], text=text)
        return found
