"""Corrupted transcripts: exchanged tone marks, or the output of speech recognition."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from features.canonical import canonical_json
from features.device import to_device
from features.errors import MAX_NAMED, InputError, UsageError
from features.extraction.encoder_input import transcript_of
from features.manifests.manifest import Utterance
from features.ragged import Ragged
from features.random_streams import Purpose, generator
from features.text.normalize import syllables
from features.text.tones import exchange_tones
from mervn.data.changed_split import ChangedSplit
from mervn.data.split import Lengths, Split
from mervn.data.streams import modality_of

ASR_KEY = "transcript_asr"
"""Manifest key of the output of speech recognition."""
TextReader = Callable[[Sequence[Utterance], torch.device], list[torch.Tensor]]
"""Function from N utterances to the input of a head or text encoder for each transcript, (T, ...)."""


@dataclass(frozen=True)
class Corruption:
    """The same N utterances with other transcripts."""

    kind: str
    """tones or asr."""
    original: Sequence[Utterance]
    utterances: Sequence[Utterance]

    @cached_property
    def changed(self) -> int:
        """Number of utterances whose transcript differs."""
        pairs = zip(self.original, self.utterances, strict=True)
        return sum(transcript_of(before) != transcript_of(after) for before, after in pairs)

    @cached_property
    def syllable_error_rate(self) -> float | None:
        """Insertions, deletions and substitutions per syllable of the original transcripts.

        None if these have no syllables.
        """
        errors, count = 0, 0
        for before, after in zip(self.original, self.utterances, strict=True):
            expected = syllables(transcript_of(before))
            errors += edit_distance(expected, syllables(transcript_of(after)))
            count += len(expected)
        return errors / count if count else None


def corrupt(utterances: Sequence[Utterance], kind: str) -> Corruption:
    """Return the utterances with corrupted transcripts.

    `tones` gives every syllable with a tone mark another one (`exchange_tones`); the draws depend
    on the utterance id alone. `asr` takes the transcripts of the key transcript_asr; InputError if
    an utterance lacks it.
    """
    if kind == "asr":
        _refuse_without_asr(utterances)
    changed = []
    for utterance in utterances:
        text = str(utterance.extra[ASR_KEY]) if kind == "asr" else _with_other_tones(utterance)
        changed.append(replace(utterance, transcript=text))
    return Corruption(kind, utterances, changed)


def _with_other_tones(utterance: Utterance) -> str:
    """Return the normalized transcript with exchanged tone marks."""
    digest = hashlib.sha256(utterance.utterance_id.encode("utf-8", "surrogatepass")).digest()
    random = generator(Purpose.TONES, int.from_bytes(digest[:8], "big"))
    return exchange_tones(transcript_of(utterance), random)


def _refuse_without_asr(utterances: Sequence[Utterance]) -> None:
    """Raise InputError if an utterance has no text under the key of speech recognition."""
    lacking = [one for one in utterances if not isinstance(one.extra.get(ASR_KEY), str)]
    if lacking:
        places = [f"{one.file}:{one.line} {one.utterance_id!r}" for one in lacking[:MAX_NAMED]]
        raise InputError(
            f"--corrupt asr needs the key {ASR_KEY} with the output of speech recognition (text; empty if nothing "
            f"was recognised), but {len(lacking)} of {len(utterances)} utterances of {lacking[0].split} lack it: "
            f"{', '.join(places)}{', ...' if len(lacking) > MAX_NAMED else ''}"
        )


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the minimum number of insertions, deletions and substitutions (Levenshtein 1966)."""
    before = list(range(len(second) + 1))
    for number, one in enumerate(first, 1):
        now = [number]
        for place, other in enumerate(second, 1):
            now.append(min(before[place] + 1, now[place - 1] + 1, before[place - 1] + (one != other)))
        before = now
    return before[-1]


class CorruptedText(ChangedSplit):
    """The utterances of another split, in the same batches, with the text of other transcripts.

    Implements `Split`. `utterances` are those of the manifest, with their own transcripts.
    """

    def __init__(self, split: Split, corruption: Corruption, text: Sequence[torch.Tensor]) -> None:
        """`text`: the text stream of each utterance, (T, ...)."""
        super().__init__(split)
        self.corruption, self.text = corruption, text

    @property
    def change(self) -> str:
        """Text of the change: the kind of corruption, and a hash of the transcripts."""
        texts = canonical_json({"transcripts": list(map(transcript_of, self.corruption.utterances))})
        return f"corrupt {self.corruption.kind} {hashlib.sha256(texts.encode()).hexdigest()}"

    @property
    def lengths(self) -> Mapping[str, Lengths]:
        """Frames or tokens of each utterance, by stream."""
        found: dict[str, Lengths] = {}
        for name, sizes in self.split.lengths.items():
            found[name] = list(map(len, self.text)) if modality_of(name) == "text" else sizes
        return found

    def changed(self, streams: Mapping[str, Ragged], indices: Sequence[int]) -> dict[str, Ragged]:
        """Return the streams with the text of the other transcripts."""
        found = dict(streams)
        for name, stream in streams.items():
            if modality_of(name) == "text":
                values = torch.cat([self.text[i] for i in indices])
                values = to_device(values, stream.values.device).to(stream.values.dtype)
                found[name] = Ragged.from_lengths(values, [len(self.text[i]) for i in indices])
        return found


def refuse_corruption(run: object, streams: Collection[str], kind: str) -> None:
    """Raise UsageError unless a run with these streams reads text."""
    if "text" not in streams:
        raise UsageError(f"--corrupt {kind} needs a run that reads text, but {run} reads only audio")
