"""Utterances in columns: every field of every line comes back, also from slices and joined manifests."""

from dataclasses import replace
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np

from features.manifests.manifest import Utterance
from features.manifests.manifest_columns import ManifestColumns
from features.manifests.utterances import (
    Utterances,
    emotion_codes,
    id_at,
    iterate_ids,
    select,
    with_emotions,
)

EXTRAS: list[dict[str, Any]] = [{}, {"take": 3, "notes": ["ầ", None, {"x": 0.1, "big": 10**30}]}, {}, {"": -0.0}]


def line(i: int, split: str) -> dict[str, Any]:
    """Return the valid fields of a line; every third one has the optional fields."""
    full = i % 3 == 0
    return {
        "utterance_id": f"{split}-{i}-ệ", "speaker_id": f"s{i % 2}" if full else None, "wav_path": f"call-{i // 4}.wav",
        "start": 0.1 * i, "end": 0.1 * i + 0.7 if full else None, "channel": i if full else "mix",
        "transcript": ("", "xin chào")[i % 2] if full else None, "emotion": "vui" if full else None,
    }  # fmt: skip


def make(split: str, count: int) -> tuple[Utterances, list[Utterance]]:
    """Return the same utterances in columns and as objects."""
    columns = ManifestColumns(split, f"{split}.jsonl", Path("/root"))
    expected = []
    for i in range(count):
        values, extra = line(i, split), EXTRAS[i % 4]
        columns.append(values, 2 * i + 1, extra)
        made = {"split": split, "file": f"{split}.jsonl", "line": 2 * i + 1, "extra": extra}
        expected.append(Utterance(**values, audio_path=Path("/root") / values["wav_path"], **made))
    columns.complete()
    return Utterances([columns]), expected


def test_columns_that_follow_others_are_added_with_their_lines() -> None:
    (first, in_first), (second, in_second) = make("train", 5), make("train", 7)
    (columns,), (following,) = first.manifests, second.manifests
    columns.extend(following, 100)
    columns.extend(make("train", 0)[0].manifests[0], 200)
    assert list(Utterances([columns])) == in_first + [replace(each, line=each.line + 100) for each in in_second]


def test_lines_slices_and_joined_manifests_are_those_that_were_added() -> None:
    (train, in_train), (valid, in_valid) = make("train", 13), make("valid", 6)
    assert list(train) == in_train and train[-1] == in_train[-1] and train[5] == in_train[5]
    assert isinstance(train[0].start, float) and isinstance(train[3].channel, int)
    for part in (slice(None), slice(2, 9), slice(None, None, 3), slice(8, None, -2), slice(40, 50)):
        assert list(train[part]) == in_train[part]
        np.testing.assert_array_equal(train[part].column("starts"), [one.start for one in in_train[part]])
    for parts in ([train, valid], [train[:5], valid[:2]], [valid[1::2], train[::-1]]):
        joined = Utterances.join(parts)
        expected = list(chain.from_iterable(parts))
        assert isinstance(joined, Utterances) and list(joined) == expected
        assert list(iterate_ids(joined)) == [one.utterance_id for one in expected]
        codes, _ = joined.codes("wav_paths")
        assert [joined.audio_path(code) for code in codes] == [one.audio_path for one in expected]
        assert [joined.wav_path(code) for code in codes] == [one.wav_path for one in expected]
    assert Utterances.join([in_train, valid]) == [*in_train, *in_valid]
    assert id_at(in_train, 4) == id_at(train, 4) == "train-4-ệ"


def test_emotions_and_masks_in_columns_are_those_of_objects() -> None:
    (train, in_train), (valid, in_valid) = make("train", 13), make("valid", 6)
    joined, objects = Utterances.join([valid[1:], train]), [*in_valid[1:], *in_train]
    for given in (joined, objects):
        codes, emotions = emotion_codes(given)
        assert [emotions[code] for code in codes] == [each.emotion for each in objects]
        changed = with_emotions(given, [f"{emotion}!" for emotion in emotions])
        assert list(changed) == [replace(each, emotion=f"{each.emotion}!") for each in objects]
        chosen = np.arange(len(objects)) % 5 < 2
        assert list(select(given, chosen)) == list(compress(objects, chosen))
        assert select(given, chosen | True) is given
    labelled = train[::3]  # all of these have an emotion
    changed = with_emotions(labelled, ["buồn"])
    assert isinstance(changed, Utterances) and {each.emotion for each in changed} == {"buồn"}
    assert {each.emotion for each in train[::3]} == {"vui"}


def test_an_empty_manifest_has_no_utterance() -> None:
    empty, _ = make("train", 0)
    assert not empty and list(empty) == [] and len(empty.column("ends")) == 0
    assert Utterances.join([]) == []
