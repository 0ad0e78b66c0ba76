"""What training hides is drawn by seed, never both modalities of an utterance, and nothing by default."""

import numpy as np
import pytest
import torch

from features.ragged import Ragged
from mervn.config import TrainingOptions
from mervn.data.augmentation import MASKS, SpecMask, augment

SIZES = (4, 0, 7, 2, 5, 30)
ALL = range(len(SIZES))


def make_streams() -> dict[str, Ragged]:
    return {
        "text": Ragged.from_lengths(torch.ones(sum(SIZES), 3), SIZES),
        "audio": Ragged.from_lengths(torch.ones(2 * sum(SIZES), 2), [2 * size for size in SIZES]),
    }


def test_nothing_is_hidden_by_default() -> None:
    streams = make_streams()
    assert augment(streams, TrainingOptions(), (0, 0, 0, 0), len(SIZES), ALL) == streams


def test_each_modality_is_dropped_as_often_as_asked_and_never_both() -> None:
    counts = np.zeros(3)
    options, streams = TrainingOptions(drop_text=0.3, drop_audio=0.2), make_streams()
    rounds = 2000
    for step in range(rounds):
        found = augment(streams, options, (0, 0, step, 0), len(SIZES), ALL)
        for i, size in enumerate(SIZES):
            gone = [found[name].sizes[i] == 0 for name in ("text", "audio")]
            counts += [*gone, all(gone)] if size else 0
            for name, factor, dropped in (("text", 1, gone[0]), ("audio", 2, gone[1])):
                assert found[name].sizes[i] == (0 if dropped else factor * size)
    shares = counts / (rounds * (len(SIZES) - 1))
    assert shares[2] == 0
    for share, expected in zip(shares, (0.3 * (1 - 0.1), 0.2 * (1 - 0.15)), strict=False):  # one is kept of both
        assert share == pytest.approx(expected, abs=3 * np.sqrt(0.25 / rounds / 5))


def test_spans_of_audio_are_zero_and_text_is_whole() -> None:
    options, streams = TrainingOptions(time_mask=0.5), make_streams()
    found = augment(streams, options, (1, 2, 3, 0), len(SIZES), ALL)
    assert torch.equal(found["text"].values, streams["text"].values)
    shares = []
    for step in range(200):
        for frames in augment(streams, options, (1, 2, step, 0), len(SIZES), ALL)["audio"].split():
            zero = (frames == 0).all(1).numpy()
            assert zero.sum() == (frames == 0).any(1).sum() and zero.sum() <= 0.5 * len(zero)
            assert np.abs(np.diff(np.concatenate([[0], zero.astype(int), [0]]))).sum() in (0, 2)  # one span at most
            shares.append(zero.mean() if len(zero) > 50 else np.nan)
    assert np.nanmean(shares) == pytest.approx(0.25, abs=0.04)


def test_the_seed_alone_decides() -> None:
    options, streams = TrainingOptions(drop_text=0.5, time_mask=0.5), make_streams()
    first, again, other = (
        augment(streams, options, seed, len(SIZES), ALL) for seed in ((0, 1, 2, 0), (0, 1, 2, 0), (0, 1, 3, 0))
    )
    assert first["text"].sizes == again["text"].sizes and torch.equal(first["audio"].values, again["audio"].values)
    assert not torch.equal(first["audio"].values, other["audio"].values)


RATE = 16_000


def test_spec_mask_silences_spans_and_leaves_the_rest() -> None:
    wave = np.random.default_rng(0).normal(size=16_007).astype(np.float32)  # a prime number of samples
    shares = []
    for seed in range(200):
        masked = SpecMask(0.2, 0.0, (0, seed)).apply(wave, RATE)
        silent = masked == 0
        assert np.array_equal(masked[~silent], wave[~silent]) and masked.dtype == np.float32
        starts = np.flatnonzero(np.diff(silent.astype(int)) == 1)
        assert len(starts) <= MASKS and silent.sum() <= MASKS * 0.2 * len(wave)
        shares.append(silent.mean())
    assert 0.16 < np.mean(shares) < 0.2  # two of 0.1 on average, which may overlap
    assert np.array_equal(SpecMask(0.2, 0.1, (3,)).apply(wave, RATE), SpecMask(0.2, 0.1, (3,)).apply(wave, RATE))
    assert not np.array_equal(SpecMask(0.2, 0.1, (3,)).apply(wave, RATE), SpecMask(0.2, 0.1, (4,)).apply(wave, RATE))


def test_spec_mask_cuts_bands_of_the_mel_scale() -> None:
    wave = np.random.default_rng(0).normal(size=32_000).astype(np.float32)
    mels = np.log1p(np.fft.rfftfreq(32_000, 1 / RATE) / 700) / np.log1p(RATE / 2 / 700)
    power, shares = np.abs(np.fft.rfft(wave)), []
    for seed in range(100):
        left = np.abs(np.fft.rfft(SpecMask(0.0, 0.3, (seed,)).apply(wave, RATE)))
        gone = left < 1e-3 * power.mean()
        assert np.allclose(left[~gone], power[~gone], atol=1e-2)
        edges = np.flatnonzero(np.diff(gone.astype(int)))
        assert len(edges) <= 2 * MASKS
        shares.append(np.diff(mels, prepend=0)[gone].sum())
        assert shares[-1] <= 2 * 0.3
    assert np.mean(shares) == pytest.approx(0.28, abs=0.04)


def test_a_process_hides_of_its_share_what_one_alone_would() -> None:
    options, streams = TrainingOptions(drop_text=0.5, drop_audio=0.3, time_mask=0.5), make_streams()
    whole = augment(streams, options, (0, 1, 2, 0), len(SIZES), ALL)
    for places in ([0, 3, 5], [1, 2, 4]):
        mine = {name: Ragged.from_sequences([stream.split()[i] for i in places]) for name, stream in streams.items()}
        found = augment(mine, options, (0, 1, 2, 0), len(SIZES), places)
        for name, stream in found.items():
            for place, frames in zip(places, stream.split(), strict=True):
                assert torch.equal(frames, whole[name].split()[place])
