"""AudioReader: any number of workers gives the same samples in order, and audio that cannot be used says why."""

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_unit_reader import InThisProcess
from tiny import make_data, wave
from tiny_extraction import spoil

from features.audio import decoding
from features.audio.segment import AudioError
from features.extraction import audio_reader, prefetch
from features.extraction.audio_reader import AudioReader
from features.extraction.encoder_input import decode_utterance
from features.manifests.manifest import Utterance, read_manifests


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Twelve utterances, of which two cannot be decoded and one must be resampled."""
    data = make_data(tmp_path_factory.mktemp("data"), {"train": 12})
    spoil(data, "train-003")
    (data / "train-004.wav").write_bytes(b"no audio")
    soundfile.write(data / "train-005.wav", wave(0.4, 1, 44_100), 44_100)
    return list(read_manifests(data, ("train",)).all_utterances())


def read(utterances: list[Utterance], workers: int) -> list[Any]:
    """Read batches of 5, as tuples that can be compared."""
    found: list[Any] = []
    with closing(AudioReader(workers)) as reader:
        reader.prepare(utterances, [1.0] * len(utterances))
        for first in range(0, len(utterances), 5):
            for one in reader.read(utterances[first : first + 5]):
                if isinstance(one, AudioError):
                    found.append((one.reason, str(one)))
                else:
                    found.append((one.state, one.sha256, one.samples.tobytes()))
    return found


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_processes_gives_what_decoding_alone_gives(utterances: list[Utterance], workers: int) -> None:
    expected: list[Any] = []
    for utterance in utterances:
        alone = decode_utterance(utterance)
        expected.append(alone.fault or (alone.state, alone.sha256, alone.samples.tobytes()))
    assert read(utterances, workers) == expected
    assert [one[0] for one in expected[3:5]] == ["non_finite", "unreadable"]
    assert len({one[1] for one in expected}) == 12  # the control: no two are alike


def test_the_next_batches_are_decoded_while_the_caller_computes(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_reader, "PROCESSES", InThisProcess)
    monkeypatch.setattr(audio_reader, "decode", InThisProcess.decode)
    plain, decoded = decoding.decode_segment, []

    def note(path: Path, *rest: Any) -> Any:
        decoded.append(path.stem)
        return plain(path, *rest)

    monkeypatch.setattr(decoding, "decode_segment", note)
    for workers, num_decoded in ((1, 12), (0, 2)):
        decoded.clear()
        with closing(AudioReader(workers)) as reader:
            reader.prepare(utterances, [1.0] * 12)
            assert len(list(reader.read(utterances[:2]))) == 2
            deadline = time.monotonic() + 20
            while len(decoded) < num_decoded and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(decoded) == num_decoded  # without workers, only the batch that was read


def test_audio_for_which_memory_was_short_is_decoded_again_alone(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(InThisProcess):
        @staticmethod
        def decode(*segment: Any) -> decoding.Decoded:
            """Find no memory for one file."""
            if segment[0].stem == "train-007":
                raise MemoryError
            return decoding.decode(*segment)

    monkeypatch.setattr(audio_reader, "PROCESSES", Short)
    assert read(utterances, 2) == read(utterances, 0)


def test_a_file_that_hangs_is_named_and_the_others_are_read(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    release, plain = threading.Event(), decoding.decode_segment

    def hang(path: Path, *rest: Any) -> Any:
        if path.stem == "train-001":
            release.wait()
        return plain(path, *rest)

    expected = read(utterances, 0)
    monkeypatch.setattr(audio_reader, "PROCESSES", InThisProcess)
    monkeypatch.setattr(decoding, "decode_segment", hang)
    monkeypatch.setattr(prefetch, "LIMIT_S", 3.0)
    found = read(utterances, 2)
    release.set()
    assert len(InThisProcess.abandoned) == 1
    InThisProcess.abandoned.clear()
    reason, message = found[1]
    assert reason == "system_error" and "train-001.wav cannot be read now, found: it was not read within" in message
    assert found[:1] + found[2:] == expected[:1] + expected[2:]


def test_samples_are_those_of_the_file(utterances: list[Utterance]) -> None:
    with closing(AudioReader(1)) as reader:
        reader.prepare(utterances[:1], [1.0])
        (one,) = reader.read(utterances[:1])
    assert not isinstance(one, AudioError)
    samples, rate = soundfile.read(utterances[0].audio_path, dtype="float32")
    assert rate == 16_000
    np.testing.assert_array_equal(one.samples, samples)
