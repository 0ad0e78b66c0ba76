"""Incomplete, damaged and mismatched checkpoints are refused with messages that help."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_phobert, make_text_transformer, make_wave_transformer, make_whisper, wave

from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.ragged import Ragged


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


def write_index(folder: Path, shard: object) -> None:
    (folder / "model.safetensors").rename(folder.parent.parent / "weights.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))


def change_config(folder: Path, name: str, key: str, value: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing weight": (drop_a_weight, "must hold every weight of the encoder, but 1 are missing"),
    "cut weights": (cut_weights, "could not be loaded from the folder"),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "which contains config.json, preprocessor_config.json",
    ),
    "no preprocessor": (lambda f: (f / "preprocessor_config.json").unlink(), "Use a local folder with config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json must be a JSON file"),
    "bad config": (lambda f: (f / "config.json").write_text("{"), "config.json must be a JSON file"),
    "deep config": (lambda f: (f / "config.json").write_text("[" * 200_000), "config.json must be a JSON file"),
    "foreign shard": (
        lambda f: write_index(f, "../../weights.safetensors"),
        r"model.safetensors.index.json must name files in its own folder, found '../../weights.safetensors'",
    ),
    "number for a shard": (lambda f: write_index(f, 5), "index.json must name files in its own folder, found 5"),
    "other model": (
        lambda f: change_config(f, "config.json", "model_type", "wav2vec2"),
        "must say model_type 'whisper', found 'wav2vec2'",
    ),
    "other window": (
        lambda f: change_config(f, "preprocessor_config.json", "chunk_length", 30),
        "must fit config.json: a window of 150 frames",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_folders_are_explained(fault: str, tmp_path: Path) -> None:
    folder = make_whisper(tmp_path / "models" / "whisper")
    damage, message = BROKEN[fault]
    damage(folder)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_folder_that_is_not_there_and_a_hub_id_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder ./nowhere does not exist"):
        load("./nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="found the file"):
        load(tmp_path / "file")
    with pytest.raises(InputError, match=r"in the local hub cache or on the hub.*\n.*--audio-encoder whisper=/path"):
        load("nobody/no-such-model")


def test_the_same_weights_in_another_folder_and_dtype_are_the_same_encoder(tmp_path: Path) -> None:
    first = make_whisper(tmp_path / "one")
    second = make_whisper(tmp_path / "two" / "deeper")
    hashes = [load_encoder(parse_selector(f"whisper={folder}", "audio")).weights_sha256 for folder in (first, second)]
    assert hashes[0] == hashes[1]
    other = make_whisper(tmp_path / "three", seed=1)
    assert load_encoder(parse_selector(f"whisper={other}", "audio")).weights_sha256 != hashes[0]


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def replace_weights(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, folder / "pytorch_model.bin")


def set_config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for key, value in changes.items():
            change_config(folder, "config.json", key, value)

    return change


MISLEADING: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer for weights": (
        lambda f: (f / "model.safetensors").write_text(POINTER),
        r"model\.safetensors is a git-lfs pointer .* run `git lfs pull`",
    ),
    "pointer for codes": (lambda f: (f / "bpe.codes").write_text(POINTER), r"bpe\.codes is a git-lfs pointer"),
    "page for weights": (
        lambda f: (f / "model.safetensors").write_text("<!DOCTYPE html><html>"),
        r"model\.safetensors is an HTML page in place of the file: download the file itself",
    ),
    "page for config": (lambda f: (f / "config.json").write_text("\n<html>"), r"config\.json is an HTML page"),
    "list for config": (lambda f: (f / "config.json").write_text("[]"), "must be a JSON file .* it contains a list"),
    "empty bin": (lambda f: replace_weights(f, b""), r"pytorch_model\.bin is empty: copy the file again"),
    "noise for bin": (
        lambda f: replace_weights(f, b"\x00\x01abc" * 99),
        r"its \.bin file is damaged, or contains objects",
    ),
    "objects in bin": (lambda f: replace_weights(f, Path("x")), r"its \.bin file is damaged, or contains objects"),
    "list in bin": (lambda f: replace_weights(f, [1, 2]), "could not be loaded from the folder"),
    "other keys in bin": (lambda f: replace_weights(f, {"a": torch.zeros(2)}), "but 37 are missing"),
    "no vocabulary": (
        lambda f: (f / "vocab.txt").unlink(),
        r"hold vocab\.txt and bpe\.codes, but vocab\.txt is missing",
    ),
    "no codes": (lambda f: (f / "bpe.codes").unlink(), r"but bpe\.codes is missing"),
    "other width": (
        set_config(hidden_size=64),
        r"35 have another shape, such as .*: \(32,\) in the weights, \(64,\) by",
    ),
    "odd heads": (
        set_config(num_attention_heads=5),
        "not a multiple .*\n.* config.json, the tokenizer's files and model",
    ),
    "a word for layers": (set_config(num_hidden_layers="two"), "expected int, got str"),
    "unknown activation": (set_config(hidden_act="gellu"), "KeyError 'gellu'"),
    "fewer layers": (set_config(num_hidden_layers=1), "no place for 16 of them, such as encoder.layer.1."),
}


@pytest.mark.parametrize("fault", MISLEADING)
def test_each_damage_has_one_message_that_names_it(fault: str, tmp_path: Path) -> None:
    folder = make_phobert(tmp_path / "phobert")
    damage, message = MISLEADING[fault]
    damage(folder)
    with pytest.raises(InputError, match=f"(?s){message}") as raised:
        load_encoder(parse_selector(f"phobert={folder}", "text"))
    assert "preprocessor_config.json" not in str(raised.value)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm", "data2vec"])
def test_a_config_that_leaves_weights_of_the_encoder_out_is_refused(kind: str, tmp_path: Path) -> None:
    selector = parse_selector(f"{kind}={make_wave_transformer(tmp_path / kind, kind)}", "audio")
    change_config(tmp_path / kind, "config.json", "num_hidden_layers", 2)
    with pytest.raises(InputError, match="describe all weights of the encoder, .* such as encoder.layers.2."):
        load_encoder(selector)


def test_a_config_that_leaves_out_part_of_the_front_end_or_of_whisper_is_refused(tmp_path: Path) -> None:
    folder = make_wave_transformer(tmp_path / "wav2vec2")
    change_config(folder, "config.json", "feat_extract_norm", "group")
    with pytest.raises(InputError, match="such as feature_extractor.conv_layers.1.layer_norm"):
        load_encoder(parse_selector(f"wav2vec2={folder}", "audio"))
    whisper = make_whisper(tmp_path / "whisper")
    change_config(whisper, "config.json", "encoder_layers", 2)
    with pytest.raises(InputError, match="such as encoder.layers.2."):
        load(whisper)


def add_weights(folder: Path, *names: str, prefix: str = "") -> None:
    weights = {f"{prefix}{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    extra = {name: torch.zeros(2) for name in names}
    save_file(weights | extra, folder / "model.safetensors", {"format": "pt"})


def test_heads_and_old_buffers_may_be_left_out(tmp_path: Path) -> None:
    audio = make_wave_transformer(tmp_path / "wav2vec2")
    selector = parse_selector(f"wav2vec2={audio}", "audio")
    before = load_encoder(selector).weights_sha256
    add_weights(audio, "lm_head.weight", "quantizer.codevectors", "project_hid.bias", prefix="wav2vec2.")
    assert load_encoder(selector).weights_sha256 == before
    add_weights(audio, "wav2vec2.encoder.layers.0.lora_A.weight")
    with pytest.raises(InputError, match="such as encoder.layers.0.lora_A.weight"):
        load_encoder(selector)
    text = make_phobert(tmp_path / "phobert")
    selector = parse_selector(f"phobert={text}", "text")
    before = load_encoder(selector).weights_sha256
    heads = "lm_head.dense.weight", "roberta.pooler.dense.weight", "roberta.embeddings.position_ids"
    add_weights(text, *heads, prefix="roberta.")
    assert load_encoder(selector).weights_sha256 == before


def test_how_a_config_wants_results_returned_changes_nothing(tmp_path: Path) -> None:
    folder = make_wave_transformer(tmp_path / "wav2vec2")
    selector = parse_selector(f"wav2vec2={folder}", "audio")
    before = load_encoder(selector)
    inputs = Ragged.from_sequences([before.prepare(wave(0.3, 0))])
    returned = set_config(return_dict=False, output_hidden_states=True, output_attentions=True)
    kernel = set_config(output_attentions=False, _attn_implementation="somebody/kernel")  # code of the hub
    for change in (returned, kernel):
        change(folder)
        after = load_encoder(selector)
        assert after.config == before.config
        torch.testing.assert_close(after(inputs).values, before(inputs).values, atol=0, rtol=0)


def test_code_of_a_checkpoint_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_text_transformer(tmp_path / "model", "Bert")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    code = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    for name in ("config.json", "tokenizer_config.json"):
        change_config(folder, name, "auto_map", code)
    selector = parse_selector(f"transformer={folder}", "text")
    assert load_encoder(selector).dim == 32  # a known type is loaded by transformers' own class
    change_config(folder, "config.json", "model_type", "of_its_own")
    with pytest.raises(InputError, match=r"needs custom code \(auto_map\), which is never executed"):
        load_encoder(selector)
    assert not (tmp_path / "executed").exists()


def test_whispers_dither_is_off(tmp_path: Path) -> None:
    folder = make_whisper(tmp_path / "whisper")
    selector = parse_selector(f"whisper={folder}@1", "audio")
    plain = load_encoder(selector)
    change_config(folder, "preprocessor_config.json", "dither", 0.1)
    encoder = load_encoder(selector)
    inputs = Ragged.from_sequences([encoder.prepare(wave(0.5, 0))])
    assert torch.equal(encoder(inputs).values, plain(inputs).values)


def test_half_of_an_encoder_decoder_is_not_saved(tmp_path: Path) -> None:
    for kind in ("T5", "Bart"):
        encoder = load_encoder(parse_selector(f"transformer={make_text_transformer(tmp_path / kind, kind)}", "text"))
        with pytest.raises(InputError, match="is the encoder of an encoder-decoder, which cannot be fine-tuned"):
            encoder.save(tmp_path / "saved")
