"""MELD (Poria et al. 2019): dialogues of a television series, with official splits.

Layout: {train,dev,test}_sent_emo.csv, and one file diaD_uttU per utterance in the folders
train_splits, dev_splits_complete and output_repeated_splits_test.
"""

from __future__ import annotations

from pathlib import Path

from features.config import SplitName
from features.corpora.csv_table import read_table
from features.corpora.items import AUDIO_SUFFIXES, Corpus, Item, KnownFault, Work, find_audio
from features.corpora.options import ImportOptions
from features.errors import InputError

TABLES: dict[SplitName, str] = {"train": "train", "valid": "dev", "test": "test"}
FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train_splits",),
    "valid": ("dev_splits_complete", "dev_splits"),
    "test": ("output_repeated_splits_test", "test_splits"),
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
NUM_UTTERANCES: dict[SplitName, int] = {"train": 9989, "valid": 1109, "test": 2610}
"""Number of lines of each published table, before utterances without audio are left out."""
KNOWN = (
    KnownFault("dia125_utt3", "corrupt", "train"),
    KnownFault("dia309_utt0", "wrongly cut", "train"),
    KnownFault("dia110_utt7", "missing in the release", "valid"),
    KnownFault("dia38_utt4", "wrongly cut", "test"),
    KnownFault("dia220_utt0", "wrongly cut", "test"),
)


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the three tables; ids begin with the split, because dialogues are numbered anew in each.

    Raises InputError if a table or folder is missing, or if the audio is still in videos.
    """
    corpus = Corpus([], official="the official splits; dev is valid")
    for split, name in TABLES.items():
        table = _find(source, [f"{name}_sent_emo.csv"], name)
        audio = _find(source, FOLDERS[split], name)
        items = _read_split(table, audio, split)
        corpus.expect(NUM_UTTERANCES[split], len(items), f"lines of {split}")
        _check_videos(items, corpus)
        stems = {item.audio.stem for item in items}
        unlisted = [path.name for path in sorted(audio.iterdir()) if _is_audio(path) and path.stem not in stems]
        if unlisted:
            corpus.note("unlisted_audio", f"{len(unlisted)} audio files of {split} have no line in the table", unlisted)
        corpus.items += items
    corpus.report_known(KNOWN)
    damaged = [item.utterance_id for item in corpus.items if _has_control(item.transcript or "")]
    if damaged:
        message = f"{len(damaged)} transcripts have control characters in place of quotation marks or dashes"
        corpus.warn("transcript_controls", message, damaged)
    corpus.note("shared_speakers", "the main speakers of the series are in every split: scores are not of new speakers")
    return corpus


def _find(source: Path, names: tuple[str, ...] | list[str], split: str) -> Path:
    """Return a file or folder in the source, or in its folder of the split."""
    for name in names:
        for path in (source / name, source / split / name):
            if path.exists():
                return path
    raise InputError(f"{source} must have {' or '.join(names)}, also in its folder {split}, found neither")


def _read_split(table: Path, audio: Path, split: SplitName) -> list[Item]:
    header, *records = read_table(table, ",")
    lacking = [column for column in COLUMNS if column not in header[1]]
    if lacking:
        raise InputError(f"{table} must have the columns {', '.join(COLUMNS)}, but lacks {', '.join(lacking)}")
    items = []
    for _, values in records:
        record = dict(zip(header[1], values, strict=True))
        stem = f"dia{record['Dialogue_ID']}_utt{record['Utterance_ID']}"
        extra = {
            "dialogue": f"{split}_dia{record['Dialogue_ID']}",
            "sentiment": record["Sentiment"],
            "season": record["Season"],
            "episode": record["Episode"],
        }
        items.append(
            Item(
                f"{split}_{stem}",
                find_audio(audio, stem),
                record["Emotion"],
                speaker_id=record["Speaker"].strip() or None,
                transcript=record["Utterance"],
                split=split,
                extra=extra,
            )
        )
    return items


def _check_videos(items: list[Item], corpus: Corpus) -> None:
    """Report videos whose audio is not extracted; raise InputError if there is no audio at all."""
    lacking = [item for item in items if not item.audio.exists()]
    videos = [item for item in lacking if item.audio.with_suffix(".mp4").exists()]
    if videos and len(lacking) == len(items):
        example = videos[0].audio.with_suffix(".mp4")
        raise InputError(
            f"audio must be WAV or FLAC beside the videos, found {len(videos)} videos without it, such as {example}; "
            "extract it, for example with: ffmpeg -i dia0_utt0.mp4 -vn dia0_utt0.wav"
        )
    if videos:
        names = [item.utterance_id for item in videos]
        corpus.warn("video_without_audio", f"{len(videos)} videos have no audio file beside them", names)


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _has_control(text: str) -> bool:
    """Tell whether a text has a C1 control character: a letter of Windows-1252 that was read as Latin-1."""
    return any("\x80" <= character <= "\x9f" for character in text)
