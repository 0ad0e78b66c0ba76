"""EmotionRecognizer: the emotion of audio and text, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from features.audio.segment import AudioError
from features.errors import UsageError
from mervn.use.clips import Clip, from_array
from mervn.use.explanation import Explanation, explain
from mervn.use.hub_bundles import local_folder
from mervn.use.run_model import RunModel, open_run_model
from mervn.use.scoring import Scorer, plan_blocks

Array = np.ndarray[Any, Any]
AudioInput = str | Path | Array | None
"""A file, samples (S,), or None for no audio."""


class Score(TypedDict):
    """One class and its probability, as Hugging Face pipelines return it."""

    label: str
    score: float


class EmotionRecognizer:
    """Predicts the emotion of audio, text or both with a trained run or a bundle.

    The probabilities equal those of `mervn evaluate` for the same utterance. They do not depend on
    the other inputs of a call. An object serves one call at a time.
    """

    def __init__(self, model: RunModel, *, batch_seconds: float | None = None) -> None:
        self.model = model
        self.scorer = Scorer(model, batch_seconds)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        features_dir: str | Path | None = None,
        trust_code: bool = False,
    ) -> EmotionRecognizer:
        """Load a run of `train-head` or `finetune`, or a bundle: a folder, or an id of the Hugging Face hub.

        Raises the errors of `open_run_model`, and InputError if the hub cannot be reached.
        """
        folder = None if features_dir is None else Path(features_dir)
        return cls(open_run_model(local_folder(path), device, features_dir=folder, trust_code=trust_code))

    @property
    def labels(self) -> tuple[str, ...]:
        """The C labels, in the order of `probabilities`."""
        return self.model.labels

    @property
    def needs_text(self) -> bool:
        """Tell whether the model reads text."""
        return "text" in self.model.modalities

    @property
    def needs_audio(self) -> bool:
        """Tell whether the model reads audio."""
        return "audio" in self.model.modalities

    def __call__(
        self,
        audio: AudioInput | Sequence[AudioInput] = None,
        text: str | Sequence[str | None] | None = None,
        *,
        sample_rate: int | None = None,
        top_k: int | None = None,
    ) -> list[Score] | list[list[Score]]:
        """Return the labels with their probabilities, highest first; for lists one such list per input.

        `audio` is a file, an array (S,) with its `sample_rate`, or None; `text` a transcript or None.
        Without one of them, the model treats the input like an utterance that lacks the modality.
        `top_k` limits the number of labels. Raises InputError for audio that cannot be used, and
        UsageError for an input without anything that the model reads.
        """
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k must be at least 1, found {top_k}")
        clips, is_single = self._clips(audio, text, sample_rate)
        found = [ranked(self.labels, scores)[:top_k] for scores in self.probabilities(clips)]
        return found[0] if is_single else found

    def probabilities(self, clips: Sequence[Clip]) -> Array:
        """Return the probabilities (N, C) float64 of N clips, in the order of `labels`.

        Raises InputError for the first clip whose audio cannot be used.
        """
        result = np.empty((len(clips), len(self.labels)))
        reads_audio = self.needs_audio
        seconds = [clip.seconds() if reads_audio else 0.0 for clip in clips]
        for block in plan_blocks(seconds, self.scorer.batch_budget["audio"]):
            for i, scores in zip(block, self.scorer.score([clips[i] for i in block]), strict=True):
                if isinstance(scores, AudioError):
                    raise scores
                result[i] = scores
        return result

    def explain(
        self, audio: AudioInput = None, text: str | None = None, *, sample_rate: int | None = None
    ) -> Explanation:
        """Return the attention weights and the contribution of each modality for one input."""
        refuse_rate_without_array([audio], sample_rate)
        return explain(self.scorer, self._clip(audio, text, sample_rate))

    def save_pretrained(
        self, folder: str | Path, *, features_dir: str | Path | None = None, trust_code: bool = False
    ) -> None:
        """Write the model as a bundle, or copy the bundle that it was loaded from.

        Raises the errors of `write_bundle`.
        """
        from mervn.use.bundle import save_bundle

        stores = None if features_dir is None else Path(features_dir)
        save_bundle(self.model, Path(folder), stores, trust_code)

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """Upload the bundle that the model was loaded from with the user's token, and return its address."""
        from mervn.use.hub_bundles import push

        return push(self.model.path, repository, private)

    def _clips(self, audio: Any, text: Any, sample_rate: int | None) -> tuple[list[Clip], bool]:
        """Return the clips of a call, and whether it has a single input."""
        refuse_rate_without_array(audio if isinstance(audio, list | tuple) else [audio], sample_rate)
        if not isinstance(audio, list | tuple) and not isinstance(text, list | tuple):
            return [self._clip(audio, text, sample_rate)], True
        count = len(audio) if isinstance(audio, list | tuple) else len(text)
        audios = audio if isinstance(audio, list | tuple) else [audio] * count
        texts = text if isinstance(text, list | tuple) else [text] * count
        if (audio is not None and audios is not audio) or (text is not None and texts is not text):
            raise UsageError("audio and text must both be lists, or one of them None, found one list")
        if len(audios) != len(texts):
            raise UsageError(f"audio and text must have equal lengths, found {len(audios)} and {len(texts)}")
        return [self._clip(one, of_one, sample_rate) for one, of_one in zip(audios, texts, strict=True)], False

    def _clip(self, audio: Any, text: Any, sample_rate: int | None) -> Clip:
        """Check one input; UsageError if it has nothing that the model reads."""
        if text is not None and not isinstance(text, str):
            raise UsageError(f"text must be a str or None, found {type(text).__name__}")
        require_input(self.model, audio is not None, text is not None)
        if audio is None:
            return Clip(text=text)
        if isinstance(audio, str | Path):
            return Clip(Path(audio), text=text, file=str(audio))
        if not isinstance(audio, np.ndarray) and not hasattr(audio, "__array__"):
            raise UsageError(f"audio must be a path, an array or None, found {type(audio).__name__}")
        return Clip(from_array(audio, sample_rate), text=text)


def refuse_rate_without_array(audios: Sequence[Any], sample_rate: Any) -> None:
    """Raise UsageError for a `sample_rate` that nothing reads: a file holds its own."""
    if sample_rate is not None and all(audio is None or isinstance(audio, str | Path) for audio in audios):
        raise UsageError(f"sample_rate is for arrays, found {sample_rate!r} without an array; a file holds its own")


def require_input(model: RunModel, has_audio: bool, has_text: bool) -> None:
    """Raise UsageError unless an input has a modality that the model reads."""
    given = {"audio": has_audio, "text": has_text}
    if not any(given[name] for name in model.modalities):
        raise UsageError(f"{model.path} reads {' and '.join(model.modalities)}, but the input has none of it")


def ranked(labels: Sequence[str], probabilities: Array) -> list[Score]:
    """Return labels with their probabilities, highest first; equal ones in the order of the labels."""
    order = np.argsort(-probabilities, kind="stable")
    return [{"label": labels[i], "score": float(probabilities[i])} for i in order]


def load(path: str | Path, device: str = "auto") -> EmotionRecognizer:
    """Load a run or a bundle for prediction: `EmotionRecognizer.from_pretrained`."""
    return EmotionRecognizer.from_pretrained(path, device=device)
