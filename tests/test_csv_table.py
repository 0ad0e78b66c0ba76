"""Tables: the delimiter that fits, columns by name or flag, official splits, faults with their line."""

from pathlib import Path

import pytest
from tiny_corpora import audio_bytes, findings, folds, labels, run_import, splits, touch, write

from features.corpora.csv_table import read_table
from features.errors import InputError, UsageError


def make(root: Path, delimiter: str = ",", header: str = "file,speaker,text,label,age") -> Path:
    lines = [header.replace(",", delimiter)]
    for speaker in range(6):
        for number, label in enumerate(("Vui", "buồn")):
            name = f"{speaker}-{number}"
            touch(root / "wav" / f"{name}.wav")
            text = f'"xin chào, {name}; nhé"'
            lines.append(delimiter.join((f"wav/{name}.wav", f"s{speaker}", text, label, "30")))
    return write(root / "table.csv", "\ufeff" + "\n".join(lines) + "\n\n")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_and_delimiter_are_found(tmp_path: Path, delimiter: str) -> None:
    result = run_import("csv", make(tmp_path / "csv", delimiter), folds=3)
    assert result.labels == {"happy": {"Vui": 6}, "sad": {"buồn": 6}} and result.num_folds == 3
    lines = {line["utterance_id"]: line for part in splits(result).values() for line in part}
    assert lines["4-1"] == {
        "utterance_id": "4-1", "speaker_id": "s4", "wav_path": "../wav/4-1.wav", "emotion": "sad",
        "transcript": "xin chào, 4-1; nhé", "source_label": "buồn", "age": "30",
    }  # fmt: skip
    assert findings(result)["columns"].startswith("columns: audio = file, label = label, speaker = speaker,")
    assert sorted(name for fold in folds(result) for name in fold["test"]) == sorted(lines)


def test_the_splits_of_a_column_are_official(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    header, *lines = path.read_text("utf-8-sig").split()[0:1] + path.read_text("utf-8-sig").splitlines()[1:13]
    named = []
    for number, line in enumerate(lines):
        named.append(f"{line},{('Train', 'dev', 'test')[number // 2 % 3]}")
    write(path, "\n".join([f"{header},split", *named]))
    result = run_import("csv", path)
    assert result.utterances == {"train": 4, "valid": 4, "test": 4} and result.num_folds == 0
    assert set(labels(result)["test"]) == {"2-0", "2-1", "5-0", "5-1"}
    write(path, "\n".join([f"{header},split", *named[:-1], named[-1].replace("test", "tset")]))
    (tmp_path / "csv" / "data").rename(tmp_path / "before")
    with pytest.raises(InputError, match=r"table.csv:13: the split must be one of train, .*, found 'tset'"):
        run_import("csv", path)


def test_a_table_without_valid_takes_speakers_of_train(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    lines = path.read_text("utf-8-sig").splitlines()[:13]
    named = [f"{lines[0]},split"] + [f"{line},{'test' if line[4] == '5' else 'train'}" for line in lines[1:]]
    write(path, "\n".join(named))
    result = run_import("csv", path)
    assert result.speakers == {"train": 4, "valid": 1, "test": 1}
    assert "2 utterances of train, with all of their speakers, became it" in findings(result)["valid_made"]


def test_flags_name_columns_that_names_do_not_tell(tmp_path: Path) -> None:
    path = make(tmp_path / "csv", header="clip,who,says,felt,path")
    with pytest.raises(UsageError, match="--label-column must be given: one of clip, who, says, felt, path"):
        run_import("csv", path)
    options = {"audio_column": "clip", "label_column": "felt", "transcript_column": "says", "folds": 6}
    with pytest.raises(InputError, match="known speaker to be divided, found none; give --speaker-column"):
        run_import("csv", path, **options)
    with pytest.raises(UsageError, match="--speaker-column must be one of .*, found 'whose'; did you mean who?"):
        run_import("csv", path, speaker_column="whose", **options)
    result = run_import("csv", path, speaker_pattern=r"^(\d)-", **options)
    assert result.speakers == {"train": 4, "valid": 1, "test": 1}
    assert splits(result)["test"][0]["who"].startswith("s")


def test_names_that_repeat_in_folders_are_refused_and_paths_can_be_ids(tmp_path: Path) -> None:
    text = "file,speaker,label\n"
    for speaker in range(3):
        touch(tmp_path / "csv" / f"s{speaker}" / "1.wav", audio_bytes(speaker))
        text += f"s{speaker}/1.wav,{'?' if speaker else 's0'},sad\n"
    path = write(tmp_path / "csv" / "t.csv", text)
    with pytest.raises(
        InputError, match="must have one audio, .*found '1' for .* give another --id-column .*the paths"
    ):
        run_import("csv", path, folds=3)
    with pytest.raises(InputError, match="at least 3 speakers, one per part, found 2"):
        run_import("csv", path, folds=3, id_column="file")  # ? is no speaker
    result = run_import("csv", path, folds=3, id_column="file", speaker_pattern=r"^s(\d)/")
    assert sorted(splits(result)["test"][0]) == sorted(
        ["utterance_id", "speaker_id", "wav_path", "transcript", "emotion", "source_label"]
    )
    assert {line["utterance_id"]: line["speaker_id"] for part in splits(result).values() for line in part} == {
        "s0/1.wav": "s0", "s1/1.wav": "1", "s2/1.wav": "2",
    }  # fmt: skip


def test_columns_that_could_both_be_meant_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "csv", header="file,speaker,text,label,class")
    with pytest.raises(UsageError, match="--label-column must be given, because label and class could be meant"):
        run_import("csv", path)


def test_times_channels_and_names_of_fields(tmp_path: Path) -> None:
    text = "wav_path,emotion,speaker,start,end,channel,id,label\n"
    for number in range(3):
        touch(tmp_path / "csv" / f"a{number}.wav")
        text += f"a{number}.wav,sad,{number},{number / 100},0.09,0,u{number},x\n"
    path = write(tmp_path / "csv" / "t.csv", text)
    result = run_import("csv", path, folds=3)
    line = {line["utterance_id"]: line for part in splits(result).values() for line in part}["u2"]
    assert (line["start"], line["end"], line["channel"], line["label"]) == (0.02, 0.09, 0, "x")
    (tmp_path / "csv" / "data").rename(tmp_path / "before")
    write(path, text.replace("0.02", "soon"))
    with pytest.raises(InputError, match=r"t.csv:4: start must be a number of seconds, found 'soon'"):
        run_import("csv", path, folds=3)
    write(path, text.replace(",0,u2", ",left,u2"))
    with pytest.raises(InputError, match=r"t.csv:4: channel must be 0, 1, ... or mix, found 'left'"):
        run_import("csv", path, folds=3)
    write(path, text.replace("u1", "\x07"))
    with pytest.raises(InputError, match="utterance_id must not contain control characters"):
        run_import("csv", path, folds=3)
    write(path, text.replace("0.09,0,u2", "0.01,0,u2"))
    with pytest.raises(InputError, match="u2: end must be greater than start, found start=0.02 end=0.01"):
        run_import("csv", path, folds=3)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a,b\n1,2,3\n", UsageError, "one delimiter that fits every line, found none of comma, semicolon, tab, bar"),
        ("a,b;c\n1,2;3\n", UsageError, "found comma and semicolon; give it with --delimiter"),
        ("a,a\n1,2\n", InputError, "each column must have its own name, found twice: a"),
        ("a,b\n", InputError, "must have a header and at least one utterance, found 1 lines"),
        ("a,\xff\n".encode("latin-1"), InputError, "must be a table in UTF-8, but cannot be read"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, text: str | bytes, error: type[Exception], message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(error, match=message):
        read_table(path)


def test_a_given_delimiter_names_the_lines_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n"1\x85",2\n3\n4,5,6\n')
    with pytest.raises(InputError, match="must have 2 values per line, as its header, not so in 3, 4"):
        read_table(path, ",")
    with pytest.raises(UsageError, match="--delimiter must be one character, found ',,'"):
        read_table(path, ",,")


def test_a_column_without_a_name_gets_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ",a\n0,1\n")
    assert read_table(path) == [(1, ["column_1", "a"]), (2, ["0", "1"])]
