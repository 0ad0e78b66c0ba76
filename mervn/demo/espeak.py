"""Vietnamese speech synthesis with espeak-ng through ctypes, a pure function of its arguments."""

from __future__ import annotations

import _ctypes
import ctypes
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError

Samples = np.ndarray[Any, np.dtype[np.int16]]
SAMPLE_RATE = 22_050
SYNCHRONOUS = 2
"""Output of espeak_Initialize: espeak_Synth passes samples to the callback before it returns."""
DO_NOT_EXIT = 1 << 15
"""Option of espeak_Initialize: if its data is missing, return an error and keep the process."""
CHARACTERS, UTF8 = 1, 1
"""Arguments of espeak_Synth: positions count characters, and the text is UTF-8."""
PARAMETERS = {
    "rate": (1, 80, 450),
    "volume": (2, 0, 200),
    "pitch": (3, 0, 99),
    "pitch_range": (4, 0, 99),
    "word_gap": (7, 0, 100),
}
"""Number for espeak_SetParameter, minimum and maximum."""
CODES = {-1: "internal error", 1: "buffer full", 2: "not found"}
RANDOM_SEED = 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str, pitch: int, rate: int, pitch_range: int, volume: int, word_gap: int = 0) -> Samples:
    """Synthesize a text and return samples int16 (S,) at 22 050 Hz; the text is normalized to NFC.

    `voice` is a language and a variant (`vi-vn-x-south+f3`); `rate` 80..450 is in words per minute;
    `volume` 0..200; `pitch` and `pitch_range` 0..99 (50: the default of the voice); `word_gap`
    0..100 is the pause between words in units of 10 ms at the default rate. Raises InputError if
    espeakng-loader is not installed, a value is out of its range, or espeak-ng returns an error.
    """
    values = {"pitch": pitch, "rate": rate, "pitch_range": pitch_range, "volume": volume, "word_gap": word_gap}
    for name, value in values.items():
        _, minimum, maximum = PARAMETERS[name]
        if not minimum <= value <= maximum:
            raise InputError(f"{name} must be {minimum}..{maximum}, found {value}")
    chunks: list[Samples] = []

    def receive(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    callback = _Callback(receive)  # the name keeps it alive while the library may call it
    encoded = unicodedata.normalize("NFC", text).encode("utf-8")
    with _fresh_library(voice.partition("+")[2]) as library:
        library.espeak_SetSynthCallback(callback)
        _check(library.espeak_SetVoiceByName(voice.encode("utf-8")), f"voice {voice!r}")
        for name, value in values.items():
            _check(library.espeak_SetParameter(PARAMETERS[name][0], value, 0), f"{name} {value}")
        _check(library.espeak_Synth(encoded, len(encoded) + 1, 0, CHARACTERS, 0, UTF8, None, None), f"text {text!r}")
    if not chunks:
        raise InputError(f"espeak-ng must return samples, found none for text {text!r} and voice {voice!r}")
    return np.concatenate(chunks)


@contextmanager
def _fresh_library(variant: str) -> Iterator[ctypes.CDLL]:
    """Load espeak-ng and unload it at the end; InputError if the voice variant does not exist.

    The state of flutter and noise lives in static variables that espeak_Terminate does not reset.
    Only a freshly loaded library (half a millisecond) synthesizes an utterance the same way twice.
    """
    path, data = _locate()
    # espeak-ng would silently ignore a variant that does not exist.
    if variant and not Path(data, "voices", "!v", variant).is_file():
        raise InputError(f"espeak-ng must have the voice variant {variant!r}, found no such file in {data}/voices/!v")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise InputError(f"espeakng-loader's library {path} must load on this machine, found: {error}") from error
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    try:
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, data.encode("utf-8"), DO_NOT_EXIT)
        if rate != SAMPLE_RATE:
            raise InputError(f"espeak_Initialize must return {SAMPLE_RATE}, found {rate} with the data in {data}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
        yield library
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def _locate() -> tuple[str, str]:
    """Return the paths of espeak-ng's library and data."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError(
            'the demo corpus needs the package espeakng-loader, which is not installed: pip install "mervn[demo]"'
        ) from error
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


def _check(code: int, what: str) -> None:
    """Raise InputError if espeak-ng returned an error code."""
    if code != 0:
        raise InputError(f"espeak-ng must accept {what}, found error {code} ({CODES.get(code, 'unknown')})")
