"""Measurements: the arithmetic over columns gives what `inspect_segment` gives for each utterance."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import Messages, wave

from features.audio.segment import AudioError, inspect_segment
from features.extraction import measure as module
from features.extraction.measure import measure
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import Utterance

ENCODER: Any = SimpleNamespace(
    modality="audio",
    get_feat_lengths=lambda n: (n.clip(400) - 400) // 320 + 1,
    get_padded_length=lambda n: -(-n // 3000) * 3000,
)


def write_files(folder: Path) -> dict[str, float]:
    """Write files of several rates and formats, one cut short and one that is no audio; return their seconds."""
    seconds = {"a.wav": 1.0, "b.flac": 0.7, "c.wav": 1.3, "cut.wav": 2.0, "text.wav": 1.0, "missing.wav": 1.0}
    soundfile.write(folder / "a.wav", wave(1.0, 0, 8000), 8000)
    soundfile.write(folder / "b.flac", wave(0.7, 1, 44_100), 44_100)
    soundfile.write(folder / "c.wav", np.stack([wave(1.3, 2, 22_050)] * 2, axis=1), 22_050)
    soundfile.write(folder / "cut.wav", wave(2.0, 3), 16_000)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:40_000])
    (folder / "text.wav").write_text("no audio")
    return seconds


def make_utterances(folder: Path, count: int) -> list[Utterance]:
    """Return segments of all files, many of them at the bounds of what is accepted."""
    generator, seconds, made = np.random.default_rng(0), write_files(folder), []
    for i in range(count):
        name = str(generator.choice(list(seconds)))
        total = seconds[name]
        start = float(generator.choice([0.0, 0.25, total - 0.001, total, generator.uniform(0, total)]))
        past = float(generator.choice([0.0, 1e-9, 1e-4, 0.03, 0.05, 0.0500001, 0.2]))
        bound = start + float(generator.uniform(0, 0.3))
        end = [None, total + past, total - past, bound, start + 1e-5][int(generator.integers(5))]
        channel: Any = ["mix", 0, 1, 2][int(generator.integers(4))]
        made.append(Utterance(f"u{i}", None, name, folder / name, start, end, channel, "", None, "train", "-", i, {}))
    return made


def plain(utterances: list[Utterance]) -> tuple[list[int], dict[int, tuple[str, str]], int]:
    """Return the samples of each utterance, the rejected ones, and the number of clipped ones."""
    lengths, rejected, clipped = [0] * len(utterances), {}, 0
    for i, one in enumerate(utterances):
        try:
            info = inspect_segment(one.audio_path, one.start, one.end, one.channel)
        except AudioError as error:
            rejected[i] = error.reason, str(error)
            continue
        lengths[i], clipped = info.num_samples, clipped + info.end_clipped
    return lengths, rejected, clipped


def test_segments_are_measured_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = make_utterances(tmp_path, 400)
    lengths, rejected, clipped = plain(utterances)
    settings = ExtractSettings(tmp_path / "stores")
    settings.features_dir.mkdir()
    inspected: list[float] = []
    monkeypatch.setattr(module, "inspect_segment", lambda *args: inspected.append(args[1]) or inspect_segment(*args))  # type: ignore[func-returns-value]
    for number in range(2):  # the second time with the headers of the first
        found = measure(utterances, ENCODER, settings, Messages())
        assert found.sizes.tolist() == [n / 16_000 for n in lengths]
        assert {i: (each.reason, each.detail) for i, each in found.rejected.items()} == rejected
        assert list(found.rejected) == sorted(rejected) and found.end_clipped == clipped > 0
        assert found.costs.tolist() == [-(-n // 3000) * 3000 / 16_000 for n in lengths]
        assert found.num_frames.tolist() == [(max(n, 400) - 400) // 320 + 1 if n else 0 for n in lengths]
        usable = len(utterances) - len(rejected) - clipped
        assert len(inspected) < (number + 1) * (len(rejected) + clipped + usable // 4)  # most need only the columns
    assert {reason for reason, _ in rejected.values()} >= {"truncated", "end_past_file", "no_channel", "no_samples"}


def test_a_clipped_end_and_an_end_in_the_file_are_told_apart(tmp_path: Path) -> None:
    """Negative control: the columns alone would take 0.02 s more than the file has."""
    soundfile.write(tmp_path / "a.wav", wave(1.0, 0), 16_000)
    made = [
        Utterance(f"u{end}", None, "a.wav", tmp_path / "a.wav", 0.0, end, "mix", "", None, "train", "-", 1, {})
        for end in (1.0, 1.02)
    ]
    found = measure(made, ENCODER, ExtractSettings(tmp_path / "stores", plan_only=True))
    assert found.sizes.tolist() == [1.0, 1.0] and found.end_clipped == 1
    assert not (tmp_path / "stores").exists()  # a plan writes nothing
