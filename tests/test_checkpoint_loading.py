"""A checkpoint that cannot be loaded whole is refused with words that help."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny import make_whisper

from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError


def load(model: object) -> None:
    load_encoder(parse_selector(f"whisper={model}", "audio"))


def drop_a_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layers.1.fc1.weight"]
    save_file(weights, path, {"format": "pt"})


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def change_config(folder: Path, name: str, key: str, value: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing weight": (drop_a_weight, "must hold every weight of the encoder, but 1 are missing"),
    "cut weights": (cut_weights, "could not be loaded from the folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "which holds config.json, preprocessor_config.json"),
    "no preprocessor": (lambda f: (f / "preprocessor_config.json").unlink(), "Give a local folder with config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json must be a JSON file"),
    "bad config": (lambda f: (f / "config.json").write_text("{"), "config.json must be a JSON file"),
    "other model": (
        lambda f: change_config(f, "config.json", "model_type", "wav2vec2"),
        "must say model_type 'whisper', found 'wav2vec2'",
    ),
    "other window": (
        lambda f: change_config(f, "preprocessor_config.json", "chunk_length", 30),
        "must fit config.json: a window of 150 rows",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_folders_are_explained(fault: str, tmp_path: Path) -> None:
    folder = make_whisper(tmp_path / "whisper")
    damage, message = BROKEN[fault]
    damage(folder)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_folder_that_is_not_there_and_a_hub_id_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder ./nowhere"):
        load("./nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found the file"):
        load(tmp_path / "file")
    with pytest.raises(InputError, match=r"in the local hub cache and on the hub.*\n.*--audio-encoder whisper=/path"):
        load("nobody/no-such-model")


def test_the_same_weights_in_another_folder_and_dtype_are_the_same_encoder(tmp_path: Path) -> None:
    first = make_whisper(tmp_path / "one")
    second = make_whisper(tmp_path / "two" / "deeper")
    hashes = [load_encoder(parse_selector(f"whisper={folder}", "audio")).weights_sha256 for folder in (first, second)]
    assert hashes[0] == hashes[1]
    other = make_whisper(tmp_path / "three", seed=1)
    assert load_encoder(parse_selector(f"whisper={other}", "audio")).weights_sha256 != hashes[0]
