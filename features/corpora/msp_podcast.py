"""MSP-Podcast (Lotfian, Busso 2019): podcasts with an official partition by speaker.

Layout: Labels/labels_consensus.csv with Split_Set, Audios/NAME.wav (older releases: Audio/), and
Transcripts/NAME.txt.
"""

from __future__ import annotations

from pathlib import Path

from features.config import SplitName
from features.corpora.csv_table import read_table
from features.corpora.items import Corpus, Item
from features.corpora.options import ImportOptions
from features.errors import InputError

LABELS = {
    "A": "angry", "S": "sad", "H": "happy", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt",
    "N": "neutral", "O": "other",
}  # fmt: skip
NO_AGREEMENT = "X"
SPLITS: dict[str, SplitName] = {"train": "train", "development": "valid", "validation": "valid"}
COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def read(source: Path, options: ImportOptions, folder: Path) -> Corpus:
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
            corpus.items.append(_item(record, audio, source / "Transcripts" / f"{name}.txt", split))
    return corpus


def _item(record: dict[str, str], audio: Path, transcript: Path, split: SplitName) -> Item:
    code = record["EmoClass"]
    speaker = record["SpkrID"].strip()
    extra = {
        "activation": float(record["EmoAct"]),
        "valence": float(record["EmoVal"]),
        "dominance": float(record["EmoDom"]),
        "gender": record["Gender"],
    }
    return Item(
        Path(record["FileName"]).stem,
        audio / record["FileName"],
        LABELS.get(code, code),
        code,
        None if speaker.casefold() in ("", "unknown") else speaker,
        transcript.read_text("utf-8", errors="replace").strip() if transcript.is_file() else None,
        split=split,
        extra=extra,
    )
