"""ESD (Zhou et al. 2021): 10 Chinese and 10 English speakers, 350 sentences in 5 emotions.

Layout: 0001/0001.txt (transcripts) and 0001/Angry/{train,evaluation,test}/0001_000351.wav; some
archives lack the folders of the splits.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from features.config import SplitName
from features.corpora.items import Corpus, Item, Work
from features.corpora.label_aliases import known_label
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError

LABELS = ("Angry", "Happy", "Neutral", "Sad", "Surprise")
SPLIT_FOLDERS: dict[str, SplitName] = {"train": "train", "evaluation": "valid", "test": "test"}
LAST_CHINESE = 10
"""Speakers 0001 to 0010 speak Chinese, 0011 to 0020 English."""
NUM_PER_SPEAKER = 1750
NAME = re.compile(r"\d{4}_\d{6}")
LINE = re.compile(r"(\d{4}_\d{6})\s+(.*\S)\s+(\S+)")


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the speakers of a language; the folder gives the label.

    Raises UsageError without --language, InputError if no speaker of it is found, or if only some
    files are in folders of splits.
    """
    if options.language is None:
        raise UsageError("esd needs --language chinese, english or all: its speakers speak one of two languages")
    corpus = Corpus([])
    speakers = [path for path in sorted(source.glob("[0-9][0-9][0-9][0-9]")) if path.is_dir()]
    for speaker in speakers:
        language = "chinese" if int(speaker.name) <= LAST_CHINESE else "english"
        if options.language in ("all", language):
            _read_speaker(speaker, language, corpus)
    if not corpus.items:
        raise InputError(
            f"{source} must have folders 0001 to 0020 with audio of --language {options.language}, found none"
        )
    with_split = sum(item.split is not None for item in corpus.items)
    if 0 < with_split < len(corpus.items):
        found = f"{with_split} of {len(corpus.items)}"
        raise InputError(f"all files of {source} must be in train, evaluation or test, or none, found {found}")
    if with_split:
        corpus.official = "the official splits; evaluation is valid, and every speaker is in every split"
    else:
        corpus.note("no_official_splits", "the files are not in folders of the official splits")
    corpus.note("parallel_sentences", "the speakers of a language speak the same 350 sentences in every emotion")
    return corpus


def _read_speaker(speaker: Path, language: str, corpus: Corpus) -> None:
    transcripts = _read_transcripts(speaker / f"{speaker.name}.txt", corpus)
    count, other = 0, []
    for audio in sorted(speaker.rglob("*.wav")):
        parts = audio.relative_to(speaker).parts
        split = SPLIT_FOLDERS.get(parts[1]) if len(parts) == 3 else None
        is_placed = len(parts) == 2 or split is not None
        if parts[0] not in LABELS or not is_placed or NAME.fullmatch(audio.stem) is None:
            other.append(str(audio))
            continue
        count += 1
        text, label = transcripts.get(audio.stem, (None, None))
        if label is not None and known_label(label) != known_label(parts[0]):
            message = f"{audio.stem} is in the folder {parts[0]}, but its transcript says {label}; the folder counts"
            corpus.warn("conflicting_labels", message, [audio.stem])
        extra = {"language": language}
        corpus.items.append(Item(audio.stem, audio, parts[0], None, speaker.name, text, split=split, extra=extra))
    if other:
        corpus.warn(
            "other_files", f"{len(other)} files of {speaker.name} have other names or folders and are left out", other
        )
    corpus.expect(NUM_PER_SPEAKER, count, f"utterances of speaker {speaker.name}")


def _read_transcripts(path: Path, corpus: Corpus) -> dict[str, tuple[str, str]]:
    """Return text and label of each utterance; UTF-8, UTF-16 with a mark, else GB 18030."""
    if not path.is_file():
        corpus.warn("no_transcripts_of_speaker", f"{path.stem} has no file of transcripts", [str(path)])
        return {}
    content = path.read_bytes()
    # without a byte order mark nearly any bytes are valid UTF-16
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        encoding = "gb18030"
        text = content.decode(encoding, errors="replace")
    if encoding != "utf-8-sig":
        corpus.warn("encoding", f"{path.name} is in {encoding}, not in UTF-8", [str(path)])
    return _parse(text, path, corpus)


def _parse(text: str, path: Path, corpus: Corpus) -> dict[str, tuple[str, str]]:
    found, other = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        parts = LINE.fullmatch(line.strip())
        if parts is not None:
            found[parts[1]] = (parts[2], parts[3])
        elif line.strip():
            other.append(f"{path.name}:{number}")
    if other:
        corpus.warn("other_lines", f"{len(other)} lines of {path.name} are not: id, text, label", other)
    return found
