"""Every encoder of the registries: features do not depend on the batch, and lengths follow their closed forms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_encoder import (
    AUDIO_LENGTHS,
    CASES,
    EVERY,
    LANGUAGE_MODELS,
    TOLERANCE,
    differences,
    inputs,
    load,
    padding_first,
)
from tiny import wave

import features.encoders.whisper
import features.ragged
from features.encoders import AUDIO_ENCODERS, TEXT_ENCODERS
from features.encoders.base import weights_sha256
from features.encoders.mel import mel_filters
from features.errors import InputError
from features.ragged import Ragged, padding_mask

MASKED = {"fourier2vec", "wav2vec2", "hubert", "wavlm", "phobert", "videberta", "transformer"}
"""Encoders whose layers see a padded view, so that taking the mask away must show."""


@pytest.mark.parametrize("name", CASES)
def test_alone_and_in_a_batch_are_equal(
    name: str, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(name, checkpoints)
    assert max(differences(encoder)) <= TOLERANCE
    pad = Ragged.pad  # what attention sees in its padding may be anything
    monkeypatch.setattr(Ragged, "pad", lambda self, fill=1e4: pad(self, fill))
    assert max(differences(encoder)) <= TOLERANCE


@pytest.mark.parametrize("name", sorted(MASKED))
def test_negative_control_without_the_mask_they_differ(
    name: str, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        features.ragged, "padding_mask", lambda lengths, size: torch.ones_like(padding_mask(lengths, size))
    )
    assert max(differences(load(name, checkpoints))) >= 1e-2


def test_the_log_mel_of_whisper_is_that_of_transformers(checkpoints: dict[str, str]) -> None:
    encoder = load("whisper", checkpoints)
    windows = [torch.from_numpy(wave(seconds, 1)) for seconds in (1e-4, 0.1, 1.7, 3.0)]
    for batch in (windows, windows[1:2]):
        arrays = [window.numpy() for window in batch]
        expected = encoder.extractor(arrays, sampling_rate=16_000, padding="max_length", return_tensors="pt")
        assert torch.equal(encoder.log_mel(batch), expected.input_features)


def test_whisper_is_itself_in_any_batch_at_every_layer(checkpoints: dict[str, str]) -> None:
    for layer in ("@0", "@2", "@3", "@last"):
        assert max(differences(load("whisper", checkpoints, layer))) <= 1e-6


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_negative_control_a_causal_model_differs_with_padding_before_its_tokens(
    name: str, checkpoints: dict[str, str]
) -> None:
    encoder = load(name, checkpoints)
    with padding_first():
        assert max(differences(encoder)) >= 1e-2
    assert max(differences(encoder)) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_lengths_follow_the_closed_form(name: str, checkpoints: dict[str, str]) -> None:
    encoder = load(name, checkpoints)
    prepared = [item for item in inputs(encoder) if item.shape[0]]
    with torch.inference_mode():
        output = encoder(Ragged.from_sequences(prepared))
    counts = [item.shape[0] for item in prepared]
    assert list(output.sizes) == [encoder.get_feat_lengths(count) for count in counts]
    assert output.lengths.tolist() == encoder.get_feat_lengths(torch.tensor(counts)).tolist()
    assert list(output.sizes) == encoder.get_feat_lengths(np.array(counts)).tolist()
    assert output.values.shape == (output.total, encoder.dim)
    assert output.values.dtype == torch.float32


AUDIO_LAWS: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(
        ("fourier2vec", "wav2vec2", "hubert", "wavlm", "data2vec"), lambda n: (max(n, 400) - 400) // 320 + 1
    ),
    "vggish": lambda n: 1 + -(-max(0, n - 15_600) // 15_360),
    "whisper": lambda n: -(-n // 320),
}


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
def test_audio_lengths_are_those_of_the_documentation(name: str, checkpoints: dict[str, str]) -> None:
    encoder = load(name, checkpoints)
    for n in (*AUDIO_LENGTHS, *range(1, 3000, 37)):
        assert encoder.get_feat_lengths(n) == AUDIO_LAWS[name](n)


@pytest.mark.parametrize("name", EVERY)
def test_encoders_are_frozen_deterministic_and_described(name: str, checkpoints: dict[str, str]) -> None:
    state = torch.get_rng_state()
    first, second = load(name, checkpoints), load(name, checkpoints)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert first.weights_sha256 == second.weights_sha256
    assert first.name == name
    spec = {**TEXT_ENCODERS, **AUDIO_ENCODERS}[name]
    assert spec.licence and spec.needs and spec.description


def test_one_changed_weight_changes_the_hash(checkpoints: dict[str, str]) -> None:
    encoder = load("fourier2vec", checkpoints)
    before = weights_sha256(encoder)
    with torch.no_grad():
        next(encoder.parameters()).flatten()[0].add_(1e-6)
    assert weights_sha256(encoder) != before


def test_whisper_joins_windows_of_longer_audio(checkpoints: dict[str, str]) -> None:
    encoder = load("whisper", checkpoints, "@last")
    samples = wave(7.5, 3)  # 2.5 windows of 3 s
    whole = encoder(Ragged.from_sequences([encoder.prepare(samples)])).values
    pieces = [encoder(Ragged.from_sequences([encoder.prepare(samples[i : i + 48_000])])).values
              for i in range(0, len(samples), 48_000)]  # fmt: skip
    torch.testing.assert_close(whole, torch.cat(pieces), atol=1e-6, rtol=0)
    assert len(whole) == 375


def test_hashed_ngrams_give_the_mean_first_and_know_position_and_case() -> None:
    encoder = load("hashed_ngrams", {})

    def encode(text: str) -> torch.Tensor:
        return encoder(Ragged.from_sequences([encoder.prepare(text)])).values

    tokens = encode("vui quá vui")
    torch.testing.assert_close(tokens[0], tokens[1:].mean(0))
    assert not torch.allclose(tokens[1], tokens[3])  # the same word at another place
    assert torch.equal(encode("VUI quá vui"), tokens)
    assert torch.nn.functional.cosine_similarity(tokens[1], tokens[3], dim=0) > 0.9
    assert torch.nn.functional.cosine_similarity(tokens[1], tokens[2], dim=0) < 0.5


def test_fourier2vec_depends_on_prosody_and_not_on_loudness() -> None:
    encoder = load("fourier2vec", {})

    def encode(samples: np.ndarray[Any, Any]) -> torch.Tensor:
        return encoder(Ragged.from_sequences([encoder.prepare(samples)])).values

    soft = encode(wave(0.5, 1))
    assert (encode(wave(0.5, 1) * 4) - soft).abs().mean() < 0.05  # the floor under the logarithm leaves a trace
    assert (encode(wave(0.5, 1, pitch=300.0)) - soft).abs().mean() > 0.2


def test_random_weights_are_declared_and_not_read_from_the_note(tmp_path: Path) -> None:
    from features.encoders.layer_means import LayerMeans

    encoder = load("fourier2vec", {})
    encoder.weights_note = "edited"
    assert encoder.is_random and LayerMeans(encoder).is_random
    encoder.weights_note, encoder.is_random = "pretrained", False
    encoder.save(tmp_path)
    assert not load("fourier2vec", {"fourier2vec": str(tmp_path)}).is_random


def test_mel_filters_are_triangles_that_overlap_by_half() -> None:
    filters = mel_filters(80, 20.0, 7600.0)
    assert filters.shape == (257, 80)
    assert (filters >= 0).all() and (filters <= 1).all()
    inside = filters[5:230].sum(1)
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize("name", ["fourier2vec", "hashed_ngrams"])
def test_own_checkpoints_load_equal(name: str, tmp_path: Path) -> None:
    from features.encoders.pretrained import save_native

    encoder = load(name, {})
    save_native(encoder, tmp_path / "copy")
    again = load(name, {name: str(tmp_path / "copy")})
    assert again.weights_sha256 == encoder.weights_sha256
    assert again.config == encoder.config
    assert again.is_random and again.model_name == encoder.model_name
    document = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(document | {"config": {"dim": 2}}))
    with pytest.raises(InputError, match=r"config must have \[.*\], found \['dim'\]"):
        load(name, {name: str(tmp_path / "copy")})
    (tmp_path / "copy" / "config.json").write_text('{"encoder": "vggish"}')
    with pytest.raises(InputError, match="it is a checkpoint of vggish"):
        load(name, {name: str(tmp_path / "copy")})
    with pytest.raises(InputError, match="needs the files"):
        load(name, {name: str(tmp_path / "nowhere")})


def test_trimmed_whisper_is_itself_in_any_batch(checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load("whisper", checkpoints, "@all", whisper_mode="trimmed")
    assert max(differences(encoder)) <= TOLERANCE
    whole = load("whisper", checkpoints, "@all")
    assert encoder.config != whole.config
    for module in (features.ragged, features.encoders.whisper):
        monkeypatch.setattr(module, "padding_mask", lambda n, size: torch.ones_like(padding_mask(n, size)))
    assert max(differences(encoder)) >= 1e-2
