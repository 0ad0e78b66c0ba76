"""Every fault of every manifest at once, with file and line; and no manifest that was not asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import write_manifest

from features.errors import InputError
from features.manifest import manifest_sha256, read_manifests

GOOD: dict[str, Any] = {
    "utterance_id": "u",
    "speaker_id": "s",
    "wav_path": "a.wav",
    "start": 0.5,
    "end": 1.5,
    "transcript": "xin chào",
    "emotion": "vui",
    "channel": 1,
    "room": "4",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(b"")
    return tmp_path


def write(data: Path, split: str, *rows: dict[str, Any]) -> None:
    named = [{**GOOD, "utterance_id": f"{split}-{i}", **row} for i, row in enumerate(rows)]
    write_manifest(data / f"{split}.jsonl", [{k: v for k, v in row.items() if v is not ...} for row in named])


def fault(data: Path, *splits: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_manifests(data, splits or ("train",), **options)
    return str(caught.value)


def test_a_row_is_read_with_its_defaults_and_extra_keys(data: Path) -> None:
    write(data, "train", {}, {"start": ..., "end": ..., "transcript": ..., "channel": ...})
    full, short = read_manifests(data, ["train"])["train"]
    assert (full.start, full.end, full.channel, full.transcript, full.emotion) == (0.5, 1.5, 1, "xin chào", "vui")
    assert (full.split, full.file, full.line, full.extra) == ("train", "train.jsonl", 1, {"room": "4"})
    assert (short.start, short.end, short.channel, short.transcript) == (0.0, None, "mix", None)
    assert full.audio_path == data / "a.wav" and full.wav_path == "a.wav"


def test_audio_is_looked_for_below_the_root_given(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    root.mkdir()
    write(data, "train", {})
    assert f"there is no {root / 'a.wav'}" in fault(data, audio_root=root)
    (root / "a.wav").write_bytes(b"")
    assert read_manifests(data, ["train"], audio_root=root)["train"][0].audio_path == root / "a.wav"


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"utterance_id": ...}, "utterance_id is missing"),
    ({"speaker_id": ""}, "speaker_id must be a non-empty string, found ''"),
    ({"speaker_id": 7}, "speaker_id must be a non-empty string, found 7"),
    ({"utterance_id": "a\nb"}, "utterance_id must not hold control characters"),
    ({"utterance_id": "x" * 300}, "utterance_id must have at most 256 characters, found 300"),
    ({"wav_path": None}, "wav_path must be a non-empty string, found None"),
    ({"wav_path": "b.wav"}, "wav_path must be a file, there is no"),
    ({"start": "0"}, "start must be a number of seconds, found '0'"),
    ({"start": True}, "start must be a number of seconds, found True"),
    ({"start": -1}, "start must be finite and at least 0, found -1"),
    ({"end": float("nan")}, "end must be finite and at least 0, found nan"),
    ({"end": float("inf")}, "end must be finite and at least 0, found inf"),
    ({"end": 10**400}, "end must be finite and at least 0"),
    ({"start": 3.2, "end": 3.2}, "end must be greater than start, found start=3.2 end=3.2"),
    ({"channel": -1}, "channel must be 0, 1, ... or 'mix', found -1"),
    ({"channel": "left"}, "channel must be 0, 1, ... or 'mix', found 'left'"),
    ({"channel": True}, "channel must be 0, 1, ... or 'mix', found True"),
    ({"transcript": 3}, "transcript must be a string or null, found 3"),
    ({"emotion": ...}, "emotion is missing: it must be a label"),
    ({"emotion": 3}, "emotion must be a non-empty string, found 3"),
]


@pytest.mark.parametrize(("row", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_each_fault_is_named_with_its_line(data: Path, row: dict[str, Any], message: str) -> None:
    write(data, "train", {}, row)
    assert f"train.jsonl:2: {message}" in fault(data)


def test_lines_that_are_no_objects_are_named(data: Path) -> None:
    good = json.dumps(GOOD).encode()
    lines = [good, b"{", b"[1]", b'{"utterance_id": "a", "utterance_id": "b"}', b"\xff{}", b"", b"[" * 100_000]
    (data / "train.jsonl").write_bytes(b"\n".join(lines))
    message = fault(data)
    assert message.startswith("5 faults")
    for expected in (
        "train.jsonl:2: must be one JSON object, found: Expecting",
        "train.jsonl:3: must be a JSON object, found list",
        "train.jsonl:4: must be one JSON object, found: the key 'utterance_id' twice",
        "train.jsonl:5: must be UTF-8, found",
        "train.jsonl:7: must be one JSON object",
    ):
        assert expected in message


def test_every_fault_of_every_file_is_listed_at_once(data: Path) -> None:
    write(data, "train", {"start": -1}, {"wav_path": "b.wav"}, {"utterance_id": "twice"})
    write(data, "valid", {"utterance_id": "twice"}, {"emotion": "lạ"}, {"end": 0.1})
    (data / "test.jsonl").write_text("\n")
    message = fault(data, "train", "valid", "test")
    assert message.startswith("6 faults in the manifests")
    for expected in (
        "train.jsonl:1: start",
        "train.jsonl:2: wav_path",
        "valid.jsonl:1: utterance_id must be unique, found 'twice' in train.jsonl:3 too",
        "valid.jsonl:2: emotion must be a label of train (vui), found 'lạ'",
        "valid.jsonl:3: end must be greater than start",
        "test.jsonl: must hold at least one utterance, found none",
    ):
        assert expected in message


def test_many_faults_are_cut_and_counted(data: Path) -> None:
    write(data, "train", *[{"start": -1}] * 70)
    message = fault(data)
    assert "70 faults" in message and message.endswith("and 20 more")


def test_missing_folders_and_files_say_what_was_looked_for(data: Path) -> None:
    assert "give it with --data DIR or as `data" in fault(data / "nowhere")
    assert f"train.jsonl: there is no {data / 'train.jsonl'}" in fault(data)


def test_an_id_twice_in_one_split_is_named(data: Path) -> None:
    write(data, "train", {"utterance_id": "x"}, {}, {"utterance_id": "x"})
    assert "train.jsonl:3: utterance_id must be unique, found 'x' in train.jsonl:1 too" in fault(data)


def test_only_the_splits_asked_for_are_read(data: Path) -> None:
    write(data, "train", {})
    (data / "test.jsonl").write_text("no manifest")
    assert list(read_manifests(data, ["train"])) == ["train"]


def test_audio_and_emotion_can_be_left_unchecked(data: Path) -> None:
    write(data, "train", {"wav_path": "b.wav", "emotion": ...})
    (row,) = read_manifests(data, ["train"], check_audio=False, require_emotion=False)["train"]
    assert row.emotion is None


def test_a_byte_order_mark_and_windows_line_ends_are_read(data: Path) -> None:
    (data / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read_manifests(data, ["train"])["train"]) == 1
    assert len(manifest_sha256(data / "train.jsonl")) == 64
