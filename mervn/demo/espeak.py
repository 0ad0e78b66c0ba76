"""espeak-ng through ctypes: text to samples with a voice, pitch, rate, pitch range and volume, the same every time."""

from __future__ import annotations

import ctypes
import unicodedata
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError

Samples = np.ndarray[Any, np.dtype[np.int16]]
SAMPLE_RATE = 22_050
SYNCHRONOUS, DONT_EXIT = 2, 1 << 15
"""Output mode of espeak_Initialize, and its option that makes missing data an error code instead of exit(1)."""
UTF8, CHARACTERS = 1, 1
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
"""Numbers of espeak_SetParameter."""
LIMITS = {"pitch": (0, 99), "rate": (80, 450), "pitch_range": (0, 99), "volume": (0, 200)}

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str, pitch: int, rate: int, pitch_range: int, volume: int = 100) -> Samples:
    """Return samples int16 (S,) at 22 050 Hz of a text (normalised to NFC), a pure function of the arguments.

    `pitch` and `pitch_range` are espeak-ng's 0..99, `rate` is 80..450 words a minute, `volume` 0..200. Raises
    InputError where espeakng-loader is absent, a value is out of range or espeak-ng refuses.
    """
    values = {"pitch": pitch, "rate": rate, "pitch_range": pitch_range, "volume": volume}
    for name, value in values.items():
        low, high = LIMITS[name]
        if not low <= value <= high:
            raise InputError(f"{name} must be {low}..{high}, found {value}")
    library = _open_library()
    chunks: list[Samples] = []

    def receive(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    callback = _CALLBACK(receive)  # held by this name until espeak_Terminate
    try:
        library.espeak_SetSynthCallback(callback)
        _check("espeak_SetVoiceByName", library.espeak_SetVoiceByName(voice.encode()), f"voice {voice!r}")
        for number, value in ((RATE, rate), (VOLUME, volume), (PITCH, pitch), (RANGE, pitch_range)):
            _check("espeak_SetParameter", library.espeak_SetParameter(number, value, 0), f"{number}={value}")
        encoded = unicodedata.normalize("NFC", text).encode()
        code = library.espeak_Synth(encoded, len(encoded) + 1, 0, CHARACTERS, 0, UTF8, None, None)
        _check("espeak_Synth", code, f"text {text!r}")
    finally:
        library.espeak_Terminate()
    if not chunks:
        raise InputError(f"espeak-ng must return audio, found none for voice {voice!r} and text {text!r}")
    return np.concatenate(chunks)
