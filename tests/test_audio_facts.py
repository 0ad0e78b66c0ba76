"""Facts about audio: known signals give known facts, clipping is told from loud audio."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import RATE, wave

from features.audio.decoding import samples_sha256
from features.audio.segment import decode_segment
from features.audio.segment_reader import SegmentReader
from features.audit.audio_facts import AudioFacts, measure_audio
from features.manifests.manifest import Utterance


def measured(path: Path, samples: Any = None, rate: int = RATE, **changes: Any) -> AudioFacts:
    """Write samples, if given, and measure them."""
    if samples is not None:
        soundfile.write(path, samples, rate, subtype="PCM_16")
    place: dict[str, Any] = {"start": 0.0, "end": None, "channel": "mix", **changes}
    fields: dict[str, Any] = {
        "transcript": None,
        "emotion": None,
        "split": "train",
        "file": "-",
        "line": 1,
        "extra": {},
    }
    return measure_audio(Utterance("u", None, path.name, path, **place, **fields), SegmentReader())


def test_duration_level_rate_and_content_are_those_of_the_decoded_segment(tmp_path: Path) -> None:
    stereo = np.stack([wave(1.0, 1, 22_050), 0.5 * wave(1.0, 1, 22_050)], axis=1)
    for channel in ("mix", 0, 1):
        found = measured(tmp_path / "a.wav", stereo, 22_050, start=0.1, end=0.7, channel=channel)
        samples, rate = decode_segment(tmp_path / "a.wav", 0.1, 0.7, channel)  # type: ignore[arg-type]
        assert (found.seconds, found.sample_rate, found.num_channels) == (len(samples) / 22_050, 22_050, 2)
        assert found.peak == pytest.approx(np.abs(samples).max())
        assert found.rms == pytest.approx(np.sqrt(np.mean(samples.astype(np.float64) ** 2)), rel=1e-5)
        assert found.sha256 == samples_sha256(samples, rate)
        assert found.problem is None and not found.end_clipped


@pytest.mark.parametrize("limit", [0.6, 1.0])
@pytest.mark.parametrize(("gain", "is_clipped"), [(0.9, False), (1.2, True), (8.0, True)])
def test_clipping_is_found_at_full_scale_and_below(tmp_path: Path, limit: float, gain: float, is_clipped: bool) -> None:
    time = np.arange(RATE) / RATE
    loud = gain * limit * np.sin(2 * np.pi * 50 * time)  # of a low tone, whose peaks are the flattest
    found = measured(tmp_path / "a.wav", np.clip(loud, -limit, limit * 0.99997))
    assert (found.clipped_fraction > 1e-3) is is_clipped
    one_side = measured(tmp_path / "b.wav", np.minimum(loud, limit * 0.99997) * (1 if gain < 2 else 0.1))
    assert (one_side.clipped_fraction > 1e-3) is (is_clipped and gain < 2)


def test_one_clipped_channel_of_a_mix_is_found(tmp_path: Path) -> None:
    clean = wave(0.5, 1)
    found = measured(tmp_path / "a.wav", np.stack([clean, np.clip(9 * clean, -1, 0.9999)], axis=1))
    assert found.clipped_fraction > 0.1
    assert measured(tmp_path / "a.wav", channel=0).clipped_fraction == 0.0


@pytest.mark.parametrize("mixed", [0.0, 0.4, 1.0])
def test_the_correlation_of_channels_is_that_of_numpy(tmp_path: Path, mixed: float) -> None:
    rng = np.random.default_rng(0)
    voices = 0.1 * rng.standard_normal((RATE, 3)) + 0.05
    channels = voices @ (mixed * np.ones((3, 3)) + (1 - mixed) * np.eye(3)) / 3
    found = measured(tmp_path / "a.wav", channels)
    decoded = soundfile.read(tmp_path / "a.wav")[0]
    assert found.correlation == pytest.approx(np.corrcoef(decoded.T).min(), abs=1e-4)
    assert measured(tmp_path / "a.wav", channel=1).correlation is None


def test_an_empty_channel_has_no_correlation(tmp_path: Path) -> None:
    assert measured(tmp_path / "a.wav", np.stack([wave(0.2, 1), np.zeros(3200)], axis=1)).correlation is None


def test_audio_that_cannot_be_used_has_a_problem(tmp_path: Path) -> None:
    assert measured(tmp_path / "no.wav").problem == "not_found"
    assert not measured(tmp_path / "no.wav").is_lasting
    late = measured(tmp_path / "a.wav", wave(0.5, 1), end=0.7)
    assert late.problem == "end_past_file" and "0.7" in late.detail and late.is_lasting
    assert measured(tmp_path / "a.wav", end=0.52).end_clipped
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0]), RATE, subtype="FLOAT")
    assert measured(tmp_path / "nan.wav").problem == "non_finite"
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:5000])
    assert measured(tmp_path / "a.wav").problem == "truncated"
