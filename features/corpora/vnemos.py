"""VNEMOS: 250 Vietnamese clips of films and shows in 5 emotions, with official splits.

Layout: train.jsonl, valid.jsonl and test.jsonl in the format of manifests, beside or below the
folder of the audio.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from features.config import SPLITS
from features.corpora.items import Corpus, Item, Work
from features.corpora.label_aliases import ALIASES, known_label
from features.corpora.options import ImportOptions
from features.errors import UsageError
from features.manifests.manifest import Utterance, read_manifests

NUM_UTTERANCES = 250
EDGES = " _-"
SEGMENT = re.compile(r"[\s_-]*(seg|part|clip|_)?[\s_-]*\(?\d+\)?$", re.IGNORECASE)
"""The end of an utterance id that numbers the segments of a film."""


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the manifests; the film of an utterance is its id without the number of the segment.

    A speaker that is only the name of the file, or the id, counts as unknown.

    Raises InputError for manifests that are not valid, UsageError if no folder has their audio.
    """
    manifests = read_manifests(source, SPLITS, require_emotion=False, check_audio=False)
    utterances = list(manifests.all_utterances())
    root = options.audio_root or _audio_root(source, utterances)
    corpus = Corpus([], unit="film", official="the official splits")
    named_after_file = []
    for utterance in utterances:
        item = _item(utterance, root, options)
        if item.speaker_id in (utterance.utterance_id, item.audio.stem, item.audio.name):
            named_after_file.append(item.utterance_id)
            item = replace(item, speaker_id=None)
        corpus.items.append(item)
    if named_after_file:
        message = f"{len(named_after_file)} speakers are names of files: they count as unknown"
        corpus.warn("speaker_is_utterance", message, named_after_file)
    corpus.expect(NUM_UTTERANCES, len(corpus.items), "utterances")
    films = len({item.group for item in corpus.items})
    corpus.note(
        "films", f"{films} films, from ids without segment number and label; check them before you rely on them"
    )
    corpus.note("transcripts_by_asr", "transcripts come from speech recognition, not from listeners")
    return corpus


def _audio_root(source: Path, utterances: list[Utterance]) -> Path:
    """Return the folder that audio paths are relative to: that of the manifests, or the one above."""
    for root in (source, source.resolve().parent):
        if any((root / _portable(utterance)).is_file() for utterance in utterances):
            return root
    example = utterances[0].wav_path
    raise UsageError(f"the audio must be below {source} or the folder above, found no file such as {example}; "
                     "give --audio-root")  # fmt: skip


def _portable(utterance: Utterance) -> PurePosixPath:
    """Return the path of the audio; some manifests have backslashes."""
    return PurePosixPath(utterance.wav_path.replace("\\", "/"))


def _item(utterance: Utterance, root: Path, options: ImportOptions) -> Item:
    name = utterance.utterance_id
    film = film_of(name, utterance.emotion)
    return Item(
        utterance_id=name,
        audio=root / _portable(utterance),
        label=utterance.emotion,
        speaker_id=options.find_speaker(name) or utterance.speaker_id,
        transcript=utterance.transcript,
        start=utterance.start or None,
        end=utterance.end,
        channel=None if utterance.channel == "mix" else utterance.channel,
        split=utterance.split,  # type: ignore[arg-type]
        group=film,
        extra={**utterance.extra, "film": film},
    )


def film_of(utterance_id: str, label: str | None) -> str:
    """Return an id without the number of the segment, and without its label at the beginning or end."""
    film = SEGMENT.sub("", utterance_id)
    known = known_label(label) if label else None
    spellings = [label or "", *([known, *ALIASES[known]] if known else [])]
    for spelling in sorted(filter(None, spellings), key=len, reverse=True):
        words = re.escape(spelling)
        film = re.sub(rf"^{words}(?=[{EDGES}])|(?<=[{EDGES}]){words}$", "", film, flags=re.IGNORECASE).strip(EDGES)
    return SEGMENT.sub("", film) or utterance_id
