"""MSP-Podcast (Lotfian, Busso 2019): podcasts with an official partition by speaker.

Layout: Labels/labels_consensus.csv with Split_Set, Audios/NAME.wav (older releases: Audio/), and
Transcripts/NAME.txt.
"""

from __future__ import annotations

import re
from pathlib import Path

from features.config import SplitName
from features.corpora.csv_table import read_table
from features.corpora.items import Corpus, Item, Work, read_text
from features.corpora.options import ImportOptions
from features.errors import InputError

LABELS = {
    "A": "angry", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt",
    "N": "neutral", "O": "other",
}  # fmt: skip
NO_AGREEMENT = "X"
PODCAST = re.compile(r"MSP-PODCAST_(\d+)_")
SPLITS: dict[str, SplitName] = {"train": "train", "development": "valid", "validation": "valid"}
COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the consensus labels; --test-set chooses the test set, the others are left out.

    Raises InputError if the labels or a column are missing.
    """
    table = source / "Labels" / "labels_consensus.csv"
    if not table.is_file():
        raise InputError(f"{source} must have Labels/labels_consensus.csv, but {table} does not exist")
    header, *records = read_table(table, ",")
    lacking = [column for column in COLUMNS if column not in header[1]]
    if lacking:
        raise InputError(f"{table} must have the columns {', '.join(COLUMNS)}, but lacks {', '.join(lacking)}")
    test_set = options.test_set or "Test1"
    corpus = Corpus([], official=f"the official partition; {test_set} is test")
    audio = source / "Audios" if (source / "Audios").is_dir() else source / "Audio"
    for _, values in records:
        record = dict(zip(header[1], values, strict=True))
        name = Path(record["FileName"]).stem
        split_set = record["Split_Set"].strip()
        split = "test" if split_set.casefold() == test_set.casefold() else SPLITS.get(split_set.casefold())
        if split is None:
            corpus.leave_out(f"in {split_set}", name)
        elif record["EmoClass"] == NO_AGREEMENT:
            corpus.leave_out("without agreement of the raters (X)", name)
        else:
            corpus.items.append(_item(record, audio, split, _read_transcript(source, name, corpus)))
    return corpus


def _read_transcript(source: Path, name: str, corpus: Corpus) -> str | None:
    path = source / "Transcripts" / f"{name}.txt"
    return read_text(path, corpus).strip() if path.is_file() else None


def _item(record: dict[str, str], audio: Path, split: SplitName, transcript: str | None) -> Item:
    code = record["EmoClass"]
    speaker = record["SpkrID"].strip()
    podcast = PODCAST.match(record["FileName"])
    extra = {
        "activation": _number(record, "EmoAct"),
        "valence": _number(record, "EmoVal"),
        "dominance": _number(record, "EmoDom"),
        "gender": record["Gender"],
        "podcast": podcast[1] if podcast else None,
    }
    return Item(
        Path(record["FileName"]).stem,
        audio / record["FileName"],
        LABELS.get(code, code),
        code,
        None if speaker.casefold() in ("", "unknown") else speaker,
        transcript,
        split=split,
        extra=extra,
    )


def _number(record: dict[str, str], column: str) -> float | None:
    """Return a number of the table; None if it is empty."""
    text = record[column].strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(f"{record['FileName']}: {column} must be a number, found {text!r}") from None
