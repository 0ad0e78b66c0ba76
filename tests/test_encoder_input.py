"""Encoder inputs: stored features are used only for the audio and the transcript that they were computed from."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import Messages, make_data, read_jsonl, wave, write_manifest

import features.extraction.encoder_input as inputs
from features.audio import decoding, file_state
from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.extraction import comparison
from features.extraction.extract import extract_stream
from features.extraction.report import StoreResult
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from mervn.config import TrainHeadOptions
from mervn.training.train_head import train_head

OLD_TIME = (1_600_000_000, 1_600_000_000)


def run(data: Path, selector: str = "fourier2vec", said: list[str] | None = None, **changes: Any) -> StoreResult:
    settings = ExtractSettings(**({"features_dir": data / "stores", "batch_seconds": 2.0} | changes))
    manifests = read_manifests(data, SPLITS)
    utterances = [utterance for split in SPLITS for utterance in manifests[split]]
    reporter = Messages() if said is None else Messages(said)
    return extract_stream(utterances, parse_selector(selector, "audio"), settings, reporter)[0]


def rewrite_waves(data: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    """Replace every waveform by one of equal length, and give all files one mtime, as an archive would."""
    for path in data.glob("*.wav"):
        samples, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, change(samples), rate)
        os.utime(path, OLD_TIME)


def two_corpora(tmp_path: Path) -> tuple[Path, Path]:
    """Return two data folders with equal ids, paths, lengths and mtimes, but other audio."""
    one, two = make_data(tmp_path / "one"), make_data(tmp_path / "two")
    rewrite_waves(one, lambda samples: samples)
    rewrite_waves(two, lambda samples: samples[::-1])
    return one, two


def test_another_corpus_in_the_same_features_folder_is_refused(tmp_path: Path) -> None:
    one, two = two_corpora(tmp_path)
    assert run(one, features_dir=tmp_path / "stores").encoded == 42
    with pytest.raises(InputError, match="found another content for 42 utterances"):
        run(two, features_dir=tmp_path / "stores")
    assert run(one, features_dir=tmp_path / "stores").kept == 42
    assert run(two, features_dir=tmp_path / "stores", update=True).encoded == 42


def test_training_refuses_the_features_of_another_corpus(tmp_path: Path) -> None:
    one, two = two_corpora(tmp_path)
    run(one, features_dir=tmp_path / "stores")
    options = TrainHeadOptions(fusion="audio", features_dir=tmp_path / "stores", output=tmp_path / "run", epochs=1)
    train_head(options, one)
    with pytest.raises(InputError, match="the audio features of 24 utterances in .* were made from another audio"):
        train_head(options.model_copy(update={"output": tmp_path / "other"}), two)


def forget_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the utterances of stores the sources that versions without fingerprints wrote."""
    original = comparison.read_columns

    def read_columns(path: Path, modality: str) -> Any:
        columns, sources = original(path, modality), []
        for source in map(json.loads, columns.source):
            del source["fingerprint"]
            sources.append(json.dumps(source))
        return replace(columns, source=sources)

    monkeypatch.setattr(comparison, "read_columns", read_columns)


def test_a_store_without_fingerprints_is_decoded_once_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_corpora(tmp_path)
    result = run(one, features_dir=tmp_path / "stores")
    forget_fingerprints(monkeypatch)
    said: list[str] = []
    with pytest.raises(InputError, match="found another content for 42 utterances"):
        run(two, features_dir=tmp_path / "stores")
    assert run(one, features_dir=tmp_path / "stores", said=said).kept == 42
    assert "stored without fingerprints of the audio files: decoding and comparing the audio now" in "\n".join(said)
    assert len(read_jsonl(Path(result.path) / "sources.jsonl")) == 42
    monkeypatch.setattr("features.audio.decoding.decode_segment", None)  # nothing is decoded again
    said.clear()
    assert run(one, features_dir=tmp_path / "stores", said=said).kept == 42
    assert "fingerprint" not in "\n".join(said)


def test_verify_inputs_finds_what_a_fingerprint_cannot(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    long = data / "train-000.wav"
    samples = wave(6.0, 0)
    soundfile.write(long, samples, 16_000)
    os.utime(long, OLD_TIME)
    run(data)
    samples[48_000] += 0.1  # neither in the first nor in the last 64 KiB
    soundfile.write(long, samples, 16_000)
    os.utime(long, OLD_TIME)
    assert run(data).kept == 4
    assert run(data, verify_inputs=True, update=True, plan_only=True).kept == 3
    with pytest.raises(InputError, match=r"another content for 1 utterances.*'train-000' \(train.jsonl:1\)"):
        run(data, verify_inputs=True)


def test_verifying_decodes_an_utterance_once_for_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data", {"train": 3, "valid": 1, "test": 1})
    run(data, "fourier2vec@1,2,3")
    decoded: list[Path] = []
    original = decoding.decode_segment
    monkeypatch.setattr(decoding, "decode_segment", lambda path, *rest: decoded.append(path) or original(path, *rest))  # type: ignore[func-returns-value]
    run(data, "fourier2vec@1,2,3", verify_inputs=True)
    assert len(decoded) == 5


def test_segments_of_one_recording_share_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data", {"train": 1, "valid": 1, "test": 1})
    soundfile.write(data / "call.wav", wave(10.0, 0), 16_000)
    entry = read_jsonl(data / "train.jsonl")[0]
    segments = [{"utterance_id": f"c-{i}", "wav_path": "call.wav", "start": i, "end": i + 1.0} for i in range(8)]
    write_manifest(data / "train.jsonl", [entry | segment for segment in segments])
    opened: list[Path] = []
    original = file_state.fingerprint
    run(data)
    monkeypatch.setattr(file_state, "fingerprint", lambda path: opened.append(path) or original(path))  # type: ignore[func-returns-value]
    assert run(data).kept == 10
    assert opened.count(data / "call.wav") == 1


def test_the_fingerprint_follows_a_file_that_changes(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 1, "valid": 1, "test": 1})
    (utterance,) = read_manifests(data, SPLITS)["train"]
    before = inputs.audio_source(utterance)
    content = bytearray(utterance.audio_path.read_bytes())
    content[-1] ^= 1
    utterance.audio_path.write_bytes(content)
    os.utime(utterance.audio_path, ns=(before.mtime_ns, before.mtime_ns))
    after = inputs.audio_source(utterance)
    assert after.fingerprint != before.fingerprint
    assert replace(after, fingerprint=None) == replace(before, fingerprint=None)
    utterance.audio_path.unlink()
    assert inputs.audio_source(utterance).fingerprint is None
