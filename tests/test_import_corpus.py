"""The command `mervn import`: from a corpus to a trained head, and one clear message for wrong input."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import pytest
import test_crema_d
import test_emobox
import test_esd
import test_meld
import test_msp_podcast
import test_ravdess
import test_vnemos
from test_csv_table import make
from test_iemocap import make as make_iemocap
from tiny_corpora import audio_bytes, touch
from tiny_extraction import small_encoders

from cli.main import run
from features.corpora.registry import CORPORA

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return small_encoders(tmp_path_factory.mktemp("encoders"))


def distinct(root: Path) -> None:
    """Give each audio file its own samples; copies in archives, such as of RAVDESS, keep those of the first."""
    for path in root.rglob("*.wav"):
        touch(path, audio_bytes(crc32(f"{path.parent.name}/{path.name}".encode())))


@dataclass(frozen=True)
class Chain:
    """A miniature of a corpus, and what its import and check are to say."""

    make: Callable[[Path], Path]
    options: str = ""
    fold: bool = True
    errors: frozenset[str] = frozenset()
    """Findings of `mervn check` that are errors: the planted faults, and leaks of official splits."""
    training: str = ""


def make_visec(root: Path) -> Path:
    pytest.importorskip("pyarrow")
    from test_parquet import visec

    return visec(root)


CHAINS = {
    "csv": Chain(make, "--folds 3"),
    "hf": Chain(
        make_visec, "--corpus visec --folds 4", errors=frozenset({"conflicting_labels"}), training="--fusion audio"
    ),
    "vnemos": Chain(test_vnemos.make, fold=False),
    "iemocap": Chain(make_iemocap, "--classes 4"),
    "meld": Chain(test_meld.make, fold=False, errors=frozenset({"speaker_overlap"})),
    "crema-d": Chain(test_crema_d.make, "--folds 3"),
    "ravdess": Chain(test_ravdess.make, "--folds 4"),
    "esd": Chain(test_esd.make, "--language english", fold=False, errors=frozenset({"speaker_overlap"})),
    "msp-podcast": Chain(
        test_msp_podcast.make, fold=False, errors=frozenset({"speaker_overlap", "class_missing"}),
        training="--fusion audio",
    ),
    "emobox": Chain(lambda root: test_emobox.make(root), training="--fusion audio"),
}  # fmt: skip


def test_every_format_has_a_chain() -> None:
    assert set(CHAINS) == set(CORPORA)


@pytest.mark.parametrize("name", CHAINS)
def test_a_corpus_is_imported_checked_extracted_and_trained_on(
    folder: Path, small: tuple[str, str], capsys: Captured, name: str
) -> None:
    chain = CHAINS[name]
    source = chain.make(folder / "corpus")
    distinct(folder / "corpus")
    assert run(["import", name, str(source), "--output", "data", *chain.options.split()]) == 0
    assert "next: mervn extract --data data" in capsys.readouterr().err
    assert run(["check", "data", "--json"]) == (1 if chain.errors else 0)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert {each["id"] for each in found if each["severity"] == "error"} == chain.errors
    assert run(["extract", "--audio-encoder", small[0], "--text-encoder", small[1]]) == 0
    arguments = ["--epochs", "1", "--dim", "8", "--mlp", "4", "--output", "run", *chain.training.split()]
    assert run(["train-head", *arguments, *(["--fold", "1"] if chain.fold else [])]) == 0
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
    assert {finding["id"] for finding in record["findings"]} == {"hidden_files", "other_count", "scripted_dialogues"}
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
        (["hf", "here"], 1, "here must have Parquet files, found none"),
        (["hf", "here/a.wav"], 1, "here/a.wav must be a Parquet file, but cannot be read"),
        (["csv", "here/a.wav"], 1, "here/a.wav must be a table in UTF-8, but cannot be read"),
        (["iemocap", "here"], 2, "iemocap needs --classes 4"),
        (["iemocap", "here", "--classes", "4"], 1, "here must have Session1 to Session5"),
        (["meld", "here"], 1, "here must have train_sent_emo.csv, also in its folder train, found neither"),
        (["ravdess", "here", "--vocal", "song"], 1, "such as Actor_01/03-01-05-01-01-01-01.wav of song, found none"),
        (["esd", "here"], 2, "esd needs --language chinese, english or all"),
        (["esd", "here", "--language", "all"], 1, "here must have folders 0001 to 0020 with audio of --language all"),
        (["msp-podcast", "here"], 1, "here must have Labels/labels_consensus.csv"),
        (["msp-podcast", "here", "--test-set", "Test3"], 2, "--test-set: input should be 'Test1' or 'Test2'"),
        (["emobox", "here"], 1, "here must have the folders fold_1 to fold_K, found none"),
        (["csv", "here/a.wav", "--corpus", "visec"], 2, "--corpus has no effect on csv; remove it"),
        (["hf", "here", "--corpus", "visek"], 2, "--corpus: input should be 'visec', 'lsvsc' or 'cameo'"),
        (["crema-d", "here", "--output", "here/a.wav/data"], 2, "Not a directory"),
        (["crema-d", "here", "--protocol", "speakers"], 2, "--protocol: input should be 'official' or 'groups'"),
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


GOOD = "file,speaker,label\n0.wav,a,sad\n1.wav,b,sad\n2.wav,c,happy\n"


@pytest.mark.parametrize(
    ("table", "arguments", "code", "message"),
    [
        ("", "", 2, "table.csv must have one delimiter that fits every line, found none of comma"),
        ("file,speaker,label\n", "", 1, "must have a header and at least one utterance, found 1 lines"),
        (GOOD.replace("c,", "c;"), "", 2, "must have one delimiter that fits every line, found none of comma"),
        (GOOD.replace("c,", "c;"), "--delimiter ,", 1, "must have 3 values per line, as its header, not so in 4"),
        (GOOD, "--delimiter ,,", 2, "--delimiter must be one character, found ',,'"),
        (GOOD.replace("speaker", "file"), "", 1, "each column must have its own name, found twice: file"),
        (GOOD.replace("label", "felt"), "", 2, "--label-column must be given: one of file, speaker, felt"),
        (GOOD.replace("speaker", "path"), "", 2, "--audio-column must be given, because file and path could be meant"),
        (GOOD, "--label-column labels", 2, "--label-column must be one of file, speaker, label, found 'labels'"),
        (GOOD, "--start-column label --folds 3", 1, "table.csv:2: start must be a number of seconds, found 'sad'"),
        (GOOD.replace("sad", "nan"), "--start-column label --folds 3", 1, "table.csv:4: start must be a number"),
        (GOOD, "--split-column label", 1, "table.csv:2: the split must be one of train, "),
        (GOOD, "--channel-column speaker --folds 3", 1, "table.csv:2: channel must be 0, 1, ... or mix, found 'a'"),
        (GOOD.replace("1.wav", "0.wav"), "--folds 3", 1, "speaker, transcript and split, found '0' for"),
        (GOOD + "0.wav,a,sad\n", "--folds 3", 0, ""),
        (GOOD.replace("1.wav,b,sad", "0.wav,b,fear"), "--folds 3", 1, "speaker, transcript and split, found '0' for"),
        (GOOD.replace("1.wav", ""), "--folds 3", 1, "table.csv:3: file must be the path of an audio file, found none"),
        (GOOD.replace("1.wav", "x" * 300), "--folds 3", 2, "File name too long"),
        (GOOD.replace(".wav", ".flac"), "--folds 3", 1, "found 3 without an audio file, such as 0.flac"),
        (GOOD.replace("sad", "").replace("happy", "N/A"), "--folds 3", 1, "found 3 without a label"),
        (GOOD + "0.wav,d,joy\n", "--id-column speaker --folds 3", 2, "found happy, joy for happy; give --merge-labels"),
        (GOOD.replace("c,", ","), "--id-column speaker --folds 3", 1, "table.csv:4: speaker must be an utterance id"),
        (GOOD.replace("c,", "\x07,"), "--id-column speaker --speaker-pattern (.) --folds 3", 1, "control characters"),
        (GOOD.replace("happy", "ha\x07ppy"), "--folds 3", 1, "2: emotion must not contain control characters"),
        (GOOD, "--folds 4", 1, "there must be at least 4 speakers, one per part, found 3"),
        (GOOD.replace("b,", "a,"), "--folds 3", 1, "there must be at least 3 speakers, one per part, found 2"),
        (GOOD.replace("speaker", "who"), "--folds 3", 1, "must have a known speaker to be divided, found none; give"),
        (GOOD, "--speaker-column spk --folds 3", 2, "--speaker-column must be one of file, speaker, label, found 'sp"),
        (GOOD, "--protocol official", 2, "--protocol official needs official splits, but this corpus has none"),
        (GOOD.replace("speaker", "split").replace("a,", "train,").replace("b,", "dev,").replace("c,", "dev,"), "", 1,
         "official splits must have test, found no utterance of it; give --protocol groups"),
        (GOOD.replace("speaker", "split").replace("a,", "train,").replace("b,", "test,").replace("c,", "test,"), "", 1,
         "must have a known speaker to be divided, found none"),
        (GOOD.replace("speaker", "split"), "--folds 3", 1, "table.csv:2: the split must be one of train"),
        (GOOD + '3.wav,d,"sad\n', "", 1, "table.csv:5: must be a table; is a quote not closed? unexpected"),
    ],
)  # fmt: skip
def test_a_wrong_table_gives_one_message_and_no_folder(
    folder: Path, capsys: Captured, table: str, arguments: str, code: int, message: str
) -> None:
    for number in range(3):
        touch(folder / f"{number}.wav", audio_bytes(number))
    (folder / "table.csv").write_text(table, "utf-8")
    assert run(["import", "csv", "table.csv", *arguments.split()]) == code
    error = capsys.readouterr().err
    assert (
        message in error
        and len(re.findall("^[eE]rror: ", error, re.MULTILINE)) == (code > 0)
        and "Traceback" not in error
    ), error
    assert (folder / "data").exists() == (code == 0) and not list(folder.glob(".data*"))
