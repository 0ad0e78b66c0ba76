"""Canary of a bundle: inputs whose probabilities are recorded, and computed again when it is loaded.

It finds what no hash of a file can: another version of a library, another segmenter, or a machine
on which the encoders give other numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from torch import Tensor

from features.atomic_files import read_object, write_json
from features.environment import package_versions
from features.errors import InputError
from features.random_streams import Purpose, generator
from features.text.normalize import normalize_text
from mervn.use.bundle_files import BUNDLE_FILE
from mervn.use.clips import Clip
from mervn.use.run_model import RunModel
from mervn.use.scoring import Scorer

CANARY_FILE, AUDIO_FILE = "canary.json", "canary.wav"
RATE = 22_050
"""Hz of the audio: another rate than that of the encoders, so that resampling is checked too."""
SECONDS = 1.7
TEXT = "Hôm nay trời đẹp quá, sinh viên đi học ở Hà Nội: hoà bình, thuỷ chung và không buồn nữa."
"""It has words of several syllables and both vowels whose tone mark has two styles."""
TOLERANCES = {"fp32": 1e-5, "bf16": 0.02}
"""Maximum difference of a probability, by the precision of the encoders."""
BOTH = "audio and text"


def make_waveform() -> np.ndarray[Any, Any]:
    """Return the waveform (S,) int16: a voice-like tone with a gliding pitch, a pause and noise."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 60 * np.sin(2 * np.pi * 1.3 * time)) / RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    envelope = np.clip(np.sin(2 * np.pi * 1.9 * time) + 0.4, 0, None)
    noise = generator(Purpose.ENCODER_INPUT).standard_normal(len(time))
    return np.round((0.2 * envelope * tone + 0.01 * noise) * 32_767).clip(-32_768, 32_767).astype(np.int16)


def write_canary(folder: Path, model: RunModel) -> None:
    """Write the canary of a model, which is on the CPU, into the folder of a bundle."""
    soundfile.write(folder / AUDIO_FILE, make_waveform(), RATE, subtype="PCM_16")
    cases = {}
    for name, scores in _probabilities(folder, model, TEXT).items():
        cases[name] = dict(zip(model.labels, scores.tolist(), strict=True))
    document = {"text": TEXT, "inputs": _inputs(folder, model, TEXT), "probabilities": cases}
    write_json(folder / CANARY_FILE, {**document, "tolerance": tolerance(model)})


def tolerance(model: RunModel) -> float:
    """Return the maximum difference of a probability from the recorded one, on any CPU."""
    return max(TOLERANCES[stream.precision] for stream in model.encoders.values())


def check_canary(folder: Path, model: RunModel) -> float:
    """Return the maximum difference of the probabilities of a bundle's canary, on the CPU.

    Raises InputError if the text, the tokens or the probabilities are not those that were recorded.
    """
    path = folder / CANARY_FILE
    document = read_object(path, "the canary of a bundle")
    text, recorded, inputs = document.get("text"), document.get("probabilities"), document.get("inputs")
    if not (isinstance(text, str) and isinstance(recorded, dict) and isinstance(inputs, dict)):
        raise InputError(f"{path} must hold a text, inputs and probabilities, found {list(document)}")
    now = _inputs(folder, model, text)
    for stream in sorted(now.keys() | inputs.keys()):
        if now.get(stream) != inputs.get(stream):
            raise InputError(
                f"{folder}: the {stream} encoder must read the canary as when it was exported, but its input differs: "
                f"{'the tokenizer or segmenter' if stream == 'text' else 'decoding or resampling'} has changed"
            )
    found = _probabilities(folder, model, text)
    if found.keys() != recorded.keys():
        raise InputError(f"{path} must have probabilities for {', '.join(found)}, found {', '.join(recorded)}")
    return max(_difference(folder, name, scores, recorded[name], model) for name, scores in found.items())


def _difference(
    folder: Path, case: str, scores: np.ndarray[Any, Any], recorded: Mapping[str, float], model: RunModel
) -> float:
    """Return the maximum difference of one case; InputError if it exceeds the tolerance."""
    if not isinstance(recorded, dict) or list(recorded) != sorted(model.labels):
        raise InputError(f"{folder / CANARY_FILE} must have a probability for each label, found {recorded!r}")
    expected = np.array([float(recorded[label]) for label in model.labels])
    difference = float(np.abs(scores - expected).max())
    if not difference <= tolerance(model):  # holds for NaN, too
        raise InputError(
            f"{folder} must give the probabilities that it was exported with, but those of its canary ({case}) differ "
            f"by {difference:.2g}: the weights, the settings or a library have changed, or this machine computes "
            f"differently; {_versions(folder)}"
        )
    return difference


def _versions(folder: Path) -> str:
    """Return a remark about the versions of the packages, then and now."""
    try:
        then: Any = read_object(folder / BUNDLE_FILE, "a bundle")["versions"]
    except (InputError, KeyError):
        return "the bundle records no versions"
    now = package_versions()
    changed = [f"{name} {then[name]} then, {now.get(name)} now" for name in then if then[name] != now.get(name)]
    return "; ".join(changed) or "the versions of the packages are the same"


def _cases(folder: Path, model: RunModel, text: str) -> dict[str, Clip]:
    """Return the inputs by name: with all modalities, and without each one of two."""
    audio = folder / AUDIO_FILE
    if model.modalities != ("text", "audio"):
        only = model.modalities[0]
        return {only: Clip(text=text) if only == "text" else Clip(audio)}
    return {BOTH: Clip(audio, text=text), "audio alone": Clip(audio), "text alone": Clip(text=text)}


def _probabilities(folder: Path, model: RunModel, text: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the probabilities (C,) float64 of each case."""
    cases = _cases(folder, model, text)
    scored = Scorer(model).score(list(cases.values()))
    found = {}
    for name, scores in zip(cases, scored, strict=True):
        if isinstance(scores, Exception):
            raise InputError(f"{folder / AUDIO_FILE} must be readable: {scores}")
        found[name] = scores
    return found


def _inputs(folder: Path, model: RunModel, text: str) -> dict[str, str]:
    """Return a hash of the input of each encoder: of its tokens, or of the decoded samples."""
    hashes = {}
    for name, stream in model.encoders.items():
        if stream.encoder.modality == "text":
            hashes[name] = _digest(stream.encoder.prepare(normalize_text(text)))
        else:
            try:
                samples, rate = soundfile.read(folder / AUDIO_FILE, dtype="int16")
            except (OSError, RuntimeError) as error:
                raise InputError(f"{folder / AUDIO_FILE} must be the audio of the canary, found: {error}") from error
            hashes[name] = hashlib.sha256(f"{rate}|".encode() + samples.tobytes()).hexdigest()
    return hashes


def _digest(tensor: Tensor) -> str:
    """Return the hash of the shape of a tensor, and of its values if they are integers: others are rounded."""
    digest = hashlib.sha256(f"{tuple(tensor.shape)}|".encode())
    if not tensor.is_floating_point():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
