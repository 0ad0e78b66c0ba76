"""Untested text architectures: encoded one at a time if their features depend on the batch."""

from pathlib import Path

import pytest
import torch
from tiny import make_text_transformer

from features.encoders.base import load_encoder
from features.encoders.batch_probe import depends_on_batch, differs, probe_tokens
from features.encoders.selector import parse_selector
from features.encoders.transformer_text import TextTransformer
from features.errors import InputError
from features.ragged import Ragged


def load(folder: Path, layers: str = "all") -> TextTransformer:
    encoder = load_encoder(parse_selector(f"transformer={folder}@{layers}", "text"))
    assert isinstance(encoder, TextTransformer)
    return encoder


def test_tokens_are_the_same_in_every_call_and_fit_the_model() -> None:
    first, second = probe_tokens(40, 512), probe_tokens(40, 512)
    assert [len(tokens) for tokens in first] == [3, 11]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert max(map(len, probe_tokens(40, 5))) == 5
    assert max(int(tokens.max()) for tokens in first) < 40


def test_differences_are_relative_and_nan_differs() -> None:
    ones = torch.ones(2, 3)
    assert not differs(ones, ones + 1e-6)
    assert differs(ones, ones + 1e-3)
    assert not differs(1e4 * ones, 1e4 * ones + 1e-1)
    assert differs(ones, ones * float("nan"))
    assert differs(ones, torch.ones(3, 3))


@pytest.mark.parametrize("kind", ["FNet", "ConvBert"])
def test_an_architecture_that_depends_on_the_batch_is_encoded_one_at_a_time(tmp_path: Path, kind: str) -> None:
    """FNet's features differed by 3.5 with the batch, silently."""
    encoder = load(make_text_transformer(tmp_path / kind, kind), "last")
    assert encoder.one_at_a_time
    assert encoder.config["one_at_a_time"] is True
    sequences = probe_tokens(encoder.model.config.vocab_size, encoder.max_length)
    with torch.inference_mode():
        assert not depends_on_batch(encoder.forward_layers, sequences)
        together = encoder.forward_layers(Ragged.from_sequences(sequences))
        assert together[0].sizes == (3, 11)
        encoder.one_at_a_time = False
        assert depends_on_batch(encoder.forward_layers, sequences)


@pytest.mark.parametrize("kind", ["DistilBert", "Electra"])
def test_an_architecture_that_masks_its_padding_is_encoded_in_batches(tmp_path: Path, kind: str) -> None:
    encoder = load(make_text_transformer(tmp_path / kind, kind))
    assert not encoder.one_at_a_time
    assert "one_at_a_time" not in encoder.config


def test_a_model_without_a_limit_of_positions_reads_whole_transcripts(tmp_path: Path) -> None:
    """XLNet says -1: all but the last tokens were cut, and the cut was silent."""
    encoder = load(make_text_transformer(tmp_path / "XLNet", "XLNet", d_head=8), "last")
    assert encoder.max_length == 512
    assert not encoder.one_at_a_time
    assert encoder.prepare("hôm nay tôi vui").shape == (6,)


def test_numbered_layers_that_are_no_hidden_states_are_refused(tmp_path: Path) -> None:
    folder = make_text_transformer(tmp_path / "mamba", "Mamba")
    assert load(folder, "last").num_layers == 3
    with pytest.raises(InputError, match="must be hidden states of the model, 0, 1 of mamba are not: use 'last'"):
        load(folder, "0,1")
