"""Speech synthesis: the result depends only on the arguments."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from features.errors import InputError
from mervn.demo.espeak import speak


def test_speech_does_not_depend_on_earlier_calls() -> None:
    pytest.importorskip("espeakng_loader")
    voices = ["vi+m1", "vi-vn-x-south+f3", "vi-vn-x-central+m8", "vi+f5"]

    def say(voice: str, text: str = "Hôm nay trời đẹp") -> bytes:
        return speak(text, voice, pitch=50, rate=175, pitch_range=50, volume=100).tobytes()

    expected = {voice: say(voice) for voice in voices}
    say("vi+f2", "Một câu khác hẳn")
    assert {voice: say(voice) for voice in reversed(voices)} == expected
    assert len(set(expected.values())) == len(voices)


def test_every_parameter_changes_the_audio() -> None:
    pytest.importorskip("espeakng_loader")
    plain = {"pitch": 50, "rate": 175, "pitch_range": 50, "volume": 80, "word_gap": 0}
    changes = {"pitch": 80, "rate": 250, "pitch_range": 90, "volume": 40, "word_gap": 8}
    spoken = [speak("Hôm nay trời đẹp", "vi", **plain | {name: value}) for name, value in changes.items()]
    spoken.append(speak("Hôm nay trời đẹp", "vi", **plain))
    assert len({samples.tobytes() for samples in spoken}) == len(spoken)


def test_text_is_spoken_in_nfc() -> None:
    pytest.importorskip("espeakng_loader")
    forms = [unicodedata.normalize(form, "Mẹ tôi rất vui vẻ") for form in ("NFC", "NFD")]
    first, second = (speak(form, "vi", pitch=50, rate=175, pitch_range=50, volume=80) for form in forms)
    assert forms[0] != forms[1]
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("voice", "rate", "message"),
    [
        ("vi", 79, r"rate must be 80\.\.450, found 79"),
        ("xx-yy", 175, r"accept voice 'xx-yy', found error 2 \(not found\)"),
        ("vi+nobody", 175, r"the voice variant 'nobody', found no such file"),
    ],
)
def test_invalid_arguments_are_rejected(voice: str, rate: int, message: str) -> None:
    pytest.importorskip("espeakng_loader")
    with pytest.raises(InputError, match=message):
        speak("Xin chào", voice, pitch=50, rate=rate, pitch_range=50, volume=80)
