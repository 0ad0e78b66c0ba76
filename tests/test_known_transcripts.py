"""KnownTranscripts: facts are found again as they were added; a file that is not as it was written is not used."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Recorder

from features.extraction.known_transcripts import FACTS, RECORD, KnownTranscripts

TOKENIZATION = {"tokenizer_sha256": "0" * 64, "segmenter": "pyvi 0.1.1"}
Array = np.ndarray[Any, Any]


def digests(first: int, end: int) -> Array:
    found = [hashlib.sha256(str(i).encode()).digest() for i in range(first, end)]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


def facts(first: int, end: int) -> Array:
    return np.arange(first, end, dtype=np.int32)[:, None] + np.arange(len(FACTS), dtype=np.int32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 100 transcripts, some of which were added twice."""
    known = KnownTranscripts(tmp_path / "stores", TOKENIZATION)
    for first, end in ((0, 60), (40, 100)):
        known.add(digests(first, end), facts(first, end))
    known.save(Recorder())
    return known.path


def find(path: Path, first: int, end: int, tokenization: dict[str, str] | None = TOKENIZATION) -> tuple[Array, Array]:
    return KnownTranscripts(path.parent, tokenization).find(digests(first, end))


def test_facts_are_found_again_and_others_are_not(path: Path) -> None:
    found, is_known = find(path, 50, 130)
    assert is_known.tolist() == [True] * 50 + [False] * 30
    assert np.array_equal(found[:50], facts(50, 100))
    assert (path.stat().st_size - len(path.read_bytes().split(b"\n")[0]) - 1) == 100 * RECORD.itemsize


def test_new_transcripts_are_added_to_those_of_the_file(path: Path) -> None:
    known = KnownTranscripts(path.parent, TOKENIZATION)
    assert not known.has_new
    known.add(digests(100, 110), facts(100, 110))
    assert known.has_new
    known.save(Recorder())
    found, is_known = find(path, 0, 110)
    assert is_known.all() and np.array_equal(found, facts(0, 110))


def test_two_commands_that_count_at_once_keep_what_both_have_counted(path: Path) -> None:
    first, second = (KnownTranscripts(path.parent, TOKENIZATION) for _ in range(2))
    first.add(digests(100, 110), facts(100, 110))
    second.add(digests(105, 120), facts(105, 120))
    first.save(Recorder())
    second.save(Recorder())
    found, is_known = find(path, 0, 120)
    assert is_known.all() and np.array_equal(found, facts(0, 120))
    path.unlink()  # what a command has read is not lost with the file
    second.save(Recorder())
    found, is_known = find(path, 0, 120)
    assert is_known.tolist() == [True] * 100 + [False] * 5 + [True] * 15


def test_transcripts_with_equal_first_eight_bytes_are_told_apart(tmp_path: Path) -> None:
    known, pair = KnownTranscripts(tmp_path, TOKENIZATION), digests(0, 2).copy()
    pair[1, :8] = pair[0, :8]
    known.add(pair[:1], facts(0, 1))
    known.save(Recorder())
    assert KnownTranscripts(tmp_path, TOKENIZATION).find(pair)[1].tolist() == [True, False]


@pytest.mark.parametrize("changed", [{"segmenter": "none"}, {"packages": {"transformers": "5"}}])
def test_another_tokenization_has_another_file(path: Path, changed: dict[str, Any]) -> None:
    assert not find(path, 0, 100, TOKENIZATION | changed)[1].any()
    assert KnownTranscripts(path.parent, TOKENIZATION | changed).path != path


def test_without_a_tokenization_nothing_is_kept(tmp_path: Path) -> None:
    known = KnownTranscripts(tmp_path, None)
    known.add(digests(0, 5), facts(0, 5))
    assert not known.has_new and not known.find(digests(0, 5))[1].any()


def test_a_file_of_another_tokenization_is_not_used(path: Path) -> None:
    other = TOKENIZATION | {"segmenter": "none"}
    path.rename(KnownTranscripts(path.parent, other).path)
    assert not find(path, 0, 100, other)[1].any()


@pytest.mark.parametrize("place", [0, 5, 200, -1])
def test_a_file_with_a_changed_byte_is_not_used(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert not find(path, 0, 100)[1].any()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]\n", b"\xff\n", b"[" * 100_000, b"1\n1"])
def test_a_file_that_is_no_such_file_is_not_used(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert not find(path, 0, 100)[1].any()
    path.write_bytes(b"")
    path.unlink()
    path.mkdir()
    assert not find(path, 0, 100)[1].any()


def test_a_file_that_was_cut_short_is_not_used(path: Path) -> None:
    first, _, body = path.read_bytes().partition(b"\n")
    head = json.loads(first)
    for size in (RECORD.itemsize * 50, RECORD.itemsize * 50 + 1):
        path.write_bytes(first + b"\n" + body[:size])
        assert not find(path, 0, 100)[1].any()
    # negative control: the hash is what refuses it
    cut = body[: RECORD.itemsize * 50]
    head["sha256"] = hashlib.sha256(cut).hexdigest()
    path.write_bytes(json.dumps(head).encode() + b"\n" + cut)
    assert find(path, 0, 100)[1].sum() == 50


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "stores").write_text("")
    known, recorder = KnownTranscripts(tmp_path / "stores", TOKENIZATION), Recorder()
    known.add(digests(0, 5), facts(0, 5))
    known.save(recorder)
    assert "the lengths of the transcripts are not kept" in recorder.lines[0]
