"""The README's example of a new encoder works: it loads, is batch-independent, and can be saved."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_data, wave

from cli.main import run
from features.encoders import AUDIO_ENCODERS, EncoderSpec
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.ragged import Ragged

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the encoder as the README says."""
    (code,) = re.findall(r"```python\n(# features/encoders/loudness\.py\n.*?)```", README, re.DOTALL)
    (entry,) = re.findall(r"```python\n( +\"loudness\": EncoderSpec\(.*?)```", README, re.DOTALL)
    module = ModuleType("features.encoders.loudness")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found: dict[str, Any] = {"EncoderSpec": EncoderSpec}
    exec(f"ENTRY = {{{entry}}}", found)
    for name, spec in found["ENTRY"].items():
        monkeypatch.setitem(AUDIO_ENCODERS, name, spec)


def load(text: str = "loudness") -> Encoder:
    return load_encoder(parse_selector(text, "audio"))


def test_an_utterance_alone_gives_what_it_gives_in_a_batch() -> None:
    encoder = load()
    prepared = [encoder.prepare(wave(n / 16_000, n)) for n in (1, 319, 320, 321, 5000)]
    together = encoder(Ragged.from_sequences(prepared))
    counts = [item.shape[0] for item in prepared]
    assert together.lengths.tolist() == encoder.get_feat_lengths(np.array(counts)).tolist() == [1, 1, 1, 2, 16]
    for found, item in zip(together.split(), prepared, strict=True):
        torch.testing.assert_close(found, encoder(Ragged.from_sequences([item])).values, atol=2e-5, rtol=0)


def test_a_saved_one_loads_equal_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    encoder = load()
    encoder.save(tmp_path / "saved")
    again = load(f"loudness={tmp_path / 'saved'}")
    assert again.weights_sha256 == encoder.weights_sha256 and again.config == encoder.config
    with pytest.raises(InputError, match="needs the files"):
        load(f"loudness={tmp_path / 'nowhere'}")


def test_it_extracts(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 4})
    assert run(["extract", "--data", str(data), "--splits", "train", "--audio-encoder", "loudness"]) == 0
    (store,) = (data / "stores" / "audio").iterdir()
    assert store.name.startswith("loudness-random-Llast-")
