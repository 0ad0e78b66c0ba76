"""The registry CORPORA: formats that `mervn import` reads, and the options that each has."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = (
    "id_column", "audio_column", "label_column", "speaker_column", "transcript_column", "split_column",
    "group_column", "start_column", "end_column", "channel_column",
)  # fmt: skip
COMMON = ("output", "protocol", "folds", "merge_labels")
"""Options that every format has."""


@dataclass(frozen=True)
class CorpusSpec:
    """Description of a format whose reader is not imported yet."""

    target: str
    """`module:function` of the reader, of the type `features.corpora.items.Read`."""
    source: str
    """Description of SOURCE."""
    options: tuple[str, ...] = ()
    """Options that only some formats have."""
    is_file: bool | None = False
    """Whether SOURCE is a file; None: a file or a folder."""


CORPORA: dict[str, CorpusSpec] = {
    "csv": CorpusSpec(
        "features.corpora.csv_table:read",
        "a table in UTF-8 with a header",
        ("audio_root", "speaker_pattern", "delimiter", *COLUMNS),
        is_file=True,
    ),
    "hf": CorpusSpec(
        "features.corpora.parquet:read",
        "Parquet files with an audio column, as on the Hugging Face Hub: ViSEC, LSVSC, CAMEO",
        ("audio_root", "speaker_pattern", "corpus", "subset", *COLUMNS),
        is_file=None,
    ),
    "vnemos": CorpusSpec(
        "features.corpora.vnemos:read",
        "the folder with train.jsonl, valid.jsonl and test.jsonl",
        ("audio_root", "speaker_pattern"),
    ),
    "iemocap": CorpusSpec("features.corpora.iemocap:read", "the folder with Session1 to Session5", ("classes",)),
    "meld": CorpusSpec("features.corpora.meld:read", "the folder with train_sent_emo.csv"),
    "crema-d": CorpusSpec("features.corpora.crema_d:read", "the folder with AudioWAV"),
    "ravdess": CorpusSpec("features.corpora.ravdess:read", "the folder with Actor_01 to Actor_24", ("vocal",)),
    "esd": CorpusSpec("features.corpora.esd:read", "the folder with 0001 to 0020", ("language",)),
    "msp-podcast": CorpusSpec("features.corpora.msp_podcast:read", "the folder with Labels and Audios", ("test_set",)),
    "emobox": CorpusSpec(
        "features.corpora.emobox:read",
        "the folder of a corpus in the data folder of EmoBox, with fold_1",
        ("audio_root", "speaker_pattern"),
    ),
}
