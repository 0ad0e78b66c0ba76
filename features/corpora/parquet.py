"""Data sets of the Hugging Face Hub as Parquet files with an audio column: ViSEC, LSVSC, CAMEO.

Layout: files such as data/train-00000-of-00002.parquet. The audio column holds the bytes of audio
files, which are written as they are beside the manifests.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from features.corpora.columns import SPLIT_NAMES, choose_columns, make_item
from features.corpora.hub_corpora import HUB_CORPORA
from features.corpora.items import Corpus, Item, Work
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError

AUDIO_FOLDER = "audio"
BATCH_SIZE = 64
"""Utterances that are in memory at once."""
FILE_NAME = re.compile(r"(.+?)-\d+-of-\d+(-\w+)?")
SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}
"""By first bytes of a file; for audio without a name."""


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read all files, or those of --subset; the name of a file gives the split.

    Raises UsageError without pyarrow, or if columns must be given. Raises InputError for files that
    are no Parquet files.
    """
    if find_spec("pyarrow") is None:
        raise UsageError("hf needs pyarrow: pip install 'mervn[import]'")
    files = _files(source, options)
    names = list(dict.fromkeys(files.values()))
    splits = {name: SPLIT_NAMES.get(name.casefold()) for name in names}
    audio = _AudioFolder(work.folder / AUDIO_FOLDER, work.reporter.progress(_count(files), 0, "audio"))
    items: list[Item] = []
    columns: dict[str, str] = {}
    for path, name in files.items():
        columns, found = _read_file(path, name, options, audio)
        items += [item if "split" in columns else replace(item, split=splits[name]) for item in found]
    audio.bar.close()
    corpus = Corpus(items, unit=columns.get("group", "speaker"))
    used = ", ".join(f"{field} = {column}" for field, column in columns.items())
    corpus.note("columns", f"columns: {used}; the others, without those of bytes, are kept as keys of the manifests")
    if "split" in columns:
        corpus.official = f"the splits of the column {columns['split']}"
    elif len(names) > 1 and None not in splits.values():
        corpus.official = f"the splits of the files: {', '.join(names)}"
    audio.report(corpus)
    if options.corpus is not None:
        HUB_CORPORA[options.corpus].report(corpus)
    return corpus


def _files(source: Path, options: ImportOptions) -> dict[Path, str]:
    """Return the files, and of each the name before -00000-of-00002; of 0000.parquet that of its folder."""
    paths = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    found = {}
    for path in paths:
        parts = FILE_NAME.fullmatch(path.stem)
        found[path] = parts[1] if parts else path.parent.name if path.stem.isdecimal() else path.stem
    if not found:
        raise InputError(f"{source} must have Parquet files, found none")
    unknown = sorted(set(options.subset) - set(found.values()))
    if unknown:
        raise UsageError(f"--subset must be of {', '.join(sorted(set(found.values())))}, found {', '.join(unknown)}")
    return {path: name for path, name in found.items() if not options.subset or name in options.subset}


def _read_file(path: Path, name: str, options: ImportOptions, audio: _AudioFolder) -> tuple[dict[str, str], list[Item]]:
    """Return the columns and the utterances of one file, and write its audio."""
    schema = _read_schema(path)
    structs, plain = _byte_columns(schema)
    candidates = structs or plain
    if options.audio_column is None and len(candidates) != 1:
        found = " and ".join(candidates) or "no column of bytes"
        raise UsageError(f"{path}: --audio-column must be given, because the file has {found}")
    chosen = options.audio_column or candidates[0]
    names = [each for each in schema.names if each == chosen or each not in (*structs, *plain)]
    columns = choose_columns(names, options, {"audio": chosen})
    classes = _class_names(schema, columns["label"])
    items: list[Item] = []
    for number, record in enumerate(_records(path, names), 1):
        _name_class(record, columns["label"], classes)
        items.append(_item(record, columns, _Origin(path, name, number), options, audio))
        audio.bar.update(1)
    return columns, items


def _count(paths: Collection[Path]) -> int:
    """Return the number of utterances, from the ends of the files."""
    from pyarrow import dataset

    for path in paths:
        _read_schema(path)
    count: int = dataset.dataset(list(map(str, paths)), format="parquet").count_rows()
    return count


def _read_schema(path: Path) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_schema(path)
    except (OSError, ArrowException) as error:
        raise InputError(f"{path} must be a Parquet file, but cannot be read: {error}") from error


def _byte_columns(schema: Any) -> tuple[list[str], list[str]]:
    """Return the columns of audio, which are structs with bytes, and those of plain bytes."""
    from pyarrow import types

    audio, plain = [], []
    for each in schema:
        if types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0:
            audio.append(each.name)
        elif types.is_binary(each.type) or types.is_large_binary(each.type):
            plain.append(each.name)
    return audio, plain


def _records(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; only `BATCH_SIZE` of them are in memory."""
    from pyarrow import ArrowException, parquet

    with parquet.ParquetFile(path) as file:
        batches = file.iter_batches(BATCH_SIZE, columns=names)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ArrowException) as error:
                raise InputError(f"{path} must be a complete Parquet file, but cannot be read: {error}") from error
            if batch is None:
                return
            yield from batch.to_pylist()


def _class_names(schema: Any, label: str) -> list[str] | None:
    """Return the names of labels that are stored as numbers, from the metadata of the data set."""
    text = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(text).get("info", {}).get("features", {}) if text else {}
    names = features.get(label, {}).get("names")
    return names if isinstance(names, list) else None


def _name_class(record: dict[str, Any], label: str, names: list[str] | None) -> None:
    """Replace the number of a label by its name; -1 means that there is none."""
    number = record[label]
    if names is not None and isinstance(number, int):
        record[label] = names[number] if 0 <= number < len(names) else None


@dataclass(frozen=True)
class _Origin:
    """Place of an utterance in the files."""

    path: Path
    name: str
    """Name of the file before -00000-of-00002."""
    number: int

    def __str__(self) -> str:
        return f"{self.path.name}: utterance {self.number}"


def _item(
    record: dict[str, Any], columns: Mapping[str, str], origin: _Origin, options: ImportOptions, audio: _AudioFolder
) -> Item:
    """Return an utterance, and write its audio if the file has the bytes."""
    value = record.pop(columns["audio"])
    if isinstance(value, str):
        value = {"path": value}
    elif not isinstance(value, dict):
        value = {"bytes": value}
    content, given = value.get("bytes"), value.get("path") or ""
    if content is None:
        root = options.audio_root or origin.path.parent
        item = make_item(record, columns, root / given, options, str(origin))
    else:
        wav_path = audio.write(content, given, origin)
        item = make_item(record, columns, audio.folder.parent / wav_path, options, str(origin))
        item = replace(item, wav_path=wav_path, sha256=hashlib.sha256(content).hexdigest())
    subset = {} if origin.name.casefold() in SPLIT_NAMES else {"subset": origin.name}
    return replace(item, extra={**item.extra, **subset})


@dataclass
class _AudioFolder:
    """Writes the audio of a data set into a folder, and counts its formats."""

    folder: Path
    bar: Any
    """Progress bar of the utterances."""
    taken: set[str] = field(default_factory=set)
    formats: Counter[str] = field(default_factory=Counter)
    renamed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def write(self, content: bytes, given: str, origin: _Origin) -> str:
        """Write the bytes of a file and return its path in the data folder.

        `given` is its path in the data set, which can be empty or be that of another utterance.
        """
        file = PurePosixPath(given.replace("\\", "/")).name
        if file in ("", "..") or not file.isprintable():
            file = f"{origin.name}-{len(self.taken) + 1:06d}{_suffix(content)}"
        free = self._free(file)
        if free != file:
            self.renamed.append(f"{file} -> {free}")
        self.taken.add(free.casefold())  # some file systems ignore case
        wav_path = f"{AUDIO_FOLDER}/{free}"
        path = self.folder.parent / wav_path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)  # the whole folder appears at once
        self._count(content, str(origin))
        return wav_path

    def _free(self, file: str) -> str:
        """Return the name, or the name with a number if another file has it."""
        stem, suffix = PurePosixPath(file).stem, PurePosixPath(file).suffix
        number = len(self.taken) + 1
        while file.casefold() in self.taken:
            file = f"{stem}-{number:06d}{suffix}"
            number += 1
        return file

    def _count(self, content: bytes, place: str) -> None:
        """Count the format of a file by its header."""
        import soundfile

        try:
            info = soundfile.info(io.BytesIO(content))
        except soundfile.LibsndfileError:
            self.unreadable.append(place)
        else:
            self.formats[f"{info.subtype} at {info.samplerate} Hz with {info.channels} channels"] += 1

    def report(self, corpus: Corpus) -> None:
        """Add findings about the files that were written."""
        if len(self.formats) > 1:
            found = ", ".join(f"{count} {kind}" for kind, count in self.formats.most_common())
            corpus.note("audio_formats", f"the audio has several formats: {found}")
        if self.renamed:
            message = f"{len(self.renamed)} audio files have the name of an earlier one and got a number"
            corpus.warn("repeated_names", message, self.renamed)
        if self.unreadable:
            message = f"{len(self.unreadable)} audio files cannot be read; they will be rejected by an extraction"
            corpus.warn("unreadable_audio", message, self.unreadable)


def _suffix(content: bytes) -> str:
    """Return the suffix for the bytes of an audio file."""
    for start, suffix in SUFFIXES.items():
        if content.startswith(start):
            return suffix
    return ".bin"
