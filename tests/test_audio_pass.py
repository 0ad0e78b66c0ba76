"""One pass over the audio: nothing is decoded twice, and a changed file is decoded again."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import RATE, Recorder, wave

from features.audio import audio_file, decoded_copies, segment, segment_reader
from features.audio.decoded_copies import DecodedCopies
from features.audio.decoding import samples_sha256
from features.audio.segment import decode_segment
from features.audio.segment_reader import SegmentReader
from features.audit import audio_pass
from features.audit.audio_pass import FACTS_FILE, known_facts, measure_corpus
from features.extraction import prefetch
from features.manifests.manifest import Utterance


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Ten segments of two files, one of them twice."""
    found = []
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", wave(1.0, ord(name)), RATE)
        for number in range(5):
            place = (0.1 * min(number, 3), 0.1 * min(number, 3) + 0.2, "mix")
            path = f"{name}.wav"
            found.append(
                Utterance(f"{name}{number}", None, path, tmp_path / path, *place, None, None, "train", "-", 1, {})  # type: ignore[arg-type]
            )
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the utterances that were decoded."""
    ids: list[str] = []
    plain = audio_pass.measure_audio

    def measure(utterance: Utterance, reader: SegmentReader) -> Any:
        ids.append(utterance.utterance_id)
        return plain(utterance, reader)

    monkeypatch.setattr(audio_pass, "measure_audio", measure)
    return ids


def test_each_segment_is_decoded_once(utterances: list[Utterance], decoded: list[str], tmp_path: Path) -> None:
    first = measure_corpus(utterances, tmp_path / "stores", threads=2)
    assert len(decoded) == 8 and first[3] == first[4]  # equal segments are one
    assert len({fact.sha256 for fact in first}) == 8
    assert measure_corpus(utterances, tmp_path / "stores") == first == known_facts(utterances, tmp_path / "stores")
    assert len(decoded) == 8


def test_a_changed_file_is_decoded_again_even_with_the_same_size_and_time(
    utterances: list[Utterance], decoded: list[str], tmp_path: Path
) -> None:
    first = measure_corpus(utterances, tmp_path)
    status = (tmp_path / "a.wav").stat()
    soundfile.write(tmp_path / "a.wav", wave(1.0, 7), RATE)
    os.utime(tmp_path / "a.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    decoded.clear()
    second = measure_corpus(utterances, tmp_path)
    assert sorted(set(decoded)) == ["a0", "a1", "a2", "a3"]
    assert second[5:] == first[5:] and not set(second[:5]) & set(first[:5])
    os.utime(tmp_path / "b.wav", ns=(1, 1))
    assert known_facts(utterances, tmp_path)[5:] == [None] * 5  # touched: not trusted without its fingerprint
    assert measure_corpus(utterances, tmp_path) == second


def test_what_was_measured_before_an_interruption_is_kept(
    utterances: list[Utterance], decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, main = audio_pass.measure_audio, threading.main_thread().ident
    assert main is not None
    has_first = threading.Event()

    def interrupt(utterance: Utterance, reader: SegmentReader) -> Any:
        if utterance.utterance_id.startswith("b"):
            assert has_first.wait(20)
            signal.pthread_kill(main, signal.SIGINT)  # Ctrl-C while a thread measures the second file
            time.sleep(0.5)
        return measure(utterance, reader)

    monkeypatch.setattr(audio_pass._Saver, "save_sometimes", lambda *_: has_first.set())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    monkeypatch.setattr(audio_pass, "measure_audio", interrupt)
    monkeypatch.setattr(audio_pass, "TASK_UTTERANCES", 4)
    with pytest.raises(KeyboardInterrupt):
        measure_corpus(utterances, tmp_path, threads=1)
    signal.signal(signal.SIGINT, before)
    decoded.clear()
    monkeypatch.setattr(audio_pass, "measure_audio", measure)
    measure_corpus(utterances, tmp_path)
    assert sorted(decoded) == ["b0", "b1", "b2", "b3"]


def test_ctrl_c_does_not_wait_for_the_end_of_a_long_file(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, measure = [], audio_pass.measure_audio
    is_begun, is_interrupted = threading.Event(), threading.Event()

    def slow(utterance: Utterance, reader: SegmentReader) -> Any:
        ids.append(utterance.utterance_id)
        if utterance.utterance_id == "b1":
            is_begun.set()
            assert is_interrupted.wait(10)
        return measure(utterance, reader)

    def interrupt(*_: Any) -> None:
        assert is_begun.wait(10)
        raise KeyboardInterrupt

    class Stop(threading.Event):
        def set(self) -> None:
            super().set()
            is_interrupted.set()

    monkeypatch.setattr(audio_pass, "Event", Stop)
    monkeypatch.setattr(audio_pass, "measure_audio", slow)
    monkeypatch.setattr(audio_pass, "TASK_UTTERANCES", 4)
    monkeypatch.setattr(audio_pass._Saver, "save_sometimes", interrupt)  # in the main thread, after the first file
    with pytest.raises(KeyboardInterrupt):
        measure_corpus(utterances, tmp_path, threads=2)
    assert {"a3", "b1"} <= set(ids) and "b2" not in ids


@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_file_that_hangs_or_ends_its_thread_is_named_and_the_others_are_measured(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    expected = measure_corpus(utterances, tmp_path / "before")
    release, measure = threading.Event(), audio_pass.measure_audio

    def fail(utterance: Utterance, reader: SegmentReader) -> Any:
        if utterance.utterance_id == "a2":
            if fault == "dies":
                raise SystemExit
            release.wait()
        return measure(utterance, reader)

    monkeypatch.setattr(audio_pass, "measure_audio", fail)
    monkeypatch.setattr(audio_pass, "LIMIT_S", 2.0 if fault == "hangs" else 60.0)
    found = measure_corpus(utterances, tmp_path / "stores", threads=1)  # both files are one task
    release.set()
    assert found[:2] == expected[:2] and found[5:] == expected[5:]
    assert {fact.problem for fact in found[2:5]} == {"system_error"}
    cause = "it was not read within 2 s" if fault == "hangs" else "its thread ended with SystemExit"
    assert cause in found[2].detail and "a.wav cannot be read now" in found[2].detail
    assert str(tmp_path) not in found[2].detail
    monkeypatch.setattr(audio_pass, "measure_audio", measure)
    assert measure_corpus(utterances, tmp_path / "stores") == expected  # what failed once is not kept


def test_files_that_are_slow_together_are_all_measured(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, measure, ids = measure_corpus(utterances, tmp_path / "before"), audio_pass.measure_audio, []

    def slow(utterance: Utterance, reader: SegmentReader) -> Any:
        time.sleep(0.4)
        ids.append(utterance.utterance_id)
        return measure(utterance, reader)

    monkeypatch.setattr(audio_pass, "measure_audio", slow)
    monkeypatch.setattr(audio_pass, "LIMIT_S", 1.5)
    monkeypatch.setattr(prefetch, "MAX_STUCK", 1)  # none of them counts as a file that hangs
    assert measure_corpus(utterances, tmp_path / "stores", threads=1) == expected
    assert len(ids) > 9  # the control: several were too slow, and were measured again


def test_ctrl_c_does_not_wait_for_a_file_that_hangs(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of threads waited for it, and no Ctrl-C could end the command."""
    release, measure, main = threading.Event(), audio_pass.measure_audio, threading.main_thread().ident
    assert main is not None

    def hang(utterance: Utterance, reader: SegmentReader) -> Any:
        if utterance.utterance_id == "a2":
            signal.pthread_kill(main, signal.SIGINT)
            release.wait()
        return measure(utterance, reader)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(audio_pass, "measure_audio", hang)
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.2)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measure_corpus(utterances, tmp_path, threads=1)
    signal.signal(signal.SIGINT, before)
    release.set()
    assert time.monotonic() - began < 20


def test_a_long_compressed_file_is_decoded_once_and_needs_no_copy(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, decode, decoded = tmp_path / "a.mp3", segment_reader.decode_blocks, []

    def counting(path: Path) -> Iterator[Any]:
        for block in decode(path):
            decoded.append(len(block))
            yield block

    monkeypatch.setattr(segment_reader, "decode_blocks", counting)
    copies = DecodedCopies(tmp_path / "copies")
    monkeypatch.setattr(segment, "COPIES", copies)
    monkeypatch.setattr(decoded_copies, "LONG_S", 0.5)
    monkeypatch.setattr(decoded_copies, "SETTLED_S", -1.0)
    monkeypatch.setattr(audio_file, "BLOCK_S", 0.3)
    soundfile.write(path, np.stack([wave(3.0, 1, 16_000), wave(3.0, 2, 16_000)], axis=1), 16_000)
    of_file = []
    for i, start in enumerate((2.5, 0.0, 2.0, 0.4, 1.1, 0.2, 1.9, 0.7, 2.2, 1.3)):  # more than one task's
        place: dict[str, Any] = {"start": start, "end": start + 0.5, "channel": ("mix", 1)[i % 2]}
        of_file.append(replace(utterances[0], wav_path="a.mp3", audio_path=path, **place))
    facts = measure_corpus(of_file, tmp_path, threads=2)
    assert sum(decoded) <= 3.1 * 16_000 and not copies.folder.exists()
    for utterance, found in zip(of_file, facts, strict=True):
        alone = decode_segment(path, utterance.start, utterance.end, utterance.channel)
        assert found.sha256 == samples_sha256(*alone)
    assert copies.folder.exists()  # negative control: segments in any order need one
    copies.close()


def test_a_kill_loses_at_most_what_was_measured_since_the_last_save(
    utterances: list[Utterance], decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL runs no code, so what it leaves is the file as it is at that moment."""
    monkeypatch.setattr(audio_pass, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(audio_pass, "TASK_UTTERANCES", 4)
    states: list[bytes] = []
    save = audio_pass._Saver.save

    def save_and_look(self: Any, facts: Any) -> None:
        save(self, facts)
        states.append((tmp_path / FACTS_FILE).read_bytes())

    monkeypatch.setattr(audio_pass._Saver, "save", save_and_look)
    facts = measure_corpus(utterances, tmp_path, threads=1)
    assert len(states) == 3  # after each file, and at the end
    for state, expected in zip(list(states), (["b0", "b1", "b2", "b3"], [], []), strict=True):
        decoded.clear()
        (tmp_path / FACTS_FILE).write_bytes(state)
        assert measure_corpus(utterances, tmp_path, threads=1) == facts and decoded == expected


def test_an_edited_file_of_facts_is_not_believed(
    utterances: list[Utterance], decoded: list[str], tmp_path: Path
) -> None:
    facts = measure_corpus(utterances, tmp_path)
    text = (tmp_path / FACTS_FILE).read_text()
    edited = text.replace(f"{facts[0].peak!r}", "1.0")
    assert edited != text
    (tmp_path / FACTS_FILE).write_text(edited)
    assert known_facts(utterances, tmp_path) == [None] * 10
    assert measure_corpus(utterances, tmp_path) == facts and len(decoded) == 16


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_no_file_in_the_place_of_the_facts_is_waited_for_or_believed(
    make: Any, utterances: list[Utterance], tmp_path: Path
) -> None:
    make(tmp_path / FACTS_FILE)
    recorder = Recorder()
    assert known_facts(utterances, tmp_path) == [None] * 10
    assert len(measure_corpus(utterances, tmp_path, reporter=recorder)) == 10
    assert len(recorder.lines) == (make is Path.mkdir)  # a pipe and a link are replaced


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"schema": 1, "fields": [], "facts": []}', "cut"])
def test_a_damaged_file_of_facts_is_written_again(
    damage: str, utterances: list[Utterance], decoded: list[str], tmp_path: Path
) -> None:
    facts = measure_corpus(utterances, tmp_path)
    text = (tmp_path / FACTS_FILE).read_text()
    assert json.loads(text)["schema"] == 3
    (tmp_path / FACTS_FILE).write_text(text[:300] if damage == "cut" else damage)
    assert known_facts(utterances, tmp_path) == [None] * 10
    assert measure_corpus(utterances, tmp_path) == facts and len(decoded) == 16
    assert (tmp_path / FACTS_FILE).read_text() == text


def test_a_folder_that_cannot_be_written_is_said(utterances: list[Utterance], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder()
    facts = measure_corpus(utterances, tmp_path / "file", reporter=recorder)
    assert len(facts) == 10 and "the next check decodes again" in recorder.lines[0]


def test_a_named_pipe_is_no_audio_and_is_not_waited_for(utterances: list[Utterance], tmp_path: Path) -> None:
    (tmp_path / "a.wav").unlink()
    os.mkfifo(tmp_path / "a.wav")
    facts = measure_corpus(utterances, tmp_path)
    assert [fact.problem for fact in facts] == ["not_found"] * 5 + [None] * 5
