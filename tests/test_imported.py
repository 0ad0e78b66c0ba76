"""Checks of imported features: names, shapes, numbers, lengths; all faults are in one message."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import wave
from tiny_extraction import utterance

from features.errors import InputError
from features.extraction.import_options import StoreImportOptions
from features.extraction.imported import Checked, check_features
from features.manifests.manifest import Utterance
from features.progress import SILENT

Array = np.ndarray[Any, Any]
AUDIO = StoreImportOptions(modality="audio", name="mine", hz=100)
TEXT = StoreImportOptions(modality="text", name="mine")
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("audio")
    for seed, name in enumerate(NAMES):
        soundfile.write(folder / f"{name}.wav", wave(0.5, seed), 16_000)
    return [replace(utterance(name), audio_path=folder / f"{name}.wav") for name in NAMES]


def frames(length: int = 50, dtype: str = "float32", value: float = 1.0) -> Array:
    return np.full((length, 3), value, dtype)


GOOD = {name: frames() for name in NAMES}


def check(features: Mapping[str, Array], utterances: list[Utterance], options: StoreImportOptions = AUDIO) -> Checked:
    return check_features(features, utterances, options, "SOURCE", SILENT)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"b": frames(25), "c": frames(100)}, AUDIO,
         r"the duration times --hz 100, found 25 frames of 'b' for 0.50 s \(50 expected\), 100 frames of 'c'"),
        ({"b": frames(39)}, AUDIO, "found 39 frames of 'b'"),
        ({"b": frames(0)}, AUDIO, "found 0 frames of 'b'"),
        ({"b": frames(value=np.nan)}, AUDIO, "finite numbers in fp32, found nan in 'b' at frame 0, column 0"),
        ({name: frames(dtype="float16", value=np.inf) for name in NAMES}, AUDIO, "finite numbers in fp16, found inf"),
        ({"b": frames(value=1e6)}, AUDIO.model_copy(update={"store_dtype": "fp16"}),
         "finite numbers in fp16, found inf in 'b'"),
        ({"b": frames()[:, :2]}, AUDIO, r"one width D, found 2 .* with D = 3, such as 'a', 1 .* D = 2, such as 'b'"),
        ({"b": frames()[0]}, AUDIO, r"all \(D,\), with one width D, found 2 .* such as 'a', 1 \(D,\) with D = 3"),
        ({"b": frames(dtype="int64")}, AUDIO, r"floating-point arrays .*, found 'b' with int64 \(50, 3\)"),
        ({"b": frames()[None]}, AUDIO, r"found 'b' with float32 \(1, 50, 3\)"),
        ({"b": frames()[:, :0]}, AUDIO, r"found 'b' with float32 \(50, 0\)"),
        ({"b": None, "B": frames()}, AUDIO,
         r"every utterance must have features, but 1 have none \(the features of B have no utterance\); .*found b"),
        ({}, AUDIO.model_copy(update={"hz": None}), r"frames \(T, D\) of audio need --hz, found no --hz"),
        ({name: frames()[0] for name in NAMES}, AUDIO, r"one vector \(D,\) per utterance has no --hz, found --hz 100"),
        ({"b": frames(0)}, TEXT, "an utterance with a transcript must have features, found no tokens of 'b'"),
    ],
)  # fmt: skip
def test_faults_are_refused(
    utterances: list[Utterance], changes: dict[str, Array | None], options: StoreImportOptions, message: str
) -> None:
    features = {name: values for name, values in {**GOOD, **changes}.items() if values is not None}
    with pytest.raises(InputError, match=f"(?s)SOURCE cannot be imported:.*{message}"):
        check(features, utterances, options)


@pytest.mark.parametrize("length", [40, 48, 52, 60])
def test_windows_at_the_ends_may_differ(utterances: list[Utterance], length: int) -> None:
    checked = check({**GOOD, "b": frames(length)}, utterances)
    assert checked.dim == 3 and not checked.vectors and checked.inputs["b"].num_inputs == 8000


def test_all_faults_are_reported_at_once(utterances: list[Utterance], tmp_path: Path) -> None:
    broken = [*utterances, replace(utterance("d"), audio_path=tmp_path / "d.wav")]
    with pytest.raises(InputError) as caught:
        check({**GOOD, "a": frames(9), "b": frames(value=np.nan), "d": frames()}, broken)
    for text in ("9 frames of 'a'", "nan in 'b'", "the audio of each utterance must be readable", "d.wav must be"):
        assert text in str(caught.value)


def test_utterances_without_features_are_left_out_only_if_allowed(utterances: list[Utterance]) -> None:
    allowed = AUDIO.model_copy(update={"allow_missing": True})
    checked = check({"b": frames(), "extra": frames()}, utterances, allowed)
    assert checked.missing == ["a", "c"] and list(checked.inputs) == ["b"]
    with pytest.raises(InputError, match="every utterance must have features, but 3 have none"):
        check({}, utterances, allowed)


def test_an_utterance_without_transcript_has_no_tokens(utterances: list[Utterance]) -> None:
    silent = [*utterances, replace(utterance("d"), transcript=None)]
    checked = check(GOOD, silent, TEXT)
    assert checked.empty == 1 and not checked.missing and checked.inputs["d"].num_inputs == 0
    with pytest.raises(
        InputError, match="an utterance without transcript must have no features, found 50 tokens of 'd'"
    ):
        check({**GOOD, "d": frames()}, silent, TEXT)


def test_the_hash_covers_features_names_and_inputs(utterances: list[Utterance]) -> None:
    first = check(GOOD, utterances).sha256
    assert check(dict(reversed(GOOD.items())), utterances[::-1]).sha256 == first  # the order has no effect
    other_audio = [replace(utterances[0], start=0.1), *utterances[1:]]
    assert len({
        first,
        check({**GOOD, "a": frames(value=2)}, utterances).sha256,
        check({**GOOD, "a": frames(49)}, utterances).sha256,
        check(GOOD, other_audio).sha256,
        check(GOOD, utterances, TEXT).sha256,
    }) == 5  # fmt: skip


def test_the_dtype_is_kept_unless_given(utterances: list[Utterance]) -> None:
    halves = {name: frames(dtype="float16") for name in NAMES}
    assert check(halves, utterances).store_dtype == "fp16"
    assert check({**halves, "a": frames(dtype="float64")}, utterances).store_dtype == "fp32"
