"""Answers of `mervn serve`: one request of a visitor, explained as HTML, and then forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from features.audio.resampling import Samples
from features.audio.segment import AudioError
from features.errors import InputError
from features.progress import Reporter
from mervn.report.page import render
from mervn.serving.serve_options import ServeOptions
from mervn.serving.uploads import Uploads
from mervn.use.clips import Clip
from mervn.use.explanation import Explanation
from mervn.use.explanation_page import plot_waveform, shaded_tokens
from mervn.use.recognizer import EmotionRecognizer, ranked

MAX_CHARACTERS = 2000
"""Maximum length of a text."""
MAX_SAMPLES_PER_SECOND = 2 * 96_000
"""Samples of all channels together that one second of audio may have; bounds the memory of a request."""
NAMES = {"audio": "the audio", "text": "the text"}
Transcriber = Callable[[Samples], str]
"""Function from samples (S,) at 16 kHz to their text."""


class Answers:
    """Checks the input of visitors and answers it with a model.

    A request is computed alone and in one thread at a time. Its audio is deleted when it is
    answered, and nothing of its content is logged.
    """

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        options: ServeOptions,
        uploads: Uploads,
        reporter: Reporter,
        transcriber: Transcriber | None = None,
    ) -> None:
        self.recognizer, self.options, self.uploads = recognizer, options, uploads
        self.reporter, self.transcriber = reporter, transcriber

    def predict(self, audio: str | None, text: str | None) -> str:
        """Return probabilities and explanation as HTML, or why there are none; delete the audio."""
        try:
            return self._guarded(audio, lambda: self._predict(audio, text))
        finally:
            self.uploads.delete(audio)

    def transcribe(self, audio: str | None, text: str | None) -> tuple[str | None, str]:
        """Return the text of the audio, or else the text that was typed, and a message as HTML.

        The audio stays for the prediction.
        """
        texts: list[str] = []
        message = self._guarded(audio, lambda: self._transcribe(audio, texts))
        return texts[0] if texts else text, message

    def _guarded(self, audio: str | None, answer: Callable[[], str]) -> str:
        """Return an answer, or a message of what must hold; errors name the file as the visitor does."""
        try:
            return answer()
        except InputError as error:
            message = str(error)
            return fault(message if audio is None else message.replace(audio, Path(audio).name))
        except Exception as error:  # the server must answer others, and must not print what was sent
            self.reporter.say(f"error: a request failed: {type(error).__name__}")
            return fault("This input cannot be processed because of a fault of the program.")

    def _predict(self, audio: str | None, text: str | None) -> str:
        """Explain one input; InputError if it cannot be used."""
        recognizer = self.recognizer
        text = (text or "").strip() or None
        if not recognizer.needs_text:
            text = None
        if not recognizer.needs_audio:
            audio = None
        if audio is None and text is None:
            raise InputError(f"There is no input yet: {ask_for(recognizer)}.")
        if text is not None and len(text) > MAX_CHARACTERS:
            raise InputError(f"The text must have at most {MAX_CHARACTERS} characters, found {len(text)}.")
        if audio is not None:
            self._check_audio(Path(audio))
        return render_answer(recognizer.explain(audio, text), missing(recognizer, audio, text))

    def _transcribe(self, audio: str | None, texts: list[str]) -> str:
        """Add the text of the audio to `texts` and return a message; InputError if it cannot be used."""
        if audio is None or self.transcriber is None:
            raise InputError("There is no audio yet: record some, or choose a file.")
        path = Path(audio)
        self._check_audio(path)
        text = self.transcriber(Clip(path).samples(self.recognizer.scorer.reader))
        if not text:
            raise InputError("No words were recognised: type what is said.")
        texts.append(text)
        note = "Check the text and correct it: the prediction reads it."
        return render("served_message.html", message=note, fault=False)

    def _check_audio(self, path: Path) -> None:
        """Raise AudioError unless audio can be decoded within the limits of duration and memory."""
        if not path.is_file():
            raise AudioError("not_found", "The audio was deleted: record or choose it again.")
        seconds, limit = Clip(path).seconds(), self.options.max_duration_s
        if seconds > limit:
            raise AudioError("too_long", f"The audio must last at most {limit:g} s, found {seconds:.1f} s.")
        info = soundfile.info(str(path))
        if info.samplerate * info.channels > MAX_SAMPLES_PER_SECOND:
            raise AudioError(
                "too_many_samples",
                f"The audio must have at most {MAX_SAMPLES_PER_SECOND} samples per second in all channels, found "
                f"{info.channels} channels at {info.samplerate} Hz.",
            )


def ask_for(recognizer: EmotionRecognizer) -> str:
    """Return what a visitor has to give, in words."""
    wanted = []
    if recognizer.needs_audio:
        wanted.append("record or choose audio")
    if recognizer.needs_text:
        wanted.append("type what is said")
    return " and ".join(wanted)


def missing(recognizer: EmotionRecognizer, audio: str | None, text: str | None) -> list[str]:
    """Return a note for each modality that the model reads and the input lacks."""
    notes = []
    for name, given, needed in (("audio", audio, recognizer.needs_audio), ("text", text, recognizer.needs_text)):
        if needed and given is None:
            notes.append(f"There is no {name}. The model treats the input like an utterance whose {name} is missing.")
    return notes


def render_answer(found: Explanation, notes: Sequence[str]) -> str:
    """Return an explanation as HTML."""
    labels = list(found.probabilities)
    scores = ranked(labels, np.array(list(found.probabilities.values())))
    caption, figure = plot_waveform("served", found) if found.envelope.size else ("", "")
    return render(
        "served_answer.html",
        scores=[(one["label"], one["score"]) for one in scores],
        notes=notes,
        contributions=contributions(found),
        words=shaded_tokens(found),
        source=found.source,
        figure=figure,
        caption=caption,
    )


def contributions(found: Explanation) -> list[str]:
    """Return a sentence for each modality that was left out."""
    sentences = []
    for modality, without in found.without.items():
        label = found.prediction
        other = max(without, key=without.__getitem__)
        now, then = percent(found.probabilities[label]), percent(without[label])
        sentences.append(f"Without {NAMES[modality]}, {label} has {then} instead of {now}; most likely is {other}.")
    return sentences


def percent(probability: float) -> str:
    """Return a probability as text, which is never broken before the sign."""
    return f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"


def fault(message: str) -> str:
    """Return a message about an input that cannot be used, as HTML and with a full stop."""
    return render("served_message.html", message=message if message.endswith(".") else f"{message}.", fault=True)
