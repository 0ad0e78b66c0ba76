"""`mervn transcribe`: new manifests, resuming, refusals, rejected audio, word error rates."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tiny import make_data, make_whisper_asr, read_jsonl, wave, write_manifest
from tiny_extraction import spoil

from cli.main import run as mervn
from features.audio.decoding import segment_sha256
from features.extraction import segment_hashes
from features.manifests.manifest import read_manifests
from mervn.run_folder import LEDGER_FILE
from mervn.transcription.speech_recognizer import SpeechRecognizer
from mervn.transcription.transcripts import TRANSCRIPTS_FILE

COUNTS = {"train": 6, "valid": 3, "test": 3}
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"whisper={make_whisper_asr(tmp_path_factory.mktemp('whisper'))}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """Return a folder with a corpus `data` and its transcription `asr`."""
    folder = tmp_path_factory.mktemp("transcribe")
    data = make_data(folder / "data", COUNTS)
    for number, path in enumerate(sorted(data.glob("*.wav"))):
        soundfile.write(path, wave(0.2 + 0.23 * number, number, pitch=120.0 + 90 * number), 16_000)
    (data / "folds-3.json").write_text('{"schema": 1, "folds": []}')
    (data / LEDGER_FILE).write_text("{}\n")
    assert transcribe(data, model) == 0
    return folder


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """Return a corpus that a test can change, beside its transcription `asr`."""
    shutil.copytree(prepared, tmp_path / "copy")
    config = tmp_path / "copy" / "asr" / "transcription.json"
    config.write_text(config.read_text("utf-8").replace(str(prepared), str(tmp_path / "copy")), "utf-8")
    return tmp_path / "copy" / "data"


def transcribe(data: Path, model: str, *options: str, output: str = "asr") -> int:
    arguments = ["--model", model, "--output", str(data.parent / output), "--device", "cpu", *options]
    return mervn(["transcribe", str(data), *arguments])


def counting(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Collect the sizes of the batches that are recognised; Ctrl-C comes during batch `stop_after`."""
    sizes: list[int] = []
    recognize = SpeechRecognizer.recognize

    def counted(self: SpeechRecognizer, waves: Any) -> Any:
        sizes.append(len(waves))
        found = recognize(self, waves)
        if len(sizes) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(SpeechRecognizer, "recognize", counted)
    return sizes


def manifests(folder: Path) -> dict[str, bytes]:
    return {split: (folder / f"{split}.jsonl").read_bytes() for split in COUNTS}


def test_a_file_that_was_only_touched_is_decoded_once_and_keeps_its_text(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, sizes, decoded = manifests(data.parent / "asr"), counting(monkeypatch), []
    for path in data.glob("*.wav"):
        os.utime(path, (1, 1))
    spoil(data, "train-000")  # cannot be compared: it is rejected, and its text stays in the file

    def recorded(*segment: Any) -> str:
        decoded.append(segment)
        return segment_sha256(*segment)

    monkeypatch.setattr(segment_hashes, "segment_sha256", recorded)
    for count in (sum(COUNTS.values()), 1):
        assert transcribe(data, model) == 1  # because of the rejected one
        assert sizes == [0] and len(decoded) == count
        sizes.clear(), decoded.clear()
    assert (data.parent / "asr" / "rejected.jsonl").read_text("utf-8").count("non_finite") == 1
    shutil.copy(data / "train-001.wav", data / "train-000.wav")
    assert transcribe(data, model) == 0
    assert sizes == [1] and manifests(data.parent / "asr") != expected


def test_new_manifests_keep_every_key_and_add_the_text(prepared: Path) -> None:
    data, output = prepared / "data", prepared / "asr"
    read = read_manifests(output, tuple(COUNTS))  # checks that the audio exists
    for split in COUNTS:
        before, after = (read_jsonl(folder / f"{split}.jsonl") for folder in (data, output))
        for old, new in zip(before, after, strict=True):
            assert isinstance(new["transcript_asr"], str)
            assert new == {**old, "wav_path": f"../data/{old['wav_path']}", "transcript_asr": new["transcript_asr"]}
    texts = {one.extra["transcript_asr"] for one in read.all_utterances()}
    assert len(texts) > 5
    for name in ("folds-3.json", LEDGER_FILE):
        assert (output / name).read_bytes() == (data / name).read_bytes()


def test_a_second_call_transcribes_nothing_and_prints_the_same(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    before, sizes = manifests(data.parent / "asr"), counting(monkeypatch)
    assert transcribe(data, model, "--json") == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sizes == [] and document["kept"] == document["utterances"] == 12
    assert manifests(data.parent / "asr") == before


def test_an_interrupted_call_resumes_to_the_same_manifests(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with monkeypatch.context() as patch:
        counting(patch, stop_after=2)
        assert transcribe(data, model, "--batch-size", "2", output="again") == 1
    signal.signal(signal.SIGINT, before)
    assert "run the same command again to resume" in capsys.readouterr().err
    output = data.parent / "again"
    assert not (output / "train.jsonl").exists()
    kept = (output / TRANSCRIPTS_FILE).read_bytes()
    assert len(kept.splitlines()) == 4
    (output / TRANSCRIPTS_FILE).write_bytes(kept[:-9])  # a crash cut the last line short
    sizes = counting(monkeypatch)
    assert transcribe(data, model, "--batch-size", "3", output="again") == 0
    assert sum(sizes) == 12 - 3
    assert manifests(output) == manifests(data.parent / "asr")


def test_processes_that_decode_ahead_change_nothing(data: Path, model: str, capsys: Captured) -> None:
    spoil(data, "train-002")
    (data / "test-000.wav").write_bytes(b"no audio")
    found = []
    for workers in ("0", "2"):
        assert transcribe(data, model, "--workers", workers, "--batch-size", "3", output=f"asr-{workers}") == 1
        assert "0 kept, 2 rejected" in capsys.readouterr().out
        output = data.parent / f"asr-{workers}"
        files = [(output / name).read_bytes() for name in (TRANSCRIPTS_FILE, "rejected.jsonl")]
        found.append((manifests(output), files))
    assert found[0] == found[1]


def test_changed_audio_alone_is_transcribed_again(
    data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (data / "valid-000.wav").touch()
    soundfile.write(data / "test-001.wav", wave(1.5, 99, pitch=700.0), 16_000)
    sizes = counting(monkeypatch)
    before = read_jsonl(data.parent / "asr" / "test.jsonl")
    assert transcribe(data, model) == 0
    assert sizes == [1] and "1 utterances are transcribed again" in capsys.readouterr().err
    after = read_jsonl(data.parent / "asr" / "test.jsonl")
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_audio_that_cannot_be_used_is_listed_and_the_rest_is_transcribed(
    data: Path, model: str, capsys: Captured
) -> None:
    spoil(data, "train-002")
    (data / "test-000.wav").write_bytes(b"no audio")
    output = data.parent / "asr"
    assert transcribe(data, model) == 1
    assert "10 kept, 2 rejected (see rejected.jsonl)" in capsys.readouterr().out
    reasons = {entry["utterance_id"]: entry["reason"] for entry in read_jsonl(output / "rejected.jsonl")}
    assert reasons == {"train-002": "non_finite", "test-000": "unreadable"}
    assert read_jsonl(output / "train.jsonl")[2]["transcript_asr"] is None
    for name in ("train-002", "test-000"):
        soundfile.write(data / f"{name}.wav", wave(0.5, 1), 16_000)
    assert transcribe(data, model) == 0
    assert not (output / "rejected.jsonl").exists()


def test_the_word_error_rate_is_printed_and_recorded(data: Path, model: str, capsys: Captured) -> None:
    pytest.importorskip("jiwer")
    for split in COUNTS:
        entries = read_jsonl(data.parent / "asr" / f"{split}.jsonl")
        for number, entry in enumerate(entries):
            text = entry.pop("transcript_asr")
            entry["wav_path"] = Path(entry["wav_path"]).name
            entry["transcript"] = None if number == 0 else f"{text.upper()}, thêm!"
        write_manifest(data / f"{split}.jsonl", entries)
    assert transcribe(data, model) == 0
    printed = capsys.readouterr().out
    found = json.loads((data.parent / "asr" / "transcription.json").read_text("utf-8"))["word_errors"]
    for split, count in COUNTS.items():
        assert found[split]["deletions"] == count - 1 and found[split]["without_reference"] == 1
        assert found[split]["substitutions"] == found[split]["insertions"] == 0
        assert found[split]["word_error_rate"] == (count - 1) / found[split]["words"]
        assert f"{100 * found[split]['word_error_rate']:.1f} %" in printed
    assert "3 utterances without transcript are left out" in printed


def with_key(data: Path) -> None:
    entries = read_jsonl(data / "test.jsonl")
    write_manifest(data / "test.jsonl", [*entries[:1], *({**entry, "transcript_asr": "x"} for entry in entries[1:])])


def damaged(data: Path) -> None:
    (data.parent / "asr" / "transcription.json").write_text("{")


def foreign(data: Path) -> None:
    (data.parent / "asr" / "transcription.json").unlink()


REFUSALS: dict[str, tuple[Callable[[Path], Any], list[str], int, str]] = {
    "the key exists": (with_key, [], 1, "must not have the key transcript_asr, found in 2 lines: test.jsonl:2"),
    "another language": (lambda data: None, ["--language", "en"], 2, "holds a transcription of another configuration"),
    "a damaged folder": (damaged, [], 1, "transcription.json must hold a transcription"),
    "a folder of something else": (foreign, [], 2, "holds no transcription"),
    "no such language": (lambda data: None, ["--language", "fr"], 2, "must be one of the model's: en, vi"),
    "no code of a language": (lambda data: None, ["--language", "Vietnamese"], 2, "found 'Vietnamese'"),
    "the data twice": (lambda data: None, ["--data", "."], 2, "give the data folder once"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_call_changes_nothing(case: str, data: Path, model: str, capsys: Captured) -> None:
    change, options, code, message = REFUSALS[case]
    change(data)
    before = manifests(data.parent / "asr")
    assert transcribe(data, model, *options) == code
    assert message in capsys.readouterr().err
    assert manifests(data.parent / "asr") == before


def test_another_model_is_refused(data: Path, tmp_path: Path, capsys: Captured) -> None:
    other = make_whisper_asr(tmp_path / "other", seed=1)
    assert transcribe(data, f"whisper={other}") == 2
    assert "identity.weights_sha256: existing" in capsys.readouterr().err


def test_the_data_folder_is_no_output(data: Path, model: str, capsys: Captured) -> None:
    assert transcribe(data, model, output="data") == 2
    assert "is the data folder, whose manifests would be replaced" in capsys.readouterr().err
    assert mervn(["transcribe", str(data), "--model", model]) == 2
    assert "--output must name the folder" in capsys.readouterr().err


def test_a_split_alone_can_be_transcribed_first(data: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert transcribe(data, model, "--splits", "test", output="again") == 0
    output = data.parent / "again"
    assert sorted(path.name for path in output.glob("*.jsonl")) == ["test.jsonl", LEDGER_FILE, TRANSCRIPTS_FILE]
    sizes = counting(monkeypatch)
    assert transcribe(data, model, output="again") == 0
    assert sum(sizes) == 9 and manifests(output) == manifests(data.parent / "asr")
