"""Audio in a report: exact to 16 bit, within a size, and without audio that cannot be read."""

import base64
import io
from pathlib import Path

import numpy as np
import soundfile
from tiny import RATE, make_data, wave

from mervn.report.embedded_audio import embed_audio
from mervn.report.transcripts import read_utterances, transcript


def test_the_audio_of_each_segment_is_embedded_until_the_limit(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"valid": 3})
    utterances = read_utterances(data)
    names = [*utterances]
    (data / f"{names[2]}.wav").unlink()
    found = embed_audio([*names, "nobody"], utterances)
    assert [*found.addresses] == names[:2]
    assert found.notes == ["2 have no audio here, because it cannot be read now."]
    kind, content = found.addresses[names[1]].split(",", 1)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")
    assert kind == "data:audio/flac;base64" and rate == RATE
    original = wave(0.35, 1, RATE, 300.0)
    assert samples.shape == original.shape and np.abs(samples - original).max() <= 2 / 32768
    size = len(base64.b64decode(content))
    small = embed_audio(names[:2], utterances, maximum=size)
    assert len(small.addresses) == 1 and "1 have no audio here, because together it would exceed" in small.notes[0]


def test_utterances_of_damaged_or_missing_manifests_are_unknown(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1})
    (data / "train.jsonl").write_text("{")
    found = read_utterances(data)
    assert [*found] == ["valid-000"] and transcript(found, "valid-000").startswith("hôm nay")
    assert transcript(found, "train-000") == "" and read_utterances(tmp_path / "nowhere") == {}
