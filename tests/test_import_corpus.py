"""The command `mervn import`: from a corpus to a trained head, and one clear message for wrong input."""

import json
from pathlib import Path

import pytest
from test_csv_table import make
from test_iemocap import make as make_iemocap
from tiny_corpora import touch

from cli.main import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_corpus_is_imported_extracted_and_trained_on(folder: Path, capsys: Captured) -> None:
    make(folder / "corpus")
    assert run(["import", "csv", "corpus/table.csv", "--folds", "3", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert document["utterances"] == {"train": 4, "valid": 4, "test": 4} and document["num_folds"] == 3
    assert "happy           6  Vui (6)" in captured.err and "next: mervn extract --data data" in captured.err
    assert run(["extract", "--audio-encoder", "fourier2vec", "--text-encoder", "hashed_ngrams"]) == 0
    small = ["--epochs", "1", "--dim", "16", "--mlp", "8", "--output", "run"]
    assert run(["train-head", "--fold", "2", *small]) == 0
    assert (folder / "run" / "metrics.json").is_file()


def test_everything_that_is_found_is_printed_and_recorded(folder: Path, capsys: Captured) -> None:
    make_iemocap(folder / "iemocap")
    assert run(["import", "iemocap", "iemocap", "--classes", "4", "--output", "four"]) == 0
    shown = capsys.readouterr().out
    assert "protocol: leave one session out, the next session is the valid split; train.jsonl" in shown
    assert "left out: 5 without agreement of the raters (xxx) (Ses01F_impro01_M001, Ses02F_impro01_M001, " in shown
    assert "Ses03F_impro01_M001 and 2 more)" in shown
    assert "info: other_count: the published corpus has 5531 utterances of 4 classes, found 25" in shown
    assert "four: train.jsonl, valid.jsonl, test.jsonl, folds-5.json; import.json lists all of the above" in shown
    record = json.loads((folder / "four" / "import.json").read_text("utf-8"))
    assert record["format"] == "iemocap" and record["options"] == {"classes": "4", "output": "four"}
    assert len(record["left_out"]["without agreement of the raters (xxx)"]) == 5
    assert {finding["id"] for finding in record["findings"]} == {"hidden_files", "other_count"}
    assert sorted(path.name for path in (folder / "four").iterdir()) == [
        "folds-5.json", "import.json", "test.jsonl", "train.jsonl", "valid.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["iemocp", "here"], 2, "FORMAT must be one of csv, hf, vnemos, iemocap, meld, crema-d, ravdess, esd, "
         "msp-podcast, emobox, found 'iemocp'; did you mean iemocap?"),
        (["iemocap"], 2, "Missing argument 'SOURCE'"),
        (["iemocap", "nowhere"], 2, "SOURCE must be the folder with Session1 to Session5, but nowhere does not exist"),
        (["csv", "here"], 2, "SOURCE must be a table in UTF-8 with a header, found a folder: here"),
        (["meld", "here/a.wav"], 2, "SOURCE must be the folder with train_sent_emo.csv, found a file"),
        (["meld", "here", "--language", "english"], 2, "--language has no effect on meld; remove it"),
        (["crema-d", "here", "--classes", "5"], 2, "--classes: input should be '4' or 'all', found '5'"),
        (["crema-d", "here", "--folds", "2"], 2, "--folds: input should be greater than or equal to 3, found '2'"),
        (["crema-d", "here", "--output", "here"], 2, "--output must be missing or an empty folder, found here"),
        (["crema-d", "here", "--protocol", "official", "--folds", "4"], 2, "--folds has no effect on --protocol"),
        (["vnemos", "here", "--audio-root", "nowhere"], 2, "--audio-root must be a folder, but nowhere does not exist"),
        (["vnemos", "here", "--speaker-pattern", "("], 2, "--speaker-pattern must be a regular expression"),
        (["vnemos", "here", "--speaker-pattern", "a"], 2, "must have one group in parentheses, found 0"),
        (["crema-d", "here"], 1, "here must have files such as 1001_DFA_ANG_XX.wav, found none"),
        (["vnemos", "here"], 1, "here/train.jsonl does not exist"),
    ],
)  # fmt: skip
def test_wrong_input_gives_one_message_and_no_folder(
    folder: Path, capsys: Captured, arguments: list[str], code: int, message: str
) -> None:
    touch(folder / "here" / "a.wav")
    assert run(["import", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(path.name for path in folder.iterdir()) == ["here"]
