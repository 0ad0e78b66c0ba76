"""Checkpoints for speech recognition: the layout of PhoWhisper, and faults that are found before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ASR_TOKENS, make_whisper, make_whisper_asr, wave

from features.errors import InputError, UsageError
from mervn.transcription.asr_checkpoint import load_checkpoint
from mervn.transcription.transcribe import load_recognizer
from mervn.transcription.transcribe_options import parse_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper_asr(tmp_path_factory.mktemp("whisper"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """Return a copy that a test can change."""
    return Path(shutil.copytree(original, tmp_path / "whisper"))


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def as_phowhisper(folder: Path) -> None:
    """Give a folder the files of PhoWhisper: old weights, slow tokenizer, settings of decoding in config.json."""
    weights = load_file(folder / "model.safetensors")
    torch.save(
        {**weights, "proj_out.weight": weights["model.decoder.embed_tokens.weight"]}, folder / "pytorch_model.bin"
    )
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = document["model"]["vocab"]
    plain = {token: i for token, i in vocabulary.items() if token not in ASR_TOKENS[1:]}
    ids = {token: vocabulary[token] for token in ASR_TOKENS[1:]}
    settings = json.loads((folder / "generation_config.json").read_text())
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text(json.dumps(plain, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "normalizer.json").write_text("{}")
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({**special, "pad_token": "<|endoftext|>", "additional_special_tokens": list(ASR_TOKENS[1:])})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "tokenizer_class": "WhisperTokenizer"}))
    forced = [[1, ids["<|vi|>"]], [2, ids["<|transcribe|>"]], [3, ids["<|notimestamps|>"]]]
    suppressed = {key: settings[key] for key in ("suppress_tokens", "begin_suppress_tokens")}
    edit(folder / "config.json", forced_decoder_ids=forced, **suppressed)


def test_a_folder_in_the_layout_of_phowhisper_gives_the_same_text(original: Path, folder: Path) -> None:
    as_phowhisper(folder)
    waves = [wave(0.5 + i, i, pitch=150.0 + 100 * i) for i in range(3)]
    first, second = (load_recognizer(f"whisper={each}", device="cpu") for each in (original, folder))
    assert second.recognize(waves) == first.recognize(waves)
    assert second.identity() == first.identity()


def test_weights_settings_and_language_change_the_identity(original: Path, folder: Path) -> None:
    before = load_checkpoint(parse_model(f"whisper={original}"), "vi").identity()
    assert load_checkpoint(parse_model(f"whisper={folder}"), "vi").identity() == before
    assert load_checkpoint(parse_model(f"whisper={folder}"), "en").identity() != before
    edit(folder / "generation_config.json", begin_suppress_tokens=[1])
    assert load_checkpoint(parse_model(f"whisper={folder}"), "vi").identity() != before
    shutil.copy(original / "generation_config.json", folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.layers.0.fc1.bias"] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_checkpoint(parse_model(f"whisper={folder}"), "vi").identity() != before


def drop_decoder_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.layers.1.fc1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def only_encoder(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name.removeprefix("model."): value for name, value in weights.items() if ".encoder." in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing weight": (drop_decoder_weight, "1 are missing .*decoder.layers.1.fc1.weight"),
    "only the encoder": (only_encoder, "Speech recognition needs the decoder of a Whisper model too"),
    "more layers than the config": (
        lambda folder: edit(folder / "config.json", decoder_layers=1), "it has no place for .* decoder.layers.1"
    ),
    "no tokenizer": (no_tokenizer, "whisper"),
    "English only": (
        lambda folder: edit(folder / "generation_config.json", is_multilingual=False), "the model must be multilingual"
    ),
    "settings that are no ids": (
        lambda folder: edit(folder / "generation_config.json", suppress_tokens=[-1]),
        r"suppress_tokens must be a list of token ids below 417, found \[-1\]",
    ),
    "another window": (
        lambda folder: edit(folder / "preprocessor_config.json", n_samples=16_000, chunk_length=1),
        "preprocessor_config.json must fit config.json: a window of 48000 samples, 80 mels",
    ),
    "damaged settings": (
        lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config.json"
    ),
    "another model": (lambda folder: edit(folder / "config.json", model_type="bert"), "must say model_type 'whisper'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_refused_with_the_option_that_named_it(fault: str, folder: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(InputError, match=rf"(?s)^--model whisper=.*{message}") as error:
        load_checkpoint(parse_model(f"whisper={folder}"), "vi")
    assert "--audio-encoder" not in str(error.value)


def test_an_encoder_alone_has_no_tokenizer_and_no_decoder(tmp_path: Path) -> None:
    folder = make_whisper(tmp_path / "encoder")
    with pytest.raises(InputError, match="--model whisper="):
        load_checkpoint(parse_model(f"whisper={folder}"), "vi")


def test_an_unknown_language_or_form_of_model_says_what_is_allowed(folder: Path) -> None:
    with pytest.raises(UsageError, match="--language must be one of the model's: en, vi; found 'fr'"):
        load_checkpoint(parse_model(f"whisper={folder}"), "fr")
    for text in ("whisper", "whisper=", "vinai/PhoWhisper-small", "wav2vec2=x"):
        with pytest.raises(UsageError, match="--model must have the form whisper=MODEL"):
            parse_model(text)
    with pytest.raises(UsageError, match=r"--model whisper=./none: the folder ./none does not exist"):
        load_checkpoint(parse_model("whisper=./none"), "vi")
