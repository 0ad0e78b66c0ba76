"""Manifests: every fault is reported at once, with file and line; only requested splits are read."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.audio.segment import AudioError, inspect_segment
from features.errors import InputError
from features.manifests.fields import parse_fields
from features.manifests.manifest import read_manifests

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


def write(data: Path, split: str, *lines: dict[str, Any]) -> None:
    named = [{**GOOD, "utterance_id": f"{split}-{i}", **line} for i, line in enumerate(lines)]
    text = ""
    for line in named:
        kept = {key: value for key, value in line.items() if value is not ...}  # ... leaves a field out
        text += json.dumps(kept) + "\n"  # ASCII: surrogates are escaped
    (data / f"{split}.jsonl").write_text(text)


def fault(data: Path, *splits: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_manifests(data, splits or ("train",), **options)
    return str(caught.value)


def test_a_line_is_read_with_its_defaults_and_extra_keys(data: Path) -> None:
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
    assert f"but {root / 'a.wav'} does not exist" in fault(data, audio_root=root)
    (root / "a.wav").write_bytes(b"")
    assert read_manifests(data, ["train"], audio_root=root)["train"][0].audio_path == root / "a.wav"


@pytest.mark.parametrize(("typed", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_unicode_form_is_said_to_be_there(data: Path, typed: str, on_disk: str) -> None:
    write(data, "train", {"wav_path": unicodedata.normalize(typed, "Huế/Đà.wav")})
    assert "Unicode form" not in fault(data)
    path = data / unicodedata.normalize(on_disk, "Huế/Đà.wav")
    path.parent.mkdir()
    path.write_bytes(b"")
    assert f"does not exist; the same name in Unicode form {on_disk} does: write it in this form" in fault(data)
    with pytest.raises(AudioError, match=f"does not exist; the same name in Unicode form {on_disk} does"):
        inspect_segment(data / unicodedata.normalize(typed, "Huế/Đà.wav"), 0.0, None, "mix")


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"utterance_id": ...}, "utterance_id is missing"),
    ({"speaker_id": ""}, "speaker_id must be a non-empty string, found ''"),
    ({"speaker_id": 7}, "speaker_id must be a non-empty string, found 7"),
    ({"emotion": "vui\u200b"}, "emotion must not contain control characters, found 'vui\\u200b'"),
    ({"utterance_id": "a\nb"}, "utterance_id must not contain control characters"),
    ({"utterance_id": "x" * 300}, "utterance_id must have at most 256 characters, found 300"),
    ({"wav_path": None}, "wav_path must be a non-empty string, found None"),
    ({"wav_path": "b.wav"}, "wav_path must be a file, but"),
    ({"start": "0"}, "start must be a number of seconds, found '0'"),
    ({"start": True}, "start must be a number of seconds, found True"),
    ({"start": -1}, "start must be finite and at least 0, found -1"),
    ({"end": float("nan")}, "end must be finite and at least 0, found nan"),
    ({"end": float("inf")}, "end must be finite and at least 0, found inf"),
    ({"end": 10**400}, "end must be finite and at least 0"),
    ({"start": 3.2, "end": 3.2}, "end must be greater than start, found start=3.2 end=3.2"),
    ({"channel": 10**9}, "channel must be 0, 1, ... or 'mix', found 1000000000"),
    ({"channel": -1}, "channel must be 0, 1, ... or 'mix', found -1"),
    ({"channel": "left"}, "channel must be 0, 1, ... or 'mix', found 'left'"),
    ({"channel": True}, "channel must be 0, 1, ... or 'mix', found True"),
    ({"transcript": 3}, "transcript must be a string or null, found 3"),
    ({"transcript": "a\ud800"}, "transcript must be valid Unicode, found a lone surrogate in 'a\\ud800'"),
    ({"wav_path": "a/\udfff.wav"}, "wav_path must be valid Unicode"),
    ({"wav_path": f"a/{'x' * 300}.wav"}, "wav_path: a file name must have at most 255 bytes, found 304"),
    ({"wav_path": "a/" * 3000}, "wav_path must have at most 4096 bytes, found 6000"),
    ({"wav_path": "."}, "wav_path must be a file, found a folder"),
    ({"room": ["\ud800"]}, "'room' must be JSON that can be written again, found a lone surrogate in '\\ud800'"),
    ({"\ud800": 1}, "a key must be valid Unicode, found a lone surrogate"),
    ({"room": {"\ud800": 1}}, "'room' must be JSON that can be written again, found a lone surrogate"),
    ({"room": [float("nan")]}, "'room' must be JSON that can be written again, found nan, which JSON does not support"),
    ({"room": float("inf")}, "'room' must be JSON that can be written again, found inf"),
    (
        {"emotion": ..., "label": "vui"},
        "emotion is missing: it must be a label; is it the key 'label'? Rename it to emotion",
    ),
    ({"utterance_id": ..., "id": "u1"}, "utterance_id is missing; is it the key 'id'? Rename it to utterance_id"),
    (
        {"emotion": ..., "Emotion": "vui", "EMOTION": "vui"},
        "'Emotion' and 'EMOTION' are not fields of a manifest; did you",
    ),
    ({"emotion": ..., "emotoin": "vui"}, "emotion is missing: it must be a label; is it the key 'emotoin'?"),
    (
        {"utterance_id": ..., "utterence_id": "u1"},
        "'utterence_id' is not a field of a manifest; did you mean utterance_id?",
    ),
    ({"wav_path": "a\u00a0b.wav"}, "wav_path must not contain special spaces, found NO-BREAK SPACE (U+00A0) in"),
    ({"\x1b[31mred": float("nan")}, "'\\x1b[31mred' must be JSON that can be written again"),
    ({"end": ..., "End": 2}, "'End' is not a field of a manifest; did you mean end?"),
    ({"wav_path": ..., "wavPath": "a.wav"}, "'wavPath' is not a field of a manifest; did you mean wav_path?"),
    ({"emotion": ...}, "emotion is missing: it must be a label"),
    ({"emotion": 3}, "emotion must be a non-empty string, found 3"),
]


@pytest.mark.parametrize(("line", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_each_fault_is_named_with_its_line(data: Path, line: dict[str, Any], message: str) -> None:
    write(data, "train", {}, line)
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
        "train.jsonl:7: must be one JSON object, found lists or objects that are nested too deeply",
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


def test_many_faults_of_one_kind_are_shown_together_and_counted(data: Path) -> None:
    write(data, "train", *[{"start": -i} if i else {"end": 0} for i in range(331)])
    message = fault(data)
    assert message.splitlines() == [
        f"331 faults in the manifests of {data}:",
        "train.jsonl:1: end must be greater than start, found start=0.5 end=0.0",
        *(f"train.jsonl:{i + 1}: start must be finite and at least 0, found -{i}" for i in (1, 2, 3)),
        "  and 327 more of this kind, up to train.jsonl:331",
    ]


def test_faults_of_many_kinds_are_cut(data: Path) -> None:
    write(data, "train", *[{f"room-{i}": float("nan")} for i in range(60)])
    assert fault(data).endswith("and 10 more")


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"utterance_id,wav_path,text\n" + b"a,b.wav,hi\n" * 330, "CSV, found 'utterance_id,wav_path,text'"),
        (b"a\tb\n", "CSV"),
        (json.dumps([GOOD]).encode(), "one JSON array"),
        (json.dumps(GOOD, indent=2).encode(), "indented JSON"),
        (json.dumps(GOOD).encode("utf-16"), "UTF-16; save it as UTF-8"),
    ],
)
def test_other_formats_are_one_fault(data: Path, content: bytes, form: str) -> None:
    (data / "train.jsonl").write_bytes(b"\n" + content)
    message = fault(data)
    assert message.startswith("1 fault ")
    assert f"train.jsonl:2: must be JSON Lines, one JSON object per line; this looks like {form}" in message


def test_a_manifest_that_is_no_file_is_named_and_not_waited_for(data: Path) -> None:
    os.mkfifo(data / "train.jsonl")
    (data / "valid.jsonl").mkdir()
    (data / "test.jsonl").symlink_to("/dev/zero")
    message = fault(data, "train", "valid", "test")
    for split, kind in (("train", "a named pipe"), ("valid", "a folder"), ("test", "a device")):
        assert f"{split}.jsonl: {data / split}.jsonl cannot be read: it must be a file, found {kind}" in message


def test_extra_keys_that_cannot_be_written_again_are_refused_at_their_depth(data: Path) -> None:
    deep: Any = 1
    for _ in range(32):
        deep = [deep]
    write(data, "train", {"room": deep})
    assert len(read_manifests(data, ["train"])["train"]) == 1
    write(data, "train", {}, {"room": [deep]})
    assert (
        "train.jsonl:2: 'room' must be JSON that can be written again, found lists or objects nested more than 32 deep"
        in fault(data)
    )
    (data / "train.jsonl").write_text(json.dumps(GOOD)[:-1] + ', "size": ' + "9" * 5000 + "}")
    assert "train.jsonl:1: must be one JSON object, found: Exceeds the limit" in fault(data)


def test_keys_beside_a_field_are_no_misspelling(data: Path) -> None:
    keys = ("transcript_asr", "raw_transcript", "channels", "emotion2", "emotions", "speaker", "ends", "annotation")
    write(data, "train", {"speaker_id": "s", **dict.fromkeys(keys, "x")})
    assert set(read_manifests(data, ["train"])["train"][0].extra) == {*keys, "room"}
    absent = {"transcript": ..., "end": ..., "start": ..., "channel": ...}
    write(data, "train", {**absent, "transcript_asr": "x", "channels": 2})
    assert read_manifests(data, ["train"])["train"][0].transcript is None


def test_a_key_near_an_optional_field_is_a_warning(data: Path) -> None:
    write(data, "train", *[{"emotion": ..., "motion": "walks"}] * 2, {"transcript": ..., "transcrpt": "xin"})
    with pytest.warns(UserWarning, match="is not a field of a manifest") as found:
        utterances = read_manifests(data, ["train"], require_emotion=False)["train"]
    assert [str(warning.message) for warning in found] == [
        "train.jsonl:1: 'motion' is not a field of a manifest; did you mean emotion? (2 lines)",
        "train.jsonl:3: 'transcrpt' is not a field of a manifest; did you mean transcript? (1 line)",
    ]
    assert utterances[0].extra["motion"] == "walks" and utterances[0].emotion is None


def test_an_unknown_speaker_is_none(data: Path) -> None:
    write(data, "train", {"speaker_id": ...}, {"speaker_id": None}, {"speaker_id": "s"})
    assert [u.speaker_id for u in read_manifests(data, ["train"])["train"]] == [None, None, "s"]


def test_a_speaker_in_two_unicode_forms_is_one(data: Path) -> None:
    names = ["Đà Nẵng", unicodedata.normalize("NFD", "Đà Nẵng"), " Đà  Nẵng"]
    write(data, "train", *({"speaker_id": name} for name in names))
    assert {u.speaker_id for u in read_manifests(data, ["train"])["train"]} == {"Đà Nẵng"}


def test_a_key_that_every_line_has_in_place_of_a_field_is_warned_about(data: Path) -> None:
    write(data, "train", *[{"transcript": ..., "text": "xin chào"}] * 2)
    with pytest.warns(UserWarning, match="train.jsonl: no line has transcript, but all have 'text'; did you mean"):
        read_manifests(data, ["train"])
    write(data, "train", {"transcript": ..., "text": "xin chào"}, {"text": "xin chào"})
    read_manifests(data, ["train"])


def test_labels_are_normalized(data: Path) -> None:
    write(data, "train", {"emotion": unicodedata.normalize("NFD", "buồn")}, {"emotion": " buồn\t"})
    assert {u.emotion for u in read_manifests(data, ["train"])["train"]} == {"buồn"}


@pytest.mark.parametrize("other", ["Hoà nhã", "hòa nhã", "hoà  nhã", "hoànhã", "ｈoà nhã", "HOÀ NHÃ"])
def test_labels_that_only_look_different_are_refused_with_both_places(data: Path, other: str) -> None:
    write(data, "train", {"emotion": "buồn"}, {"emotion": "hoà nhã"}, {"emotion": "buồn"})
    write(data, "valid", {"emotion": "buồn"}, {"emotion": other})
    message = fault(data, "train", "valid")
    assert message.startswith("1 fault ")
    assert f"valid.jsonl:2: emotion {other!r} looks the same as 'hoà nhã' in train.jsonl:2" in message


def test_labels_do_not_matter_where_they_are_not_needed(data: Path) -> None:
    write(data, "train", {"emotion": ...}, {"emotion": "vui"}, {"emotion": "Vui"})
    write(data, "valid", {"emotion": "buồn"})
    assert len(read_manifests(data, ["train", "valid"], require_emotion=False)["train"]) == 3


def test_missing_folders_and_files_say_what_was_looked_for(data: Path) -> None:
    assert "set it with --data DIR or as `data" in fault(data / "nowhere")
    assert f"train.jsonl: {data / 'train.jsonl'} does not exist" in fault(data)


def test_an_id_twice_in_one_split_is_named(data: Path) -> None:
    write(data, "train", {"utterance_id": "x"}, {}, {"utterance_id": "x"})
    assert "train.jsonl:3: utterance_id must be unique, found 'x' in train.jsonl:1 too" in fault(data)


def test_only_the_splits_asked_for_are_read(data: Path) -> None:
    write(data, "train", {})
    (data / "test.jsonl").write_text("no manifest")
    assert list(read_manifests(data, ["train"])) == ["train"]


def test_audio_and_emotion_can_be_left_unchecked(data: Path) -> None:
    write(data, "train", {"wav_path": "b.wav", "emotion": ...})
    (utterance,) = read_manifests(data, ["train"], check_audio=False, require_emotion=False)["train"]
    assert utterance.emotion is None


def test_a_byte_order_mark_and_windows_line_ends_are_read(data: Path) -> None:
    (data / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read_manifests(data, ["train"])["train"]) == 1
    assert len(read_manifests(data, ["train"]).sha256["train"]) == 64


@pytest.mark.parametrize("field", ["utterance_id", "speaker_id", "wav_path", "emotion"])
def test_a_string_of_a_subclass_is_a_string(field: str) -> None:
    """An importer may pass one."""
    document: dict[str, Any] = {"utterance_id": "u", "speaker_id": "s", "wav_path": "u.wav", "emotion": "sad"}
    document[field] = np.str_(document[field])
    found = parse_fields(document)
    assert not found.faults and found.values[field] == document[field]
    document[field] = np.str_("a\u200b")
    assert [fault.rule for fault in parse_fields(document).faults]
