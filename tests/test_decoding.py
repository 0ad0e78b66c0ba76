"""Decoding of a segment with the state of its file: what is read is what the state describes, and faults are kept."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import decoding
from features.audio.decoding import decode, samples_sha256, segment_sha256
from features.audio.file_state import file_state
from features.audio.segment import AudioError, decode_segment, read_segment


def test_samples_hash_and_state_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, wave(1.0, 0, 44_100), 44_100)
    found = decode(path, 0.25, 0.75, "mix")
    found.check()
    np.testing.assert_array_equal(found.samples, read_segment(path, 0.25, 0.75, "mix"))
    assert found.sha256 == samples_sha256(*decode_segment(path, 0.25, 0.75, "mix")) != segment_sha256(path, 0, 1, 0)
    assert found.state == file_state(path)


def test_a_fault_is_kept_with_the_state(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"no audio")
    found = decode(path, 0.0, None, "mix")
    assert found.state.size == 8 and found.state == file_state(path)
    with pytest.raises(AudioError, match="a.wav") as error:
        found.check()
    assert error.value.reason == (found.fault or ("",))[0]


def test_audio_that_does_not_fit_into_memory_has_a_fault_and_a_bug_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [MemoryError(), RuntimeError("[enforce fail] not enough memory"), RuntimeError("a bug")]

    def fail(*_: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(decoding, "decode_segment", fail)
    for _ in range(2):
        assert decode(tmp_path, 0.0, None, "mix").fault == (
            "out_of_memory",
            f"{tmp_path}: the audio must fit into memory",
        )
    with pytest.raises(RuntimeError, match="a bug"):
        decode(tmp_path, 0.0, None, "mix")
