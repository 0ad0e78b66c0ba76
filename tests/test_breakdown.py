"""Values by which scores are broken down: bands, manifest keys, and keys that do not exist."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import UsageError
from features.manifests.manifest import Utterance
from mervn.evaluation.breakdown import (
    DURATION_BANDS,
    TRANSCRIPT_BANDS,
    band_of,
    breakdown_values,
    in_order,
    values_of,
)


@dataclass
class Few:
    """The parts of a split that are read."""

    utterances: list[Utterance]
    audio_seconds: np.ndarray[Any, Any] = field(init=False)
    name: str = "test"

    def __post_init__(self) -> None:
        self.audio_seconds = np.zeros(len(self.utterances))


def utterance(number: int, **values: Any) -> Utterance:
    extra = values.pop("extra", {})
    defaults: dict[str, Any] = {
        "utterance_id": f"u{number}", "speaker_id": f"s{number % 2}", "wav_path": "a.wav", "audio_path": Path("a.wav"),
        "start": 0.0, "end": None, "channel": "mix", "transcript": None, "emotion": "sad", "split": "test",
        "file": "test.jsonl", "line": number,
    }  # fmt: skip
    return Utterance(**(defaults | values), extra=extra)


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (0.2, "under 1 s"),
        (1.0, "1 to 2 s"),
        (1.99, "1 to 2 s"),
        (2.0, "2 to 4 s"),
        (7.9, "4 to 8 s"),
        (8, "8 s or more"),
    ],
)
def test_a_limit_belongs_to_the_longer_band(seconds: float, name: str) -> None:
    assert band_of(seconds, DURATION_BANDS) == name


def test_bands_come_from_the_audio_that_was_read_else_from_start_and_end() -> None:
    some: Any = Few([utterance(0, start=2.0, end=5.0), utterance(1), utterance(2, end=0.5)])
    assert breakdown_values(some, ())["duration"] == ["2 to 4 s", "unknown", "under 1 s"]
    some.audio_seconds = np.array([1.5, 9.0, 0.5])
    assert breakdown_values(some, ())["duration"] == ["1 to 2 s", "8 s or more", "under 1 s"]


def test_transcripts_are_counted_in_syllables() -> None:
    texts = [None, "", "ạ", "hôm nay tôi vui lắm", " ".join(["hôm"] * 10), " ".join(["hôm"] * 21)]
    some: Any = Few([utterance(i, transcript=text) for i, text in enumerate(texts)])
    assert breakdown_values(some, ())["transcript_length"] == [
        "empty", "empty", "1 to 5 syllables", "1 to 5 syllables", "6 to 10 syllables", "21 syllables or more"
    ]  # fmt: skip
    assert len({name for _, name in TRANSCRIPT_BANDS}) == 5


def test_keys_are_fields_or_extra_keys_and_utterances_without_one_are_unknown() -> None:
    dialects = ["north", None, "south", ""]
    some: Any = Few([utterance(i, extra={"dialect": each, "age": i}) for i, each in enumerate(dialects)])
    found = breakdown_values(some, ("dialect", "speaker_id", "duration"))
    assert list(found) == ["dialect", "speaker_id", "duration", "transcript_length"]
    assert found["dialect"] == ["north", "unknown", "south", "unknown"]
    assert found["speaker_id"] == ["s0", "s1", "s0", "s1"]
    assert values_of(some, "age", "--unit") == [0, 1, 2, 3]


def test_a_key_that_no_utterance_has_is_refused_with_the_keys_that_exist() -> None:
    some: Any = Few([utterance(0, extra={"dialect": "north"}), utterance(1)])
    with pytest.raises(
        UsageError, match=r"--by must name .* no utterance of test has 'dialct'; did you mean dialect\?"
    ):
        breakdown_values(some, ("dialct",))
    with pytest.raises(UsageError, match="it has speaker_id, wav_path, channel, transcript, dialect"):
        values_of(some, "xyz", "--unit")


def test_bands_are_ordered_by_size_and_other_values_by_name() -> None:
    assert in_order("duration", ["8 s or more", "unknown", "under 1 s"]) == ["under 1 s", "8 s or more", "unknown"]
    assert in_order("dialect", ["south", "unknown", "north"]) == ["north", "south", "unknown"]
