"""Decoder-only language models: equal to transformers, recognized as causal, truncated at the end."""

import json
from pathlib import Path

import pytest
import torch
from tiny import make_data, make_language_model, make_text_transformer, read_jsonl

from cli.main import run
from features.encoders.base import load_encoder
from features.encoders.batch_probe import probe_tokens
from features.encoders.language_models import is_causal, readable_token, truncate_causal
from features.encoders.selector import parse_selector
from features.encoders.transformer_text import TextTransformer
from features.ragged import Ragged


def load(folder: Path, layers: str = "last") -> TextTransformer:
    encoder = load_encoder(parse_selector(f"transformer={folder}@{layers}", "text"))
    assert isinstance(encoder, TextTransformer)
    return encoder


@pytest.mark.parametrize(("kind", "expected"), [("GPT2", True), ("Electra", False), ("T5", False), ("Mamba", True)])
def test_a_causal_architecture_is_recognized(tmp_path: Path, kind: str, expected: bool) -> None:
    encoder = load(make_text_transformer(tmp_path / kind, kind))
    assert encoder.causal == expected
    assert encoder.config.get("causal", False) == expected
    with torch.inference_mode():
        assert is_causal(encoder.model, probe_tokens(encoder.model.config.vocab_size, 8)[1]) == expected


@pytest.mark.parametrize("kind", ["Qwen2", "Gemma", "Llama"])
def test_a_language_model_gives_the_hidden_states_of_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    folder = make_language_model(tmp_path / kind, kind)
    encoder = load(folder, "0,1,3,last")
    assert encoder.config["causal"] is True
    texts = ["hôm nay trời đẹp", "ừ", "tôi không biết phải nói gì"]
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        together = encoder.forward_layers(Ragged.from_sequences([encoder.prepare(text) for text in texts]))
        for i, text in enumerate(texts):
            encoded = tokenizer(text, return_tensors="pt")
            assert encoder.prepare(text).tolist() == encoded["input_ids"][0].tolist()
            states = reference(**encoded, output_hidden_states=True).hidden_states
            for layer, found in zip((0, 1, 3, 3), together, strict=True):
                torch.testing.assert_close(found.split()[i], states[layer][0], atol=2e-5, rtol=1e-5)


def test_a_language_model_needs_no_special_tokens_and_keeps_the_first_ones_of_a_long_text(tmp_path: Path) -> None:
    encoder = load(make_language_model(tmp_path / "qwen2", "Qwen2"))
    tokenizer = encoder.tokenizer
    assert not set(encoder.prepare("hôm nay trời đẹp").tolist()) & set(tokenizer.all_special_ids)
    assert encoder.token_texts("hôm nay") == ["hôm", "nay"]
    text = "hôm nay trời đẹp " * 30
    ids = tokenizer(text)["input_ids"]
    assert encoder.is_truncated(text) and encoder.prepare(text).tolist() == ids[:64] != [*ids[:63], ids[-1]]


def test_a_language_model_goes_through_extraction_training_and_fine_tuning(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 8, "valid": 4, "test": 2})
    model, output = make_language_model(tmp_path / "qwen2", "Qwen2"), tmp_path / "run"
    assert run(["extract", "--data", str(data), "--text-encoder", f"transformer={model}"]) == 0
    small = ["--epochs", "1", "--dim", "8", "--mlp", "4"]
    train = ["train-head", "--data", str(data), "--fusion", "text", "--pooling", "cls", "--output", str(output)]
    assert run([*train, *small]) == 0
    assert json.loads((output / "config.json").read_text())["streams"]["text"]["causal"] is True
    tuned = ["finetune", "--init-head", str(output), "--output", str(tmp_path / "tuned"), "--unfreeze-last", "1"]
    assert run([*tuned, "--epochs", "1", "--workers", "0"]) == 0
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["streams"]["text"]["causal"] is True
    assert run(["evaluate", str(tmp_path / "tuned")]) == 0
    assert len(read_jsonl(tmp_path / "tuned" / "predictions-valid.jsonl")) == 4


def test_a_final_special_token_is_kept_when_a_text_is_truncated() -> None:
    assert truncate_causal([5, 6, 7, 8], 3, (1, 2)) == [5, 6, 7]
    assert truncate_causal([1, 6, 7, 2], 3, (1, 2)) == [1, 6, 2]


def test_tokens_of_incomplete_characters_keep_their_names(tmp_path: Path) -> None:
    tokenizer = load(make_language_model(tmp_path / "qwen2", "Qwen2")).tokenizer
    names = tokenizer.tokenize("ừ nay")
    assert [readable_token(tokenizer, name) for name in names][-1] == "nay"
    split = tokenizer.tokenize("€")
    assert len(split) == 3 and [readable_token(tokenizer, name) for name in split] == split
