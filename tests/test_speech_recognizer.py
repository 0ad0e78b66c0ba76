"""Speech recognition: equal to transformers, equal in every batch, windows and long audio, memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_whisper_asr, wave

from features.errors import InputError
from features.text.normalize import normalize_text
from mervn.transcription import speech_recognizer
from mervn.transcription.speech_recognizer import Recognition, SpeechRecognizer
from mervn.transcription.transcribe import load_recognizer, transcribe

WAVES = [wave(0.2 + 0.23 * i, i, pitch=120.0 + 90 * i) for i in range(12)]
"""Up to 2.7 s; the window of the tiny model has 3 s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper_asr(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> SpeechRecognizer:
    return load_recognizer(f"whisper={folder}", device="cpu")


def texts(recognizer: SpeechRecognizer, waves: Sequence[np.ndarray]) -> list[str]:
    found = recognizer.recognize(waves)
    assert None not in found
    return [one.text for one in found if one is not None]


@pytest.fixture(scope="module")
def reference(folder: Path) -> Callable[..., str]:
    """Return a function from one utterance to the text that transformers gives."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    model = WhisperForConditionalGeneration.from_pretrained(folder)
    extractor, tokenizer = (each.from_pretrained(folder) for each in (WhisperFeatureExtractor, WhisperTokenizer))
    suppressed = model.generation_config.suppress_tokens

    def text_of(samples: np.ndarray, *, long: bool = False) -> str:
        how = {"truncation": False, "padding": "longest"} if long else {}
        more = {"return_timestamps": True} if long else {"suppress_tokens": [*suppressed, *range(266, 417)]}
        features = extractor(samples, sampling_rate=16_000, return_tensors="pt", **how).input_features
        tokens = model.generate(features, language="vi", task="transcribe", **more)[0]
        return normalize_text(tokenizer.decode(tokens, skip_special_tokens=True))

    return text_of


def test_the_text_is_that_of_transformers_and_depends_on_the_audio(
    reference: Callable[..., str], recognizer: SpeechRecognizer
) -> None:
    found = [texts(recognizer, [each])[0] for each in WAVES[2::2]]
    assert found == list(map(reference, WAVES[2::2]))
    assert len(set(found)) > 3 and all(found)


@pytest.fixture(scope="module")
def alone(recognizer: SpeechRecognizer) -> list[str]:
    """Return the text of each of the first utterances, recognised alone."""
    return [texts(recognizer, [each])[0] for each in WAVES[:6]]


def disturb(recognizer: SpeechRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change logits by up to 0.04, differently for each size of the batch; the margin is enlarged to 0.1 too."""
    compute = recognizer.model.proj_out.forward

    def noisy(states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = compute(states)
        noise = torch.rand(logits.shape[-1], generator=torch.Generator().manual_seed(len(logits)))
        return logits + 0.08 * noise - 0.04

    monkeypatch.setattr(recognizer.model.proj_out, "forward", noisy)
    monkeypatch.setitem(speech_recognizer.CLEAR_MARGIN, "fp32", 0.1)


def test_an_utterance_gets_the_same_text_alone_and_in_a_batch(
    recognizer: SpeechRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(recognizer, monkeypatch)
    alone = [texts(recognizer, [each])[0] for each in WAVES]
    assert texts(recognizer, WAVES) == alone
    assert texts(recognizer, WAVES[::-1][:5]) == alone[::-1][:5]
    # negative control: without the second look at close choices, the batch decides
    monkeypatch.setitem(speech_recognizer.CLEAR_MARGIN, "fp32", 0.0)
    assert texts(recognizer, WAVES) != alone


def test_only_close_choices_are_recognised_again(recognizer: SpeechRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    generate = recognizer.model.generate

    def counting(features: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(len(features))
        return generate(features, **options)

    monkeypatch.setattr(recognizer.model, "generate", counting)
    recognizer.recognize(WAVES)
    assert sizes[0] == len(WAVES) and len(sizes) < len(WAVES) / 2
    assert sizes[1:] == [1] * (len(sizes) - 1)


def test_rounding_of_a_batch_is_far_below_the_margin(recognizer: SpeechRecognizer) -> None:
    features = recognizer._log_mel(WAVES)
    prompt = torch.tensor([recognizer.checkpoint.decoding.prompt])
    with torch.inference_mode():
        together = recognizer.model(features, decoder_input_ids=prompt.expand(len(WAVES), -1)).logits
        for i in range(len(WAVES)):
            alone = recognizer.model(features[i : i + 1], decoder_input_ids=prompt).logits[0]
            assert (together[i] - alone).abs().max() < speech_recognizer.CLEAR_MARGIN["fp32"] / 20


def test_long_audio_is_recognised_whole_and_alone(reference: Callable[..., str], recognizer: SpeechRecognizer) -> None:
    long = np.concatenate(WAVES[:8])  # 8.0 s
    expected = reference(long, long=True)
    found = recognizer.recognize([WAVES[0], long, WAVES[3]])[1]
    assert found == Recognition(expected, truncated=False) and expected
    assert expected != reference(long[: recognizer.window])  # negative control: a window of it


def test_a_text_of_the_maximum_length_is_marked(recognizer: SpeechRecognizer) -> None:
    found = [one for one in recognizer.recognize(WAVES) if one is not None]
    assert all(one.truncated for one in found if len(one.text) == 16 - 4)  # without the prompt of 4 tokens
    assert not any(one.truncated for one in found if len(one.text) < 8)
    assert {one.truncated for one in found} == {True, False}


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    recognizer: SpeechRecognizer, alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, limit = recognizer.model.generate, [2]

    def small(features: torch.Tensor, **options: Any) -> torch.Tensor:
        if len(features) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(features, **options)

    monkeypatch.setattr(recognizer.model, "generate", small)
    assert texts(recognizer, WAVES[:5]) == alone[:5]
    limit[0] = 0
    with pytest.raises(InputError, match="cpu has too little free memory for one window of speech"):
        recognizer.recognize(WAVES[:1])
    assert recognizer.recognize([wave(4.0, 1)]) == [None]


def test_bf16_gives_the_same_text_alone_and_in_a_batch(folder: Path, recognizer: SpeechRecognizer) -> None:
    in_bf16 = load_recognizer(f"whisper={folder}", device="cpu", amp="bf16")
    assert texts(in_bf16, WAVES[:6]) == [texts(in_bf16, [each])[0] for each in WAVES[:6]]
    assert in_bf16.identity() != recognizer.identity()


def test_transcribe_keeps_the_order_of_its_items(folder: Path, recognizer: SpeechRecognizer, alone: list[str]) -> None:
    assert transcribe(WAVES[:6], recognizer) == alone
    assert transcribe(WAVES[:6], f"whisper={folder}", "cpu") == alone
    assert transcribe([], recognizer) == []
    with pytest.raises(InputError, match="audio must have samples, found none in item 1"):
        transcribe([WAVES[0], WAVES[0][:0]], recognizer)
