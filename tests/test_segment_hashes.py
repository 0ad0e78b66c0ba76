"""SegmentHashes: the hashes of one segment after the other, in order, computed in threads, each segment once."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import make_data
from tiny_extraction import spoil

from features.audio.decoding import segment_sha256
from features.audio.segment import AudioError
from features.extraction import prefetch, segment_hashes
from features.extraction.segment_hashes import SegmentHashes
from features.manifests.manifest import Utterance, read_manifests


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Twelve utterances, of which two cannot be decoded."""
    data = make_data(tmp_path_factory.mktemp("data"), {"train": 12})
    spoil(data, "train-003")
    (data / "train-004.wav").write_bytes(b"no audio")
    return list(read_manifests(data, ("train",)).all_utterances())


def alone(utterance: Utterance | None) -> str | None:
    """Return the hash of an utterance, or the reason of its error, without threads."""
    if utterance is None:
        return None
    try:
        return segment_sha256(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
    except AudioError as error:
        return f"{error.reason}: {error}"


def words(found: Any) -> list[Any]:
    """Return results as values that can be compared."""
    return [(item, f"{one.reason}: {one}" if isinstance(one, AudioError) else one) for item, one in found]


@pytest.mark.parametrize("ahead", [1, 3, 1024])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_item_has_the_hash_of_its_utterance(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch, threads: int, ahead: int
) -> None:
    monkeypatch.setattr(segment_hashes, "AHEAD", ahead)
    given: list[Utterance | None] = [None, *utterances, None, utterances[2], utterances[4], None, None]
    expected = [(i, alone(one)) for i, one in enumerate(given)]
    hashes = SegmentHashes(threads)
    assert words(hashes.of(enumerate(given))) == expected
    assert words(hashes.of(enumerate(given))) == expected  # known now
    assert sum(text is not None and ": " in text for _, text in expected) == 3
    assert len({text for _, text in expected}) == 13  # the control: no two utterances are alike


def test_each_segment_is_decoded_once(utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[Any]()

    def counted(*segment: Any) -> str:
        calls[segment] += 1
        return segment_sha256(*segment)

    monkeypatch.setattr(segment_hashes, "segment_sha256", counted)
    hashes = SegmentHashes(2)
    for _ in range(2):
        assert len(list(hashes.of(enumerate([*utterances, *utterances])))) == 24
    assert len(calls) == 12 and set(calls.values()) == {1}


def test_several_segments_are_decoded_at_once_and_no_more_after_the_end(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, calls = threading.Barrier(3, timeout=20), []

    def waiting(*segment: Any) -> str:
        calls.append(segment)
        barrier.wait()  # with fewer threads, this would be broken
        return "hash"

    monkeypatch.setattr(segment_hashes, "segment_sha256", waiting)
    threads = set(threading.enumerate())
    found = SegmentHashes(3).of(enumerate(utterances))
    assert next(found) == (0, "hash")
    found.close()
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        barrier.reset()  # a thread that began with one more segment
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads
    assert len(calls) <= 12


def test_no_thread_is_started_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", None)
    assert list(SegmentHashes().of((i, None) for i in range(5000))) == [(i, None) for i in range(5000)]


def test_items_are_taken_no_further_ahead_than_needed(utterances: list[Utterance]) -> None:
    taken = []

    def items() -> Iterator[tuple[int, Utterance | None]]:
        for i in range(5000):
            taken.append(i)
            yield i, utterances[0] if i == 0 else None

    found = SegmentHashes(1).of(items())
    assert next(found) == (0, alone(utterances[0]))
    assert len(taken) == segment_hashes.AHEAD


def test_a_file_that_does_not_answer_is_named(utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()

    def hanging(path: Path, *segment: Any) -> str:
        if path == utterances[1].audio_path:
            stop.wait(60)
        return "hash"

    monkeypatch.setattr(segment_hashes, "segment_sha256", hanging)
    monkeypatch.setattr(prefetch, "LIMIT_S", 1.0)
    monkeypatch.setattr(segment_hashes, "_seconds", lambda segment: 0.1)
    found = dict(SegmentHashes(2).of(enumerate(utterances)))
    stop.set()
    error = found.pop(1)
    assert isinstance(error, AudioError) and error.reason == "system_error"
    assert str(utterances[1].audio_path) in str(error) and set(found.values()) == {"hash"}


@pytest.mark.parametrize("fits", [True, False])
def test_a_segment_for_which_memory_did_not_suffice_is_decoded_alone(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    calls = []

    def too_large(*segment: Any) -> str:
        calls.append(threading.current_thread() is threading.main_thread())
        if not fits or not calls[-1]:
            raise AudioError("out_of_memory", "too large")
        return "hash"

    monkeypatch.setattr(segment_hashes, "segment_sha256", too_large)
    ((_, found),) = SegmentHashes(1).of([(0, utterances[0])])
    assert calls == [False, True]
    assert found == "hash" if fits else isinstance(found, AudioError) and found.reason == "out_of_memory"


def test_errors_that_are_kept_hold_no_samples(utterances: list[Utterance]) -> None:
    ((_, found),) = SegmentHashes(1).of([(0, utterances[3])])
    assert isinstance(found, AudioError) and found.reason == "non_finite" and found.__traceback__ is None
