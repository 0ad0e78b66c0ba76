"""PhoBERT, ViDeBERTa and similar models: tokenizer, form of the text, and counted truncation."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from tiny import make_data, make_phobert, make_text_transformer, make_videberta, write_manifest

from cli.main import run
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.encoders.transformer_text import TextTransformer
from features.errors import InputError
from features.ragged import Ragged
from features.store.reader import FeatureStore
from features.text.normalize import normalize_text


def load(path: Path, name: str = "phobert", **settings: str) -> TextTransformer:
    encoder = load_encoder(parse_selector(f"{name}={path}", "text"), EncoderSettings(**settings))
    assert isinstance(encoder, TextTransformer)
    return encoder


def identity(encoder: Encoder) -> tuple[str, str]:
    return encoder.weights_sha256, json.dumps(encoder.config, sort_keys=True)


@pytest.fixture(scope="module")
def phobert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phobert(tmp_path_factory.mktemp("models") / "phobert")


def test_a_folder_without_tokenizer_class_gets_phoberts_own(phobert: Path, tmp_path: Path) -> None:
    plain = make_phobert(tmp_path / "plain", tokenizer_class=False)
    assert "tokenizer_class" not in json.loads((plain / "config.json").read_text())
    encoder = load(plain)
    assert type(encoder.tokenizer).__name__ == "PhobertTokenizer"
    assert identity(encoder) == identity(load(phobert))


def test_words_are_segmented_first_and_that_is_in_the_identity(phobert: Path) -> None:
    words, raw = load(phobert), load(phobert, segmenter="none")
    assert words.config["segmenter"].startswith("pyvi ") and raw.config["segmenter"] == "none"
    assert words.prepare("sinh viên").shape == (3,)  # <s> sinh_viên </s>
    assert raw.prepare("sinh viên").shape[0] > 3


def test_nfd_gives_the_ids_of_nfc(phobert: Path) -> None:
    encoder = load(phobert, segmenter="none")
    text = "hôm nay trời đẹp"
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    assert encoder.prepare(normalize_text(decomposed)).tolist() == encoder.prepare(text).tolist()
    assert encoder.tokenizer.unk_token_id not in encoder.prepare(text)


def test_too_many_tokens_are_cut_and_counted(phobert: Path) -> None:
    encoder = load(phobert, segmenter="none")
    assert encoder.max_length == 256
    fits, long = "tôi " * 254, "tôi " * 300
    assert not encoder.is_truncated(fits.strip()) and encoder.is_truncated(long.strip())
    ids = encoder.prepare(long.strip())
    assert ids.shape == (256,) and ids[-1] == encoder.tokenizer.sep_token_id
    assert encoder(Ragged.from_sequences([ids])).values.shape == (256, 32)


def test_the_same_weights_elsewhere_are_the_same_and_any_change_is_another(phobert: Path, tmp_path: Path) -> None:
    from transformers import RobertaModel

    before = identity(load(phobert))
    moved = shutil.copytree(phobert, tmp_path / "moved")
    assert identity(load(moved)) == before
    (moved / "model.safetensors").unlink()  # another file layout
    torch.save(RobertaModel.from_pretrained(phobert, add_pooling_layer=False).state_dict(), moved / "pytorch_model.bin")
    assert identity(load(moved)) == before
    vocabulary = (phobert / "vocab.txt").read_text("utf-8").splitlines()
    vocabulary[0], vocabulary[1] = vocabulary[1], vocabulary[0]
    other = shutil.copytree(phobert, tmp_path / "other")
    (other / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    assert identity(load(other)) != before
    assert identity(load(phobert, tone_style="old")) != before


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    folder = make_phobert(tmp_path / "small", vocab_size=20)
    with pytest.raises(InputError, match="the tokenizer must fit the model, found .* tokens for 20 embeddings"):
        load(folder)


def test_videberta_reads_its_sentencepiece_model(tmp_path: Path) -> None:
    folder = make_videberta(tmp_path / "videberta")
    assert load(folder, "videberta").words("tôi là sinh viên") == "tôi là sinh_viên"  # pyvi's words by default
    encoder = load(folder, "videberta", segmenter="none")
    ids = encoder.prepare("hôm nay trời đẹp")
    tokenizer = encoder.tokenizer
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[1:-1]) == "hôm nay trời đẹp"
    (folder / "spm.model").unlink()
    for extra in folder.glob("tokenizer*"):
        extra.unlink()
    with pytest.raises(InputError, match="must hold the tokenizer's vocabulary, found none"):
        load(folder, "videberta")


@pytest.mark.parametrize("name", ["phobert", "videberta"])
def test_a_checkpoint_goes_through_extraction_and_training(name: str, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    model = {"phobert": make_phobert, "videberta": make_videberta}[name](tmp_path / "model")
    entry = json.loads((data / "train.jsonl").read_text("utf-8").splitlines()[0])
    lines = [entry | {"utterance_id": "long", "transcript": "tôi " * 400}]
    with (data / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(lines[0]) + "\n")
    encoder = ["--text-encoder", f"{name}={model}", "--segmenter", "none"]
    assert run(["extract", "--data", str(data), *encoder]) == 0
    (path,) = (data / "stores" / "text").iterdir()
    store = FeatureStore(path)
    assert len(store["long"]) == {"phobert": 256, "videberta": 128}[name]
    assert store["train-004"].shape == (0, 32)  # no transcript
    output = tmp_path / "run"
    train = ["train-head", "--data", str(data), "--fusion", "text", "--pooling", "cls", "--epochs", "2"]
    assert run([*train, "--output", str(output)]) == 0
    moved = shutil.copytree(model, tmp_path / "moved")
    assert run(["extract", "--data", str(data), "--text-encoder", f"{name}={moved}", "--segmenter", "none"]) == 0
    assert list((data / "stores" / "text").iterdir()) == [path]  # the same weights elsewhere are the same store
    assert run(["extract", "--data", str(data), "--text-encoder", f"{name}={moved}@1", "--segmenter", "none"]) == 0
    assert len(list((data / "stores" / "text").iterdir())) == 2


def test_what_is_cut_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "data", {"train": 2})
    entry = json.loads((data / "train.jsonl").read_text("utf-8").splitlines()[0])
    write_manifest(data / "train.jsonl", [entry | {"transcript": "tôi " * 300}])
    encoder = f"phobert={make_phobert(tmp_path / 'model')}"
    arguments = ["extract", "--data", str(data), "--splits", "train", "--text-encoder", encoder, "--segmenter", "none"]
    assert run([*arguments, "--json"]) == 0
    found = capsys.readouterr()
    assert "1 transcripts exceed the maximum length and are truncated" in found.err
    assert json.loads(found.out.splitlines()[-1])["stores"][0]["truncated"] == 1


def test_the_identity_of_an_encoder_without_causal_attention_does_not_change(tmp_path: Path) -> None:
    encoder = load(make_text_transformer(tmp_path / "Electra", "Electra"), "transformer")
    assert set(encoder.config) == {"model", "tokenizer_sha256", "segmenter", "tone_style", "longest"}
    assert encoder.prepare("hôm " * 600).tolist()[-1] == encoder.tokenizer.sep_token_id


def test_a_model_of_text_and_images_is_refused(tmp_path: Path) -> None:
    import transformers

    folder = make_text_transformer(tmp_path / "clip", "Electra")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text, image = {**sizes, "vocab_size": 60}, {**sizes, "image_size": 4, "patch_size": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    with pytest.raises(InputError, match="must hold a text model, found CLIPModel"):
        load(folder, "transformer")
