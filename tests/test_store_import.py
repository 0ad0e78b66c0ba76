"""The command `mervn store import`: invalid features or options give one clear message, and no store is written."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_feature_files import packed, save_hdf5, save_npy, save_zarr
from tiny import make_data, read_jsonl, write_manifest

from cli.main import run

Array = np.ndarray[Any, Any]
Captured = pytest.CaptureFixture[str]
Features = dict[str, Array]
AUDIO = ["--modality", "audio", "--name", "mine", "--hz", "50"]
TEXT = ["--modality", "text", "--name", "mine"]


def features() -> Features:
    """Return features (T, 3) at 50 Hz of the utterances that `make_data` writes."""
    found = {}
    for split, count in {"train": 5, "valid": 2, "test": 2}.items():
        for i in range(count):
            found[f"{split}-{i:03d}"] = np.full((round(50 * (0.3 + 0.05 * (i % 7))), 3), i + 1, np.float32)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store-import")
    make_data(folder / "data", {"train": 5, "valid": 2, "test": 2})
    save_npy(folder / "npy", features())
    (folder / "empty").mkdir()
    (folder / "a.csv").write_text("1,2\n")
    (folder / "a.h5").write_text("no HDF5")
    return folder


def change(**values: Array | None) -> Callable[[Path], Path]:
    """Return a function that writes the features with these changes to the valid utterances; None leaves one out."""

    def write(folder: Path) -> Path:
        changes = {f"valid-{name}": each for name, each in values.items()}
        return save_npy(folder, {name: each for name, each in {**features(), **changes}.items() if each is not None})

    return write


def pack(suffix: str, **values: Any) -> Callable[[Path], Path]:
    """Return a function that writes packed arrays with these changes."""
    save = save_zarr if suffix == ".zarr" else save_hdf5
    return lambda folder: save(folder.with_suffix(suffix), {**packed(features()), **values})


def damage(content: bytes) -> Callable[[Path], Path]:
    """Return a function that writes features of which one file holds other bytes."""

    def write(folder: Path) -> Path:
        save_npy(folder, features())
        (folder / "valid-000.npy").write_bytes(content)
        return folder

    return write


def at(path: str) -> Callable[[Path], Path]:
    """Return a function that writes nothing."""
    return lambda folder: Path(path)


GOOD = at("npy")
V0, V1 = features()["valid-000"], features()["valid-001"]
CASES: list[tuple[Callable[[Path], Path], list[str], int, str]] = [
    (GOOD, [], 2, "--modality audio|text and --name NAME must be given"),
    (GOOD, AUDIO[:2], 2, "--modality audio|text and --name NAME must be given"),
    (GOOD, ["--modality", "video", *AUDIO[2:]], 2, "--modality: input should be "),
    (GOOD, [*AUDIO[:3], "whisper"], 2, "must not be one of the encoders"),
    (GOOD, [*AUDIO[:3], "my features"], 2, "found 'my features'"),
    (GOOD, [*AUDIO, "--hz", "0"], 2, "--hz: input should be greater than 0"),
    (GOOD, [*AUDIO, "--hz", "fifty"], 2, "--hz: input should be a valid number"),
    (GOOD, [*AUDIO, "--hz", "inf"], 2, "--hz: input should be a finite number"),
    (GOOD, [*TEXT, "--hz", "50"], 2, "--hz is for audio; tokens of text have no rate"),
    (GOOD, [*AUDIO[:4], "--centre", "0.01"], 2, "--centre needs --hz"),
    (GOOD, [*AUDIO, "--layer", "-1"], 2, "--layer: input should be greater than or equal to 0"),
    (GOOD, [*AUDIO, "--splits", "dev"], 2, "--splits"),
    (GOOD, [*AUDIO, "--data", "nowhere"], 2, "the data folder nowhere does not exist"),
    (GOOD, [*AUDIO, "--width", "3"], 2, "No such option"),
    (GOOD, [*AUDIO, "--features-dir", "a.csv/x"], 2, "Not a directory"),
    (at("nowhere"), AUDIO, 2, "nowhere must be a folder of .npy files, an HDF5 file or a Zarr group, but does not exi"),
    (at("empty"), AUDIO, 2, "empty must hold a file UTTERANCE_ID.npy for each utterance, found no .npy file"),
    (at("a.csv"), AUDIO, 2, "a.csv must be a folder, or a file .h5 or .hdf5"),
    (at("a.h5"), AUDIO, 1, "a.h5 must hold the arrays values, offsets, utterance_id, but cannot be read"),
    (pack(".h5", values=[1.0]), AUDIO, 1, "offsets must rise from 0 to 1, the number of frames"),
    (pack(".h5", offsets=[0, 4]), AUDIO, 1, "offsets must be 10 integers, found int64 (2,)"),
    (pack(".h5", utterance_id=["a"] * 9), AUDIO, 1, "utterance_id must hold each id once, found 9 with duplicates"),
    (pack(".zarr", offsets=np.full(10, 0.5)), AUDIO, 1, "offsets must be 10 integers, found float64 (10,)"),
    (damage(b""), AUDIO, 1, "valid-000.npy must be an array of numbers in .npy format, but cannot be read"),
    (damage(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"), AUDIO, 1, "valid-000.npy must be an array of numbers in .npy"),
    (change(**{"000": np.array([{}] * 15)}), AUDIO, 1, "valid-000.npy must be an array of numbers in .npy format"),
    (change(**{"000": None}), AUDIO, 1, "every utterance must have features, but 1 have none"),
    (change(**{"000": V0.astype(np.int32)}), AUDIO, 1, "found 'valid-000' with int32 (15, 3)"),
    (change(**{"000": V0.astype(np.complex64)}), AUDIO, 1, "found 'valid-000' with complex64 (15, 3)"),
    (change(**{"000": V0[None]}), AUDIO, 1, "found 'valid-000' with float32 (1, 15, 3)"),
    (change(**{"000": V0[:, :0]}), AUDIO, 1, "found 'valid-000' with float32 (15, 0)"),
    (change(**{"000": V0[:, :2]}), AUDIO, 1, "1 (T, D) with D = 2, such as 'valid-000'"),
    (change(**{"000": V0[0]}), AUDIO, 1, "1 (D,) with D = 3, such as 'valid-000'"),
    (change(**{"000": V0 * np.nan}), AUDIO, 1, "found nan in 'valid-000' at frame 0, column 0"),
    (change(**{"000": V0 * np.inf}), AUDIO, 1, "found inf in 'valid-000' at frame 0, column 0"),
    (change(**{"000": V0 * 1e5}), [*AUDIO, "--store-dtype", "fp16"], 1, "finite numbers in fp16, found inf in 'va"),
    (change(**{"000": V0[:8]}), AUDIO, 1, "found 8 frames of 'valid-000' for 0.30 s (15 expected)"),
    (change(**{"000": V0[:0], "001": V1[:0]}), AUDIO, 1, "0 frames of 'valid-000' for 0.30 s (15 expected), 0 frames"),
    (GOOD, [*AUDIO, "--hz", "100"], 1, "the number of frames must be the duration times --hz 100"),
    (GOOD, AUDIO[:4], 1, "frames (T, D) of audio need --hz"),
    (GOOD, TEXT, 1, "an utterance without transcript must have no features, found 25 tokens of 'train-004'"),
    (change(**{"000": V0[:0]}), TEXT, 1, "an utterance with a transcript must have features, found no tokens of 'vali"),
]  # fmt: skip


@pytest.fixture
def folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shared)
    return shared


@pytest.mark.parametrize(("make", "arguments", "code", "message"), CASES)
def test_invalid_input_gives_one_message_and_no_store(
    folder: Path,
    tmp_path: Path,
    capsys: Captured,
    make: Callable[[Path], Path],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    source = make(tmp_path / "features")
    assert run(["store", "import", str(source), *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == "", captured.err
    assert len(re.findall("^[eE]rror: ", captured.err, re.MULTILINE)) == 1 and "Traceback" not in captured.err
    assert not (folder / "data" / "stores").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wav_path": "gone.wav"}, "wav_path must be a file, but data/gone.wav does not exist"),
        ({"wav_path": "train.jsonl"}, "the audio of each utterance must be readable"),
        ({"end": 9.0}, "the audio of each utterance must be readable"),
        ({"utterance_id": "valid-001"}, "utterance_id must be unique"),
    ],
)
def test_manifests_and_audio_are_checked_too(
    folder: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    lines = read_jsonl(tmp_path / "data" / "valid.jsonl")
    write_manifest(tmp_path / "data" / "valid.jsonl", [{**lines[0], **change}, lines[1]])
    monkeypatch.chdir(tmp_path)
    assert run(["store", "import", str(folder / "npy"), *AUDIO]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("error: ") == 1, error
    assert not (tmp_path / "data" / "stores").exists()
