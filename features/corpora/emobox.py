"""EmoBox (Ma et al. 2024): folds of many corpora as JSON lines.

Layout of a corpus, such as data/cafe: fold_1/cafe_{train,valid,test}_fold_1.jsonl, label_map.json
and data.seg.wrd.stm with the speakers. Audio paths begin with downloads/.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.atomic_files import read_object
from features.config import SPLITS
from features.corpora.items import Corpus, Fold, Item, Work, read_text
from features.corpora.options import ImportOptions
from features.corpora.protocol import hold_out, valid_made
from features.errors import InputError

KEYS = ("key", "wav", "emo")
FOLD_FOLDER = re.compile(r"fold_(\d+)")


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read all folds; audio paths are relative to --audio-root, else to the folder of EmoBox.

    Folds without a valid split take the test split of the next fold as valid. A single fold takes a
    fifth of the speakers of train.

    Raises InputError if a file of a fold is missing or damaged, or if an utterance differs between
    folds.
    """
    numbers = sorted(int(each[1]) for path in source.iterdir() if (each := FOLD_FOLDER.fullmatch(path.name)))
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise InputError(f"{source} must have the folders fold_1 to fold_K, found {numbers or 'none'}")
    labels = _read_labels(source / "label_map.json")
    root = options.audio_root or source.resolve().parent.parent
    corpus = Corpus([])
    items: dict[str, Item] = {}
    folds: list[Fold] = []
    for number in numbers:
        fold: Fold = {}
        for split in SPLITS:
            path = _fold_file(source / f"fold_{number}", split)
            if path is None and split != "valid":
                raise InputError(f"{source}/fold_{number} must have a {split} file, NAME_{split}_fold_{number}.jsonl")
            names = Counter([] if path is None else _read_file(path, root, labels, items))
            fold[split] = list(names)
            repeated = [name for name, count in names.items() if count > 1]
            if repeated:
                corpus.warn("duplicate_id", f"{len(repeated)} ids occur again in {split} of fold {number}", repeated)
        folds.append(fold)
    corpus.items = list(items.values())
    speakers = _read_speakers(source / "data.seg.wrd.stm", corpus)
    for number, item in enumerate(corpus.items):
        speaker = options.find_speaker(item.utterance_id) or speakers.get(item.utterance_id)
        corpus.items[number] = replace(item, speaker_id=speaker)
    corpus.folds = folds
    corpus.official = f"the {len(folds)} folds of EmoBox"
    _complete(corpus)
    return corpus


def _fold_file(folder: Path, split: str) -> Path | None:
    found = sorted(folder.glob(f"*_{split}_fold_*.jsonl"))
    return found[0] if found else None


def _read_labels(path: Path) -> Mapping[str, str]:
    labels = read_object(path, "the labels of an EmoBox corpus") if path.is_file() else {}
    for code, label in labels.items():
        if not _is_value(label):
            raise InputError(f"{path}: each label must be a word, found {label!r} for {code!r}")
    return {code: str(label) for code, label in labels.items()}


def _is_value(value: Any) -> bool:
    """Tell whether a value of JSON is a word or a whole number; some corpora number their labels."""
    return bool(str(value).strip()) and isinstance(value, str | int) and not isinstance(value, bool)


def _read_speakers(path: Path, corpus: Corpus) -> dict[str, str]:
    """Return the speaker of each utterance: the third word of its line."""
    found = {}
    if path.is_file():
        for line in read_text(path, corpus).splitlines():
            words = line.split()
            if len(words) > 3:
                found[words[0]] = words[2]
    return found


def _read_file(path: Path, root: Path, labels: Mapping[str, str], items: dict[str, Item]) -> list[str]:
    """Add the utterances of a file and return their ids."""
    names = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: must be one JSON object: {error}") from error
        lacking = [key for key in KEYS if not isinstance(entry, dict) or not _is_value(entry.get(key))]
        if lacking:
            raise InputError(f"{path}:{number}: must have {', '.join(KEYS)}, but lacks {', '.join(lacking)}")
        code = str(entry["emo"])
        times = {"start": entry.get("start_time"), "end": entry.get("end_time")}
        item = Item(str(entry["key"]), root / str(entry["wav"]), labels.get(code, code), code, **times)
        if items.setdefault(item.utterance_id, item) != item:
            raise InputError(f"{path}:{number}: {item.utterance_id} differs from its line in another file")
        names.append(item.utterance_id)
    return names


def _complete(corpus: Corpus) -> None:
    """Give each fold without a valid split one that comes from its train split."""
    folds = corpus.folds
    lacking = [number for number, fold in enumerate(folds) if not fold["valid"]]
    if not lacking:
        return
    if len(folds) == 1:
        names = set(folds[0]["train"])
        train = [item for item in corpus.items if item.utterance_id in names]
        valid, rest = hold_out(train, corpus.unit)
        folds[0]["valid"] = [item.utterance_id for item in valid]
        folds[0]["train"] = [item.utterance_id for item in rest]
        corpus.findings.append(valid_made(len(valid), corpus.unit))
        return
    for number in lacking:
        fold, following = folds[number], set(folds[(number + 1) % len(folds)]["test"])
        fold["valid"] = [name for name in fold["train"] if name in following]
        fold["train"] = [name for name in fold["train"] if name not in following]
    which = "" if len(lacking) == len(folds) else f" in {len(lacking)} of {len(folds)} folds"
    message = f"EmoBox has no valid split here{which}: the test split of the next fold became it"
    corpus.note("valid_made", message)
