"""Extraction: every utterance is stored or rejected with a reason, and changed inputs are noticed."""

import errno
import json
import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import Messages, make_data, make_whisper, read_jsonl, wave, write_manifest

import features.extraction.encode as encoding
from features.config import SPLITS
from features.device import resolve_device
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.extraction.extract import extract_stream
from features.extraction.host_copy import HostCopy
from features.extraction.report import StoreResult
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from features.ragged import Ragged
from features.store.claims import Claims
from features.store.reader import FeatureStore
from features.store.rejected import read_rejected


def run(data: Path, selector: str = "fourier2vec", **changes: Any) -> StoreResult:
    modality = "text" if selector.startswith("hashed") else "audio"
    manifests = read_manifests(data, SPLITS)
    settings = replace(ExtractSettings(features_dir=data / "stores", batch_seconds=2.0), **changes)
    utterances = [utterance for split in SPLITS for utterance in manifests[split]]
    (result,) = extract_stream(utterances, parse_selector(selector, modality), settings, SILENT)
    return result


def content(path: str) -> dict[str, tuple[str, int, bytes]]:
    store = FeatureStore(path)
    infos = {name: store.utterance_info(name) for name in store}
    return {name: (info.input_sha256, info.length, store[name].tobytes()) for name, info in infos.items()}


def test_every_utterance_is_stored_with_its_closed_form_length(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", rate=22_050)
    result = run(data)
    assert (result.encoded, result.kept, result.rejected) == (42, 0, 0)
    store = FeatureStore(result.path)
    for utterances in read_manifests(data, SPLITS).values():
        for utterance in utterances:
            samples = -(-soundfile.info(utterance.audio_path).frames * 16_000 // 22_050)
            assert store.utterance_info(utterance.utterance_id).num_inputs == samples
            assert len(store[utterance.utterance_id]) == (max(samples, 400) - 400) // 320 + 1
    assert (Path(result.path) / "encoder" / "model.safetensors").is_file()


def test_whisper_stores_the_frames_of_the_audio_and_never_the_window(tmp_path: Path) -> None:
    model = make_whisper(tmp_path / "tiny")
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    soundfile.write(data / "train-000.wav", wave(2.0, 0), 16_000)
    store = FeatureStore(run(data, f"whisper={model}").path)
    assert len(store["train-000"]) == 100


def test_a_second_run_keeps_everything_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")
    first = run(data)

    def refuse(*_: object) -> None:
        raise AssertionError("nothing has changed: nothing is to be decoded")

    monkeypatch.setattr("features.audio.decoding.decode_segment", refuse)
    second = run(data)
    assert (second.encoded, second.kept, second.path) == (0, 42, first.path)


def test_a_touched_file_is_compared_by_content(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run(data)
    os.utime(data / "train-000.wav", (1, 1))
    assert (again := run(data)).encoded == 0 and again.kept == 42


def interrupt_after(batches: int) -> Callable[..., Any]:
    original, calls = encoding.launch_batch, [0]

    def launch_batch(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] > batches:
            raise KeyboardInterrupt
        return original(*arguments)

    return launch_batch


def test_interrupted_and_continued_equals_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from features.encoders.fourier2vec import Fourier2Vec

    forward = Fourier2Vec.forward_layers

    def batch_dependent(self: Fourier2Vec, inputs: Ragged) -> list[Ragged]:
        (output,) = forward(self, inputs)
        return [output.replace(output.values * (1 + 0.01 * inputs.batch_size + 0.001 * inputs.max_length / 16_000))]

    monkeypatch.setattr(Fourier2Vec, "forward_layers", batch_dependent)
    whole, broken = make_data(tmp_path / "whole"), make_data(tmp_path / "broken")
    expected = content(run(whole).path)
    for batches, workers in ((1, 0), (3, 2)):
        with monkeypatch.context() as patch:
            patch.setattr("features.extraction.worker.launch_batch", interrupt_after(batches))
            with pytest.raises(KeyboardInterrupt):
                run(broken, workers=workers)
    last = run(broken)
    assert 0 < last.kept < 42 and last.encoded + last.kept == 42
    assert content(last.path) == expected
    other = run(broken, features_dir=tmp_path / "other", batch_seconds=1.0)
    assert content(other.path) != expected  # the control: this encoder does depend on its batches


def test_what_cannot_be_used_is_rejected_with_reason_and_line(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    soundfile.write(data / "train-001.wav", np.zeros(0, np.float32), 16_000)
    broken = wave(1.0, 1)
    broken[700] = np.nan
    soundfile.write(data / "train-002.wav", broken, 16_000, subtype="FLOAT")
    (data / "valid-003.wav").write_text("no audio")
    entries = read_jsonl(data / "test.jsonl")
    entries[0] |= {"start": 0.1, "end": 9.0}
    entries[1] |= {"channel": 1}
    entries[2] |= {"end": soundfile.info(data / "test-002.wav").duration + 0.04}
    write_manifest(data / "test.jsonl", entries)
    result = run(data)
    assert (result.encoded, result.rejected, result.end_clipped) == (37, 5, 1)
    reasons = {name: (entry.reason, entry.file, entry.line) for name, entry in read_rejected(Path(result.path)).items()}
    assert reasons == {
        "train-001": ("no_samples", "train.jsonl", 2),
        "train-002": ("non_finite", "train.jsonl", 3),
        "valid-003": ("unreadable", "valid.jsonl", 4),
        "test-000": ("end_past_file", "test.jsonl", 1),
        "test-001": ("no_channel", "test.jsonl", 2),
    }
    soundfile.write(data / "train-001.wav", wave(0.5, 5), 16_000)
    again = run(data)  # a repaired file is encoded at the next run and leaves the list
    assert (again.encoded, again.kept, again.rejected) == (1, 37, 4)
    assert "train-001" not in read_rejected(Path(result.path))


def test_nothing_usable_is_a_failure(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    for path in data.glob("*.wav"):
        path.write_text("no audio")
    with pytest.raises(InputError, match=r"no utterance could be encoded; the reasons are in .*rejected.jsonl"):
        run(data)


def test_other_content_under_the_same_id_is_an_error_until_updated(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    before = content(run(data).path)
    soundfile.write(data / "train-005.wav", wave(0.8, 99), 16_000)
    entries = read_jsonl(data / "valid.jsonl")
    entries[0]["end"] = 0.25
    write_manifest(data / "valid.jsonl", entries)
    with pytest.raises(InputError, match=r"another content for 2 utterances.*'train-005' .train.jsonl:6.*--update"):
        run(data)
    result = run(data, update=True)
    assert (result.encoded, result.kept) == (2, 40)
    after = content(result.path)
    assert {name for name in after if after[name] != before[name]} == {"train-005", "valid-000"}
    assert run(data).kept == 42


def test_an_edited_transcript_is_noticed(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run(data, "hashed_ngrams")
    entries = read_jsonl(data / "train.jsonl")
    entries[1]["transcript"] = "một câu khác hẳn"
    write_manifest(data / "train.jsonl", entries)
    with pytest.raises(InputError, match=r"'train-001' .train.jsonl:2"):
        run(data, "hashed_ngrams")
    result = run(data, "hashed_ngrams", update=True)
    assert result.encoded == 1
    assert len(FeatureStore(result.path)["train-001"]) == 5


def test_a_missing_transcript_is_no_tokens_and_composed_text_is_one_text(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    entries = read_jsonl(data / "train.jsonl")
    entries[0]["transcript"] = unicodedata.normalize("NFD", "Tôi  rất\tvui ")
    entries[1]["transcript"] = "Tôi rất vui"
    entries[2]["transcript"] = " \n "
    write_manifest(data / "train.jsonl", entries)
    result = run(data, "hashed_ngrams")
    store = FeatureStore(result.path)
    np.testing.assert_array_equal(store["train-000"], store["train-001"])
    assert len(store["train-000"]) == 4  # three syllables and [CLS]
    assert len(store["train-002"]) == len(store["train-004"]) == 0
    assert result.rejected == 0


def test_missing_transcripts_are_counted_by_split_and_class(tmp_path: Path) -> None:
    data = make_data(tmp_path, {"train": 6, "valid": 2, "test": 2})
    for split, missing in (("train", (0, 1, 2)), ("valid", ()), ("test", (1,))):
        lines = read_jsonl(data / f"{split}.jsonl")
        for i, line in enumerate(lines):
            line["transcript"] = "  " if i in missing else "hôm nay"
            line["emotion"] = "happy" if i % 2 else "sad"
        write_manifest(data / f"{split}.jsonl", lines)
    reporter = Messages()
    settings = ExtractSettings(data / "stores", device="cpu")
    utterances = list(read_manifests(data, SPLITS).all_utterances())
    (result,) = extract_stream(utterances, parse_selector("hashed_ngrams", "text"), settings, reporter)
    assert result.empty == 4
    assert "  4 without transcript: 3 of 6 in train (happy 1, sad 2); 1 of 2 in test (happy 1)" in reporter.said


def test_values_beyond_half_precision_stop_with_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")

    def loud(output: Ragged) -> HostCopy:
        return HostCopy(output.map(lambda values: values * 1e5))

    monkeypatch.setattr("features.extraction.encode.HostCopy", loud)
    with pytest.raises(InputError, match=r"'.*-00\d': features must fit into fp16.*--store-dtype fp32"):
        run(data)
    assert run(data, store_dtype="fp32").encoded == 42


def test_features_that_are_not_numbers_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the other utterances of their batch are stored as without them."""
    data = make_data(tmp_path / "data")
    whole = FeatureStore(run(data, features_dir=tmp_path / "whole").path)
    batches = []

    def broken(output: Ragged) -> HostCopy:
        values = output.values.clone()
        values[0, 0] = np.nan
        batches.append(output)
        return HostCopy(output.replace(values))

    monkeypatch.setattr("features.extraction.encode.HostCopy", broken)
    result = run(data)
    assert result.rejected == len(batches) > 1
    assert {entry.reason for entry in read_rejected(Path(result.path)).values()} == {"non_finite_features"}
    rest = FeatureStore(result.path)
    assert len(rest) == 42 - result.rejected > 0
    for name in rest:
        np.testing.assert_array_equal(rest[name], whole[name])


def test_a_plan_writes_nothing_and_a_small_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")
    result = run(data, plan_only=True)
    assert (result.encoded, result.kept) == (0, 0)
    assert not (data / "stores").exists()
    monkeypatch.setattr("features.extraction.report.FREE_DISK_MARGIN", 1 << 60)
    with pytest.raises(InputError, match="GB free; give another --features-dir"):
        run(data)
    assert not (data / "stores").exists()


def test_the_size_of_a_small_disk_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=66_912_345))
    with pytest.raises(InputError, match=r"need 0.\d MB and must leave 67.1 MB free, but .* has 66.9 MB free"):
        run(data, plan_only=True)


def test_a_complete_store_is_not_written_and_needs_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extraction with nothing to encode failed on a full disk, and in a store that is read-only."""
    data = make_data(tmp_path / "data", {"train": 4, "valid": 1, "test": 1})
    (data / "train-001.wav").write_bytes(b"")
    run(data)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (data / "stores").rglob("*") if path.is_file()}

    def read_only(*_: object) -> float:
        raise InputError("must be writable")

    def full(*_: object) -> float:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = times()
    monkeypatch.setattr("features.extraction.report.FREE_DISK_MARGIN", 1 << 60)
    run(data)
    for fault in (read_only, full):
        monkeypatch.setattr(Claims, "_file_system_time", fault)
        assert run(data).kept == 5
    for changes in ({}, {"plan_only": True}, {"batch_seconds": None}, {"shard": (1, 2)}, {"retry_rejected": True}):
        result = run(data, **changes)
        assert (result.encoded, result.kept, result.rejected) == (0, 5, 1)
        assert times() == before


def test_the_plan_announces_exact_bytes(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    said: list[str] = []
    manifests = read_manifests(data, SPLITS)
    extract_stream(
        [u for split in SPLITS for u in manifests[split]], parse_selector("fourier2vec", "audio"),
        ExtractSettings(data / "stores"), Messages(said),
    )  # fmt: skip
    (path,) = (data / "stores" / "audio").iterdir()
    store = FeatureStore(path)
    written = sum(store[name].nbytes for name in store)
    assert f"{written / 1e6:.1f} MB to write" in "\n".join(said)


def test_a_missing_device_is_refused() -> None:
    assert resolve_device("cpu").type == "cpu"
    for name in ("cuda:99", "abacus"):
        with pytest.raises(InputError, match=f"--device must be a device that torch can use here, found '{name}'"):
            resolve_device(name)


def test_a_wrong_closed_form_length_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from features.encoders.fourier2vec import Fourier2Vec

    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    original = Fourier2Vec.get_feat_lengths
    monkeypatch.setattr(Fourier2Vec, "get_feat_lengths", lambda self, n: original(self, n) + 1)
    with pytest.raises(RuntimeError, match="Fourier2Vec.get_feat_lengths must equal the output length"):
        run(data)


def test_the_store_says_that_random_weights_are_random(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    document = json.loads((Path(run(data).path) / "store.json").read_text())
    assert document["provenance"]["weights"] == "random, seed 0"
    assert "versions" not in document["identity"] and "device" not in document["identity"]


def test_bf16_is_another_store_and_close(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    exact, fast = run(data), run(data, encoder_precision="bf16")
    assert exact.identity != fast.identity and fast.encoded == 42
    a, b = FeatureStore(exact.path), FeatureStore(fast.path)
    relative = [np.abs(a[u] - b[u]).mean() / np.abs(a[u]).mean() for u in a]
    assert 1e-4 < max(relative) < 3e-2
