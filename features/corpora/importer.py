"""Import of a corpus: reads it, renames its labels, and writes manifests, folds and findings."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from features.atomic_files import sync, temporary_beside, write_json, write_jsonl
from features.config import SPLITS
from features.corpora.checks import check_items, check_protocol
from features.corpora.items import Corpus, Finding, Item, Read, Work
from features.corpora.label_aliases import is_missing, known_label, rename_labels
from features.corpora.options import ImportOptions
from features.corpora.protocol import Protocol, choose_protocol
from features.corpora.registry import COMMON, CORPORA
from features.errors import InputError, UsageError, name_some
from features.lazy_import import import_target
from features.manifests.field_names import FIELDS
from features.manifests.fields import parse_fields
from features.progress import SILENT, Reporter
from features.regular_files import other_kind
from features.suggestions import did_you_mean

SCHEMA = 1
RECORD_FILE = "import.json"
"""Format, options, labels and every finding of an import."""
NO_LABEL = "without a label"
NO_AUDIO = "without an audio file"


@dataclass(frozen=True)
class ImportResult:
    """Summary of an import."""

    path: Path
    utterances: dict[str, int]
    """Number of utterances by split."""
    speakers: dict[str, int]
    """Number of known speakers by split."""
    labels: dict[str, dict[str, int]]
    """By label the number of utterances of each spelling of the corpus."""
    protocol: str
    num_folds: int
    """0: splits only."""
    left_out: dict[str, list[str]]
    """Reason -> utterances that are in no manifest."""
    findings: list[Finding]


def import_corpus(name: str, source: Path, options: ImportOptions, reporter: Reporter = SILENT) -> ImportResult:
    """Write the manifests and folds of a corpus in a format of `CORPORA` into a new folder.

    The folder appears only when it is complete. Audio stays in place, except of Parquet files.

    Raises UsageError for an unknown format, options that it does not have, a missing source, or a
    folder that is not empty. Raises InputError if the files are not those of the format.
    """
    read = _check(name, source, options)
    output = options.output
    temporary = temporary_beside(Path(os.path.abspath(output)))  # noqa: PTH100 - resolve() would follow links
    temporary.mkdir(parents=True)
    try:
        reporter.say(f"reading {source}")
        corpus = read(source, options, Work(temporary, reporter))
        result = _write(corpus, temporary, options)
        _write_record(temporary, result, name, source, options)
        sync(temporary)
        if output.exists():
            output.rmdir()  # it is empty
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return result


def _check(name: str, source: Path, options: ImportOptions) -> Read:
    """Return the reader of a format; raise UsageError if the command cannot be meant so."""
    spec = CORPORA.get(name)
    if spec is None:
        known = ", ".join(CORPORA)
        raise UsageError(f"FORMAT must be one of {known}, found {name!r}{did_you_mean(name, CORPORA)}")
    for option in sorted(options.given - {*COMMON, *spec.options}):
        raise UsageError(f"--{option.replace('_', '-')} has no effect on {name}; remove it")
    if not source.exists():
        raise UsageError(f"SOURCE must be {spec.source}, but {source} does not exist")
    kind = other_kind(source) or "a file"
    wanted = {"a file": spec.is_file in (True, None), "a folder": spec.is_file in (False, None)}
    if not wanted.get(kind):
        raise UsageError(f"SOURCE must be {spec.source}, found {kind}: {source}")
    if options.audio_root is not None and not options.audio_root.is_dir():
        raise UsageError(f"--audio-root must be a folder, but {options.audio_root} does not exist")
    output = options.output
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UsageError(f"--output must be missing or an empty folder, found {output}; remove it or choose another")
    read: Read = import_target(spec.target)
    return read


def _write(corpus: Corpus, folder: Path, options: ImportOptions) -> ImportResult:
    """Write the manifests and folds of a corpus into a folder that will become the output."""
    _leave_out_unusable(corpus)
    corpus.items = _without_duplicates(corpus)
    corpus.items = _rename(corpus, options)
    protocol = choose_protocol(corpus, options)
    findings = [*corpus.findings, *check_items(corpus.items), *protocol.findings]
    findings += check_protocol(protocol, corpus.items, corpus.unit)
    root = options.output.resolve()
    for split in SPLITS:
        lines = [_line(item, root) for item in protocol.splits[split]]
        _check_lines(lines)
        write_jsonl(folder / f"{split}.jsonl", lines)
    if protocol.folds:
        write_json(folder / f"folds-{len(protocol.folds)}.json", {"schema": 1, "folds": protocol.folds})
    return _summary(corpus, protocol, findings, options.output)


def _leave_out_unusable(corpus: Corpus) -> None:
    """Leave out items without label or audio file; raise InputError if no other is left."""
    kept = []
    missing = []
    for item in corpus.items:
        if is_missing(item.label):
            corpus.leave_out(NO_LABEL, item.utterance_id)
        elif not item.audio.is_file():
            corpus.leave_out(NO_AUDIO, item.utterance_id)
            missing.append(str(item.audio))
        else:
            kept.append(item)
    if not kept:
        what = f", such as {missing[0]}" if missing else ""
        reasons = ", ".join(f"{len(names)} {reason}" for reason, names in corpus.left_out.items())
        raise InputError(
            f"the corpus must have utterances with label and audio file, found {reasons or 'no utterance'}{what}"
        )
    corpus.items = kept


def _without_duplicates(corpus: Corpus) -> list[Item]:
    """Return the items without repetitions of an id; raise InputError if two contradict each other."""
    first: dict[str, Item] = {}
    repeated, faults = [], []
    for item in corpus.items:
        before = first.setdefault(item.utterance_id, item)
        if before is item:
            continue
        repeated.append(item.utterance_id)
        same_audio = before.audio == item.audio or filecmp.cmp(before.audio, item.audio, shallow=False)
        if not (same_audio and replace(before, audio=item.audio, wav_path=item.wav_path, extra=item.extra) == item):
            faults.append(f"{item.utterance_id!r} for {before.audio} and {item.audio}")
    if faults:
        raise InputError(
            "an utterance id must have one audio, label, speaker, transcript and split, found "
            f"{name_some(faults)}; correct the corpus, or give another --id-column (csv, hf), such as that of the paths"
        )
    if repeated:
        corpus.warn("duplicate_id", f"{len(repeated)} ids occur again with the same audio and label", repeated)
    return list(first.values())


def _rename(corpus: Corpus, options: ImportOptions) -> list[Item]:
    """Return the items with labels in one spelling, and report unknown labels."""
    words = [str(item.label) for item in corpus.items]
    renamed = rename_labels(words, options.merge_labels)
    for label in sorted(set(words)):
        if known_label(label) is None:
            corpus.note("label_unknown", f"the label {label!r} is not in the list of known labels; it stays as it is")
    items = []
    for item in corpus.items:
        items.append(replace(item, label=renamed[str(item.label)], code=item.source_label))
    return items


_resolved = lru_cache(maxsize=4096)(Path.resolve)


def _line(item: Item, root: Path) -> dict[str, Any]:
    """Return the line of a manifest; `root` is the absolute path of its folder."""
    # the file itself may be a link, such as in a cache; its name must stay
    wav_path = item.wav_path or os.path.relpath(_resolved(item.audio.parent) / item.audio.name, root)
    line: dict[str, Any] = {
        "utterance_id": item.utterance_id,
        "speaker_id": item.speaker_id,
        "wav_path": wav_path,
        "transcript": item.transcript,
        "emotion": item.label,
        "source_label": item.source_label,
    }
    for key in ("start", "end", "channel"):
        value = getattr(item, key)
        if value is not None:
            line[key] = value
    for key, value in item.extra.items():
        line[f"source_{key}" if key in FIELDS or key in line else key] = value
    return line


def _check_lines(lines: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError if a line would not be valid in a manifest."""
    faults = []
    for line in lines:
        for fault in parse_fields(line).faults:
            faults.append(f"{line['utterance_id']}: {fault}")
        start, end = line.get("start") or 0.0, line.get("end")
        if isinstance(end, float | int) and end <= start:
            faults.append(f"{line['utterance_id']}: end must be greater than start, found start={start} end={end}")
    if faults:
        raise InputError(name_some(faults, "\n"))


def _summary(corpus: Corpus, protocol: Protocol, findings: list[Finding], output: Path) -> ImportResult:
    utterances: dict[str, int] = {}
    speakers: dict[str, int] = {}
    for split, items in protocol.splits.items():
        utterances[split] = len(items)
        speakers[split] = len({item.speaker_id for item in items} - {None})
    labels: dict[str, Counter[str]] = {}
    for item in corpus.items:
        labels.setdefault(str(item.label), Counter())[str(item.source_label)] += 1
    by_label = {label: dict(sorted(labels[label].items())) for label in sorted(labels)}
    return ImportResult(
        output, utterances, speakers, by_label, protocol.text, len(protocol.folds), corpus.left_out, findings
    )


def _write_record(folder: Path, result: ImportResult, name: str, source: Path, options: ImportOptions) -> None:
    document = asdict(result) | {"schema": SCHEMA, "format": name, "source": str(source)}
    del document["path"]
    document["options"] = options.model_dump(mode="json", include=set(options.model_fields_set))
    write_json(folder / RECORD_FILE, document)
