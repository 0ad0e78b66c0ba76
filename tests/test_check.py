"""`mervn check` finds each planted fault and nothing in clean corpora; it decodes each file once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from faulty_corpus import FAULTS, STRONG, WEAK, Planted, clean_corpus, uneven_corpus
from hostile_corpus import REFUSED, UNUSABLE
from tiny import RATE, Recorder, read_jsonl, wave, write_manifest

from cli.main import run as mervn
from features.audit.audio_pass import FACTS_FILE
from features.audit.check import check_corpus, check_data, quick_check
from features.audit.corpus import Corpus
from features.audit.explanations import EXPLANATIONS
from features.errors import InputError, UsageError

Captured = pytest.CaptureFixture[str]
HARMLESS = {"empty_transcript"}
"""Of the clean corpora, some transcripts are empty in every class."""
ERRORS = {
    "speaker_overlap", "recording_overlap", "segment_overlap", "duplicate_audio", "conflicting_labels",
    "end_past_file", "unreadable_audio", "class_missing", "label_lookalike",
}  # fmt: skip
INFOS = {"label_in_id", "label_in_path", "unknown_speaker", "empty_transcript", "transcript_not_nfc"}
"""Severities of strong faults; the others are warnings."""


def found_in(corpus: Corpus) -> set[str]:
    return {finding.id for finding in check_corpus(corpus).findings}


def test_every_kind_of_finding_has_a_planted_fault() -> None:
    assert {fault.__name__ for fault in FAULTS} == set(EXPLANATIONS)


@pytest.mark.parametrize("strength", [WEAK, STRONG])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_and_no_other(fault: Any, strength: float) -> None:
    made = clean_corpus(1)
    fault(made, strength)
    check = check_corpus(made.corpus())
    assert {finding.id for finding in check.findings} - HARMLESS - FAULTS[fault] == {fault.__name__} - HARMLESS
    (finding,) = [finding for finding in check.findings if finding.id == fault.__name__]
    assert finding.count > 0 and str(finding.count) in finding.message and finding.why and finding.fix
    if strength == STRONG:
        assert (finding.severity == "error") is (finding.id in ERRORS)
        assert (finding.severity == "info") is (finding.id in INFOS)
    places = {f"{utterance.file}:{utterance.line}" for utterance in made.utterances}
    assert finding.examples and set(finding.examples) <= places


@pytest.mark.parametrize("make", [clean_corpus, uneven_corpus])
def test_nothing_is_found_in_clean_corpora(make: Callable[[int], Planted]) -> None:
    for seed in range(20):
        assert found_in(make(100 + seed).corpus()) <= HARMLESS, seed


def test_a_copy_in_the_same_split_is_only_a_warning() -> None:
    made = clean_corpus(3)
    train = made.of("train")
    made.measure(train[5], sha256=made.facts[train[50]].sha256)
    made.change(train[5], emotion=made.label(train[50]))
    (finding,) = [finding for finding in check_corpus(made.corpus()).findings if finding.id == "duplicate_audio"]
    assert finding.severity == "warning" and finding.count == 1 and "0 groups in several splits" in finding.message


def test_segments_that_share_little_or_another_channel_are_no_overlap() -> None:
    made = clean_corpus(4)
    first, second = made.of("train")[:2]
    for index, start in ((first, 1.0), (second, 2.8)):
        made.change(index, audio_path=Path("wav/call.wav"), start=start, end=start + 2, channel=index % 2)
        made.measure(index, seconds=2.0)
    assert found_in(made.corpus()) <= HARMLESS
    made.change(second, start=1.0, end=3.0)
    assert found_in(made.corpus()) <= HARMLESS  # two people who speak at the same time
    made.change(second, channel="mix")
    assert "segment_overlap" in found_in(made.corpus())


def test_times_past_the_end_of_a_file_do_not_overlap_with_all_of_it() -> None:
    made = clean_corpus(4)
    first, *others = made.of("train")[:3]
    for number, index in enumerate(others):
        made.change(index, audio_path=Path("wav/call.wav"), start=10.0 * number, end=10.0 * number + 2)
        made.measure(index, seconds=2.0)
    made.change(first, audio_path=Path("wav/call.wav"), start=0.0, end=9999.0)
    assert "segment_overlap" in found_in(made.corpus())
    made.measure(first, problem="end_past_file", seconds=0.0)
    assert found_in(made.corpus()) - HARMLESS == {"end_past_file"}


def test_test_that_is_not_read_and_audio_that_is_not_measured_are_said() -> None:
    made = clean_corpus(5)
    kept = made.of("train") + made.of("valid")
    corpus = Corpus([made.utterances[i] for i in kept], [None for _ in kept])
    remarks = check_corpus(corpus).remarks
    assert remarks[0] == "test not read: nothing is said about overlap with it"
    assert remarks[1].startswith(f"the audio of {len(kept)} utterances was not measured")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus with audio: a happy and a sad utterance of each of four speakers in every split."""
    folder = tmp_path_factory.mktemp("corpus")
    number = 0
    for split in ("train", "valid", "test"):
        lines = []
        for index in range(8):
            number += 1
            soundfile.write(folder / f"u{number:02d}.wav", wave(0.2, number), RATE)
            line = {"utterance_id": f"u{number:02d}", "speaker_id": f"{split}-{index // 2}"}
            line |= {"wav_path": f"u{number:02d}.wav", "transcript": f"câu số {number}"}
            lines.append({**line, "emotion": ("happy", "sad")[index % 2]})
        write_manifest(folder / f"{split}.jsonl", lines)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of the corpus, to change."""
    return Path(shutil.copytree(made, tmp_path / "data"))


def plant_audio(data: Path) -> None:
    """Plant each fault of audio that needs a real file."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3200, 2)) * 0.1
    for name, samples in {
        "u01": np.clip(4 * wave(0.2, 1), -0.9, 0.9), "u02": np.zeros(3200), "u09": noise,
        "u10": wave(0.2, 50), "u18": wave(0.2, 50),
    }.items():  # fmt: skip
        soundfile.write(data / f"{name}.wav", samples, RATE)
    (data / "u17.wav").write_bytes(b"no audio")
    lines = read_jsonl(data / "test.jsonl")
    lines[2]["end"] = 9.0
    write_manifest(data / "test.jsonl", lines)


FOUND_IN_AUDIO = {
    "clipped_audio": "train.jsonl:1", "silent_audio": "train.jsonl:2", "decorrelated_stereo": "valid.jsonl:1",
    "duplicate_audio": "valid.jsonl:2", "unreadable_audio": "test.jsonl:1", "end_past_file": "test.jsonl:3",
}  # fmt: skip


def test_the_command_finds_faults_of_real_audio_and_fails(data: Path, capsys: Captured) -> None:
    assert mervn(["check", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["findings"] == []
    plant_audio(data)
    assert mervn(["check", str(data), "--json"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert {finding["id"]: finding["examples"][0] for finding in document["findings"]} == FOUND_IN_AUDIO
    assert set(document["findings"][0]) == {"id", "severity", "count", "message", "why", "fix", "examples"}
    assert document["counts"] == {"error": 3, "warning": 3, "info": 0} and document["measured"] == 22
    assert "error: duplicate_audio: 1 copy of audio of another utterance" in captured.err
    # without decoding, the same is found
    assert mervn(["check", "--data", str(data), "--no-audio", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document


def test_a_missing_folder_two_folders_and_a_folder_without_manifests_are_refused(data: Path, tmp_path: Path) -> None:
    assert mervn(["check", str(tmp_path / "nowhere")]) == 2
    assert mervn(["check", str(data), "--data", str(data)]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must hold at least one of train.jsonl"):
        check_data(tmp_path / "empty", tmp_path / "stores")
    with pytest.raises(UsageError, match="does not exist"):
        check_data(tmp_path / "nowhere", tmp_path / "stores")


def contents(folder: Path) -> dict[str, bytes | str]:
    """Return what a data folder holds, without its stores."""
    found: dict[str, bytes | str] = {}
    for path in folder.iterdir():
        is_plain = path.is_file() and not path.is_symlink()
        found[path.name] = path.read_bytes() if is_plain else str(path.lstat().st_mode)
    found.pop("stores", None)
    return found


@pytest.mark.parametrize("kind", REFUSED)
def test_other_input_gets_one_message_and_changes_nothing(kind: str, data: Path, capsys: Captured) -> None:
    make, code, message = REFUSED[kind]
    arguments = make(data) or []
    before = contents(data)
    assert mervn(["check", str(data), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.lower().count("error: ") == 1 and message in captured.err and captured.out == ""
    assert contents(data) == before and not (data / "stores").exists()  # before any audio was decoded


@pytest.mark.parametrize("kind", UNUSABLE)
def test_audio_that_cannot_be_used_is_one_finding_with_its_reason(kind: str, data: Path, capsys: Captured) -> None:
    make, reason = UNUSABLE[kind]
    make(data)
    before = contents(data)
    assert mervn(["check", str(data)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        f"error: unreadable_audio: 1 utterance whose audio cannot be used ({reason} 1), such as: u01"
    )
    assert contents(data) == before


LEGAL: dict[str, tuple[dict[str, Any], set[str], str]] = {
    "no speakers": ({"speaker_id": None}, {"unknown_speaker"}, ""),
    "one speaker": ({"speaker_id": "a"}, {"speaker_overlap", "few_speakers"}, "are of 1 group that share a speaker"),
    "one class": ({"emotion": "sad"}, set(), ""),
    "no transcripts": ({"transcript": None}, {"empty_transcript"}, ""),
}
"""Fields of every line, the findings, and a part of what was not checked."""


@pytest.mark.parametrize("kind", LEGAL)
def test_a_corpus_that_lacks_something_is_checked_and_what_is_not_tested_is_said(
    kind: str, data: Path, capsys: Captured
) -> None:
    fields, expected, remark = LEGAL[kind]
    for split in ("train", "valid", "test"):
        write_manifest(data / f"{split}.jsonl", [{**line, **fields} for line in read_jsonl(data / f"{split}.jsonl")])
    assert mervn(["check", str(data), "--json"]) == (kind == "one speaker")
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {finding["id"] for finding in document["findings"]} == expected
    assert remark in "".join(document["remarks"]) and bool(document["remarks"]) is bool(remark)


def test_a_corpus_without_train_is_checked(data: Path, capsys: Captured) -> None:
    for split in ("train", "valid"):
        (data / f"{split}.jsonl").unlink()
    assert mervn(["check", str(data)]) == 0
    out = capsys.readouterr().out
    assert "not checked: train and valid not read: nothing is said about overlap with them" in out


def test_a_missing_file_is_found_and_looked_for_again(data: Path) -> None:
    (data / "u03.wav").rename(data / "moved.wav")
    (finding,) = check_data(data, data / "stores").findings
    assert finding.id == "unreadable_audio" and "(not_found 1), such as: u03.wav must be" in finding.message
    assert "u03" not in (data / "stores" / FACTS_FILE).read_text()
    (data / "moved.wav").rename(data / "u03.wav")
    assert check_data(data, data / "stores").findings == []


def test_manifests_with_lookalike_labels_or_without_labels_are_checked(data: Path) -> None:
    lines = read_jsonl(data / "train.jsonl")
    lines[0]["emotion"] = lines[0]["emotion"].title()
    write_manifest(data / "train.jsonl", lines)
    ids = {finding.id for finding in check_data(data, data / "stores").findings}
    assert ids == {"label_lookalike", "class_missing"}
    for split in ("train", "valid", "test"):
        kept = [
            {key: value for key, value in line.items() if key != "emotion"}
            for line in read_jsonl(data / f"{split}.jsonl")
        ]
        write_manifest(data / f"{split}.jsonl", kept)
    check = check_data(data, data / "stores")
    assert check.findings == [] and any("24 utterances have no label" in remark for remark in check.remarks)


def test_a_quick_check_opens_no_audio(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_audio(data)
    recorder = Recorder()
    full = check_data(data, data / "stores", reporter=recorder)
    monkeypatch.setattr(soundfile, "SoundFile", None)
    monkeypatch.setattr("features.audit.audio_pass.file_state", None)
    from features.manifests.manifest import read_manifests

    utterances = list(read_manifests(data, ["train", "valid", "test"], require_emotion=False).all_utterances())
    assert quick_check(utterances, data / "stores").as_json() == full.as_json()
    os.utime(data / "u01.wav", ns=(1, 1))
    changed = quick_check(utterances, data / "stores")
    assert changed.measured == 21 and "clipped_audio" not in {finding.id for finding in changed.findings}
