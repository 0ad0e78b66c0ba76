"""Norms over time see only real frames: group norm and batch norm of the wav2vec 2.0 family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_encoder import TOLERANCE, differences, inputs, load
from safetensors.torch import load_file, save_file
from tiny import make_wave_transformer

from features.encoders.base import Encoder
from features.encoders.masked_norms import MaskedGroupNorm
from features.ragged import Ragged


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_group_norm_checkpoints_are_exact_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(kind, {kind: str(make_wave_transformer(tmp_path / kind, kind, group_norm=True))})
    assert max(differences(encoder)) <= TOLERANCE
    norm = torch.nn.GroupNorm(32, 32)
    monkeypatch.setattr(  # negative control: the library's norm over the padded axis
        "features.encoders.masked_norms.MaskedGroupNorm.forward", lambda self, x: norm(x)
    )
    assert max(differences(encoder)) >= 1e-2


def load_hubert_with_batch_norm(folder: Path) -> Encoder:
    made = make_wave_transformer(folder, "hubert", group_norm=True, conv_pos_batch_norm=True)
    weights = load_file(made / "model.safetensors")
    rng = np.random.default_rng(0)
    for name in [name for name in weights if "batch_norm" in name and weights[name].ndim]:
        values = rng.uniform(0.5, 2.0, weights[name].shape)  # those of a fresh norm would turn zeros into zeros
        weights[name] = torch.from_numpy(values.astype(np.float32))
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    return load("hubert", {"hubert": str(made)})


def test_hubert_with_batch_norm_before_its_positions_is_exact_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_hubert_with_batch_norm(tmp_path / "hubert")
    assert max(differences(encoder)) <= TOLERANCE
    pad = Ragged.pad
    monkeypatch.setattr(Ragged, "pad", lambda self, fill=float("nan"): pad(self, fill))
    assert max(differences(encoder)) <= TOLERANCE
    monkeypatch.undo()
    names = set(encoder.state_dict())
    assert {f"model.encoder.pos_conv_embed.batch_norm.{name}" for name in ("weight", "bias", "running_var")} <= names
    positions: Any = encoder.model.encoder.pos_conv_embed  # type: ignore[union-attr]
    norm = torch.nn.BatchNorm1d(32).eval()
    norm.load_state_dict(positions.batch_norm.state_dict())
    positions.batch_norm = norm  # negative control: the library's norm, whose bias fills the padding
    assert max(differences(encoder)) >= 1e-2


def test_training_leaves_the_statistics_of_the_batch_norm_alone(tmp_path: Path) -> None:
    encoder = load_hubert_with_batch_norm(tmp_path / "hubert")
    prepared = Ragged.from_sequences(inputs(encoder))
    expected = encoder(prepared).values
    encoder.get_submodule("model.encoder.pos_conv_embed").train()  # no dropout in there
    torch.testing.assert_close(encoder(prepared).values, expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_of_half_precision_counts_and_sums_in_fp32(dtype: torch.dtype) -> None:
    length = 70_000  # 22 minutes of audio are more frames than fp16 can count
    x = (torch.randn(2, 4, length, generator=torch.Generator().manual_seed(0)) + 3.0).to(dtype)
    plain = torch.nn.GroupNorm(4, 4)
    norm = MaskedGroupNorm(plain)
    norm.lengths = torch.tensor([length, length - 100])
    with torch.no_grad():
        found = norm(x)
        expected = [plain(x[:1].float())[0], plain(x[1:, :, :-100].float())[0]]
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1, :, :-100], expected[1], atol=1e-4, rtol=1e-4)
    assert norm.to(dtype)(x).dtype == dtype


@pytest.mark.parametrize("lengths", [(50, 50), (50, 31)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_group_norm_and_its_gradients_are_those_of_each_utterance_alone(
    lengths: tuple[int, int], channels_last: bool
) -> None:
    x = torch.randn(2, 6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else x
    plain = torch.nn.GroupNorm(6, 6).double()
    torch.nn.init.normal_(plain.weight, generator=torch.Generator().manual_seed(1))
    norm = MaskedGroupNorm(plain)
    norm.lengths, norm.has_padding = torch.tensor(lengths), lengths[0] != lengths[1]
    padded = torch.full_like(x, float("nan"))  # not to be read
    for i, length in enumerate(lengths):
        padded[i, :, :length] = x[i, :, :length]
    padded.requires_grad_()
    found = norm(padded)
    assert found.stride() == padded.stride()  # the next convolution would transpose it
    for i, length in enumerate(lengths):
        alone = x[i : i + 1, :, :length].clone().requires_grad_()
        expected = plain(alone)[0]
        torch.testing.assert_close(found[i, :, :length], expected, atol=1e-12, rtol=0)
        (gradient,) = torch.autograd.grad(expected.pow(3).sum(), alone)
        (here,) = torch.autograd.grad(found[i, :, :length].pow(3).sum(), padded, retain_graph=True)
        torch.testing.assert_close(here[i, :, :length], gradient[0], atol=1e-10, rtol=0)
