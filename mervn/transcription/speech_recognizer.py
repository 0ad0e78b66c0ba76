"""Speech recognition with Whisper and PhoWhisper: greedy decoding, the same text in every batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from features.audio.resampling import SAMPLE_RATE, Samples
from features.device import precision_context
from features.encoders.pretrained import quiet_transformers
from features.errors import InputError
from features.memory import MemoryBudget
from features.text.normalize import normalize_text
from mervn.transcription.asr_checkpoint import AsrCheckpoint

NUMERICS_VERSION = 1
"""Increased by every change of the text that the same model gives."""
CLEAR_MARGIN = {"fp32": 0.01, "bf16": 1.0}
"""By precision: the difference of two logits from which rounding cannot exchange their order."""


@dataclass(frozen=True)
class Recognition:
    """Text of one utterance."""

    text: str
    """Normalized; empty if nothing was recognised."""
    truncated: bool
    """Whether it has the maximum number of tokens: most often a phrase that the model repeats."""


class MarginRecorder:
    """Logits processor that records the smallest margin between the best token and the second best."""

    def __init__(self, end: int) -> None:
        self.end = end
        """Id of the token that ends a text; choices after it do not count."""
        self.smallest: Tensor | None = None
        """Smallest margin of each text so far, (B,)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record the margins of logits (B, V) that follow tokens (B, T), and return the logits."""
        best = scores.topk(2).values  # (B, 2)
        margins = (best[:, 0] - best[:, 1]).masked_fill(input_ids[:, -1] == self.end, math.inf)
        self.smallest = margins if self.smallest is None else torch.minimum(self.smallest, margins)
        return scores


class SpeechRecognizer:
    """Transcribes one language with a Whisper checkpoint, without timestamps.

    The text of an utterance is the one that it gets alone. The kernels of a larger batch round
    differently, which can only exchange tokens of almost equal logits. An utterance with such a
    choice is recognised again, alone. Audio that is longer than the window (30 s) is always
    recognised alone, by the long-form algorithm of transformers: it moves the window to the last
    timestamp that the model predicts.
    """

    def __init__(self, checkpoint: AsrCheckpoint, device: torch.device, precision: str = "fp32") -> None:
        self.model = checkpoint.model.to(device)
        self.checkpoint, self.device, self.precision = checkpoint, device, precision
        self.window = int(checkpoint.extractor.n_samples)
        """Samples of a window."""
        self.budget = MemoryBudget(device)

    def identity(self) -> dict[str, Any]:
        """Return everything that changes the text besides the audio."""
        own = {"numerics_version": NUMERICS_VERSION, "precision": self.precision}
        return {**self.checkpoint.identity(), **own}

    def recognize(self, waves: Sequence[Samples]) -> list[Recognition | None]:
        """Recognise one batch of audio (S,) at 16 kHz, each longer than 0 samples.

        None stands for audio beyond the window that does not fit into memory. InputError if
        shorter audio does not fit.
        """
        results: list[Recognition | None] = [None] * len(waves)
        is_long = [len(wave) > self.window for wave in waves]
        batches = [[i] for i, long in enumerate(is_long) if long]
        batches.append([i for i, long in enumerate(is_long) if not long])

        def compute(part: list[int]) -> list[Recognition]:
            if is_long[part[0]]:
                return [self._long_form(waves[part[0]])]
            return self._batch([waves[i] for i in part])

        costs = [1.0] * len(waves)  # windows
        with torch.inference_mode(), precision_context(self.device, self.precision), quiet_transformers():
            for batch in batches:
                for part, found in self.budget.run(batch, costs, compute):
                    if found is not None:
                        for i, recognition in zip(part, found, strict=True):
                            results[i] = recognition
                    elif not is_long[part[0]]:
                        raise InputError(f"{self.device} has too little free memory for one window of speech")
        return results

    def _batch(self, waves: Sequence[Samples]) -> list[Recognition]:
        """Recognise audio of at most one window each, and again alone where a choice was close."""
        recorder = MarginRecorder(self.checkpoint.decoding.end)
        tokens = self._generate(self._log_mel(waves), timestamps=False, logits_processor=[recorder])  # (B, T)
        found = list(map(self._read, tokens.tolist()))
        if len(waves) == 1 or recorder.smallest is None:
            return found
        # not clear: also a margin of NaN
        is_clear = recorder.smallest >= CLEAR_MARGIN[self.precision]
        for i, clear in enumerate(is_clear.tolist()):
            if not clear:
                found[i] = self._batch([waves[i]])[0]
        return found

    def _long_form(self, wave: Samples) -> Recognition:
        """Recognise audio of several windows."""
        tokens = self._generate(self._log_mel([wave], whole=True), timestamps=True)
        return replace(self._read(tokens[0].tolist()), truncated=False)

    def _generate(self, features: Tensor, *, timestamps: bool, **options: Any) -> Tensor:
        """Return the tokens of spectrograms, without the prompt, padded with the end token."""
        # transformers reads suppressed tokens from the model too, so they must be the same there
        self.model.generation_config = self.checkpoint.decoding.generation_config(timestamps=timestamps)
        tokens: Tensor = self.model.generate(features, generation_config=self.model.generation_config, **options)
        return tokens

    def _log_mel(self, waves: Sequence[Samples], *, whole: bool = False) -> Tensor:
        """Return log-mel spectrograms: of padded windows (B, mels, 3000), or of `whole` audio (1, mels, T)."""
        padding = {"padding": "longest", "truncation": False} if whole else {"padding": "max_length"}
        with torch.autocast(self.device.type, enabled=False):  # bf16 would lose quiet sounds
            batch = self.checkpoint.extractor(
                list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt", device=str(self.device), **padding
            )
        features: Tensor = batch.input_features
        return features.to(self.device)

    def _read(self, tokens: Sequence[int]) -> Recognition:
        """Return the text of tokens without the prompt, padded with the end token."""
        decoding = self.checkpoint.decoding
        words = [token for token in tokens if token < decoding.first_timestamp and token != decoding.end]
        text = self.checkpoint.tokenizer.decode(words, skip_special_tokens=True)
        return Recognition(normalize_text(text), len(words) >= decoding.max_length - len(decoding.prompt))
