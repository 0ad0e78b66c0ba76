"""Parquet files of the Hugging Face Hub: bytes unchanged, splits by file, equal audio kept in one part."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tiny_corpora import audio_bytes, findings, folds, labels, run_import, splits, touch

from features.errors import InputError, UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
EMOTIONS = ("happy", "neutral", "sad", "angry")


def save(path: Path, records: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(records))
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    parquet.write_table(table, path)


def visec(root: Path) -> Path:
    """Write one file like that of ViSEC, with equal audio of two speakers and of two emotions."""
    records = []
    for speaker in range(6):
        for number, emotion in enumerate(EMOTIONS):
            seed = 10 * speaker + number
            # the third clip of speaker 1 is that of speaker 0; the fourth of speaker 4 is its own third one
            seed = {12: 2, 43: 42}.get(seed, seed)
            content = audio_bytes(seed, "PCM_24" if seed == 30 else "PCM_16")
            name = f"{speaker}/{number}.wav" if speaker == 5 else f"{seed}-{speaker}.wav"
            records.append(
                {
                    "path": {"bytes": content, "path": name},
                    "speaker_id": speaker, "emotion": emotion, "emotion_id": number, "accent": "north", "duration": 0.1,
                }
            )  # fmt: skip
    records[0]["path"]["path"] = "0.wav"  # type: ignore[index]
    records[-1]["path"]["path"] = "b/0.wav"  # type: ignore[index]
    records[17]["path"]["path"] = None  # type: ignore[index]
    records[19]["path"]["path"] = "43-4.wav"  # type: ignore[index]
    save(root / "data" / "train-00000-of-00001.parquet", records)
    return root


def test_a_corpus_like_visec_is_divided_by_speaker_and_audio(tmp_path: Path) -> None:
    result = run_import("hf", visec(tmp_path / "visec"), corpus="visec", folds=4)
    assert sum(result.utterances.values()) == 24 and result.num_folds == 4
    lines = {line["utterance_id"]: line for part in splits(result).values() for line in part}
    for fold in folds(result):
        parts = {split: {lines[name]["speaker_id"] for name in names} for split, names in fold.items()}
        assert sum(map(len, parts.values())) == 6
        assert sum({"0", "1"} <= part for part in parts.values()) == 1  # they have audio in common
    found = findings(result)
    assert found["duplicate_audio"] == "2 groups of utterances have the same audio (4 utterances)"
    assert found["conflicting_labels"].startswith("1 groups") and found["conflicting_speakers"].startswith("1 groups")
    assert found["licence"] == "the licence of the corpus is not stated"
    assert "277 groups of equal audio" in found["known_duplicates"]
    expected = "the published corpus has 5280 utterances, found 24; the published corpus has 147 speakers, found 6"
    assert found["other_count"] == expected and found["no_transcripts"] == "the corpus has no transcripts"
    assert "23 PCM_16 at 16000 Hz with 1 channels, 1 PCM_24" in found["audio_formats"]
    assert found["repeated_names"].startswith("2 audio files have the name of an earlier one")


def test_audio_is_written_as_it_is(tmp_path: Path) -> None:
    result = run_import("hf", visec(tmp_path / "visec"), folds=3)
    lines = {line["utterance_id"]: line for part in splits(result).values() for line in part}
    assert (result.path / lines["30-3"]["wav_path"]).read_bytes() == audio_bytes(30, "PCM_24")
    assert soundfile.info(io.BytesIO(audio_bytes(30, "PCM_24"))).subtype == "PCM_24"
    unnamed = lines["train-000018"]
    assert unnamed["wav_path"] == "audio/train-000018.wav"
    assert (result.path / unnamed["wav_path"]).read_bytes() == audio_bytes(41)
    assert unnamed["accent"] == "north" and unnamed["emotion_id"] == 1 and "subset" not in unnamed
    assert len(list((result.path / "audio").iterdir())) == len(lines) == 24
    assert lines["0"]["speaker_id"] == "0" and lines["0-000024"]["speaker_id"] == "5"


def test_official_splits_labels_as_numbers_and_missing_labels(tmp_path: Path) -> None:
    features = {"info": {"features": {"emotion": {"names": ["joyful", "sad"], "_type": "ClassLabel"}}}}
    for number, split in enumerate(("train", "validation", "test")):
        records = []
        for i, label in enumerate((0, 1, -1)):
            audio = {"bytes": audio_bytes(10 * number + i), "path": f"{split}{i}.wav"}
            more = {"thumbnail": b"x", "tags": ["a", "b"], "snr": float("nan")}
            records.append({"audio": audio, "emotion": label, "transcription": f"câu {number}{i}", **more})
        save(tmp_path / "lsvsc" / f"{split}-00000-of-00001.parquet", records, features)
    result = run_import("hf", tmp_path / "lsvsc", corpus="lsvsc")
    assert labels(result) == {
        "train": {"train0": "happy", "train1": "sad"},
        "valid": {"validation0": "happy", "validation1": "sad"},
        "test": {"test0": "happy", "test1": "sad"},
    }
    assert result.left_out == {"without a label": ["test2", "train2", "validation2"]}
    assert splits(result)["valid"][0] == {
        "utterance_id": "validation0", "speaker_id": None, "wav_path": "audio/validation0.wav", "transcript": "câu 10",
        "emotion": "happy", "source_label": "joyful", "tags": ["a", "b"], "snr": None,
    }  # fmt: skip
    found = findings(result)
    assert found["speaker_unknown"] == "the speaker of 6 of 6 utterances is unknown"
    assert "cannot be shown" in found["no_speakers"] and "how the emotions were labelled" in found["label_origin"]


def test_files_that_are_only_numbered_have_the_split_of_their_folder(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        audio = {"bytes": audio_bytes(number), "path": f"{split}.wav"}
        record = {"audio": audio, "emotion": "sad", "speaker_id": split}
        save(tmp_path / "hf" / "default" / split / "0000.parquet", [record])
    result = run_import("hf", tmp_path / "hf")
    assert result.protocol == "the splits of the files: test, train, validation"
    assert labels(result) == {"train": {"train": "sad"}, "valid": {"validation": "sad"}, "test": {"test": "sad"}}


def test_subsets_of_one_data_set_are_chosen(tmp_path: Path) -> None:
    for subset in ("cafe", "nemo"):
        records = []
        for i in range(6):
            audio = {"bytes": audio_bytes(i if subset == "cafe" else 20 + i), "path": None}
            records.append(
                {"file_id": f"{subset}{i}", "audio": audio, "emotion": "anger", "speaker_id": f"{subset}-{i % 3}"}
            )
        save(tmp_path / "cameo" / f"{subset}-00000-of-00001.parquet", records)
    with pytest.raises(UsageError, match="--subset must be of cafe, nemo, found other"):
        run_import("hf", tmp_path / "cameo", subset=("other",))
    result = run_import("hf", tmp_path / "cameo", corpus="cameo", subset=("nemo",), folds=3)
    assert set(labels(result)["test"]) <= {f"nemo{i}" for i in range(6)} and sum(result.utterances.values()) == 6
    assert splits(result)["train"][0]["subset"] == "nemo"


def test_audio_by_path_and_unreadable_bytes(tmp_path: Path) -> None:
    records = [{"audio": f"{i}.wav", "emotion": "sad", "speaker": str(i)} for i in range(4)]
    for i in range(4):
        touch(tmp_path / "wav" / f"{i}.wav", b"no audio" if i == 3 else audio_bytes(i))
    save(tmp_path / "hf" / "all.parquet", records)
    with pytest.raises(UsageError, match="--audio-column must be given, because the file has no column of bytes"):
        run_import("hf", tmp_path / "hf")
    result = run_import("hf", tmp_path / "hf", audio_column="audio", audio_root=tmp_path / "wav", folds=4)
    assert {line["wav_path"] for part in splits(result).values() for line in part} == {
        f"../wav/{i}.wav" for i in range(4)
    }
    records = [{"audio": b"no audio %d" % i, "emotion": "sad", "speaker": str(i)} for i in range(3)]
    save(tmp_path / "bytes" / "b.parquet", records)
    (tmp_path / "data").rename(tmp_path / "before")
    found = findings(run_import("hf", tmp_path / "bytes", folds=3))
    assert found["unreadable_audio"].startswith("3 audio files cannot be read")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(InputError, match="must have Parquet files, found none"):
        run_import("hf", tmp_path / "hf")
    (tmp_path / "hf" / "a.parquet").write_bytes(b"PAR1 is no more")
    with pytest.raises(InputError, match="a.parquet must be a Parquet file, but cannot be read"):
        run_import("hf", tmp_path / "hf")
    good = visec(tmp_path / "visec") / "data" / "train-00000-of-00001.parquet"
    content = bytearray(good.read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "hf" / "a.parquet").write_bytes(bytes(content))
    with pytest.raises(InputError, match="a.parquet must be a complete Parquet file, but cannot be read"):
        run_import("hf", tmp_path / "hf")
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".data*"))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.corpora.parquet.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"hf needs pyarrow: pip install 'mervn\[import\]'"):
        run_import("hf", tmp_path)
