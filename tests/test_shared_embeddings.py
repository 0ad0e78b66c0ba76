"""DeBERTa-v3 checkpoints that contain only the difference to their generator's word embeddings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_videberta

from cli.main import run
from features.encoders.base import load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.encoders.transformer_text import TextTransformer
from features.errors import InputError
from features.ragged import Ragged

WEIGHT, DIFFERENCE = "embeddings.word_embeddings.weight", "embeddings.word_embeddings._weight"
GENERATOR = {"model.generator.safetensors": "deberta.", "pytorch_model.generator.bin": "module.deberta."}
Tensors = dict[str, torch.Tensor]


def load(folder: Path) -> TextTransformer:
    encoder = load_encoder(parse_selector(f"videberta={folder}", "text"), EncoderSettings(segmenter="none"))
    assert isinstance(encoder, TextTransformer)
    return encoder


def write(path: Path, tensors: Tensors) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, {"format": "pt"})


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videberta(tmp_path_factory.mktemp("models") / "merged")


@pytest.fixture
def released(merged: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A folder in the layout of the release, and the generator's embedding, which is not in it."""
    folder = shutil.copytree(merged, tmp_path / "released")
    tensors = load_file(folder / "model.safetensors")
    whole = tensors.pop(WEIGHT)
    generator = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    tensors[DIFFERENCE] = whole - generator
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin", {f"deberta.{name}": tensor for name, tensor in tensors.items()})
    return folder, generator


@pytest.mark.parametrize("name", GENERATOR)
def test_difference_and_generator_give_the_merged_model(
    merged: Path, released: tuple[Path, torch.Tensor], tmp_path: Path, name: str
) -> None:
    folder, generator = released
    head = {"lm_predictions.lm_head.bias": torch.zeros(3)}
    write(folder / name, {f"{GENERATOR[name]}{WEIGHT}": generator} | head)
    encoder, reference = load(folder), load(merged)
    state, expected = encoder.model.state_dict(), reference.model.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, atol=1e-6 if key == WEIGHT else 0.0, rtol=0.0)
    ids = Ragged.from_sequences([reference.prepare(text) for text in ("hôm nay trời đẹp", "tôi vui lắm")])
    torch.testing.assert_close(encoder(ids).values, reference(ids).values, atol=1e-5, rtol=0.0)
    with torch.no_grad():  # a control: the embedding matters
        encoder.model.get_input_embeddings().weight.sub_(generator)
    assert float((encoder(ids).values - reference(ids).values).abs().max()) > 0.1
    whole = load(folder)
    shutil.copytree(folder, tmp_path / "saved")
    (tmp_path / "saved" / name).unlink()
    (tmp_path / "saved" / "pytorch_model.bin").unlink()
    whole.save(tmp_path / "saved")  # needs no generator any more
    assert load(tmp_path / "saved").weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_sharded_difference_is_found(merged: Path, released: tuple[Path, torch.Tensor], suffix: str) -> None:
    """Regression test: it was only looked for in a single file, and the message asked for the generator."""
    folder, generator = released
    (folder / "pytorch_model.bin").rename(folder / "single")
    tensors = torch.load(folder / "single", weights_only=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    weight_map = {}
    for i, key in enumerate(sorted(tensors)):
        weight_map[key] = f"{stem}-0000{1 + i % 2}-of-00002{suffix}"
    for name in set(weight_map.values()):
        write(folder / name, {key: tensor for key, tensor in tensors.items() if weight_map[key] == name})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    write(folder / "model.generator.safetensors", {f"deberta.{WEIGHT}": generator})
    state, expected = load(folder).model.state_dict(), load(merged).model.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, atol=1e-6 if key == WEIGHT else 0.0, rtol=0.0)


def test_the_difference_alone_is_explained(released: tuple[Path, torch.Tensor]) -> None:
    folder, generator = released
    message = (
        r"released contains embeddings.word_embeddings._weight, the difference to the generator's embedding in .*"
        r"Put the generator's weights into that folder as model.generator.safetensors or pytorch_model.generator.bin"
    )
    with pytest.raises(InputError, match=message):
        load(folder)
    write(folder / "pytorch_model.generator.bin", {"another": generator})
    with pytest.raises(InputError, match=message):
        load(folder)
    write(folder / "pytorch_model.generator.bin", {f"deberta.{WEIGHT}": generator[:, :16].clone()})
    with pytest.raises(InputError, match=r"must have the shape \(80, 32\) of config.json.*found \(80, 16\) and"):
        load(folder)


def test_a_checkpoint_that_holds_both_is_complete(merged: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(merged, tmp_path / "both")
    tensors = load_file(folder / "model.safetensors")
    write(folder / "model.safetensors", tensors | {DIFFERENCE: torch.ones_like(tensors[WEIGHT])})
    assert load(folder).weights_sha256 == load(merged).weights_sha256


def test_a_missing_embedding_is_refused_as_ever(merged: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(merged, tmp_path / "without")
    tensors = load_file(folder / "model.safetensors")
    del tensors[WEIGHT]
    write(folder / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"1 are missing .* such as embeddings.word_embeddings.weight"):
        load(folder)


def test_what_videberta_needs_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["encoders"]) == 0
    assert "the generator's as pytorch_model.generator.bin" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match="videberta needs videberta=FOLDER with config.json, spm.model, the released"):
        load_encoder(parse_selector("videberta", "text"))
