"""BiLSTM, temporal CNN and recurrent fusion equal plain torch on real frames."""

import pytest
import torch
from test_cross_attention import random_sequences, reference_cross_attention
from test_head import make_head
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from features.ragged import Ragged
from mervn.model import recurrent
from mervn.model.recurrent import BiLSTM, TemporalCNN


def test_recurrent_fusions_return_the_attention_weights_of_every_block() -> None:
    torch.manual_seed(0)
    fusion = make_head("cnn_bilstm_attn", "mean", blocks=2).fusion
    streams = {"text": random_sequences(3, 2), "audio": random_sequences(4, 1)}
    weights = fusion.attention_weights(streams)
    assert list(weights) == [f"block_{b}.{way}" for b in (0, 1) for way in ("text_to_audio", "audio_to_text")]
    assert [tuple(w.shape) for w in weights["block_1.audio_to_text"]] == [(2, 4, 3), (2, 1, 2)]
    for utterances in weights.values():
        for found in utterances:
            torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:2]))
    block, (text, audio) = fusion.blocks[1], list(fusion._block_states(streams))[1]
    normal = text.replace(block["text"].query_norm(text.values)), audio.replace(block["text"].key_norm(audio.values))
    reference = reference_cross_attention(block["text"].attention)
    for found, q, k in zip(weights["block_1.text_to_audio"], normal[0].split(), normal[1].split(), strict=True):
        _, expected = reference(q[None], k[None], k[None], average_attn_weights=False)
        torch.testing.assert_close(found, expected[0])


@pytest.mark.parametrize("layers", [1, 2])
def test_bilstm_equals_pack_padded_sequence(layers: int) -> None:
    torch.manual_seed(0)
    module = BiLSTM(6, 5, layers)
    reference = nn.LSTM(6, 5, layers, batch_first=True, bidirectional=True)
    for layer in range(layers):
        for suffix, lstm in (("", module.forwards[layer]), ("_reverse", module.backwards[layer])):
            for name, parameter in lstm.named_parameters():
                getattr(reference, name.replace("l0", f"l{layer}") + suffix).data.copy_(parameter.data)
    sizes = (4, 1, 9, 3)
    x = Ragged.from_sequences([torch.randn(n, 6) for n in sizes])
    packed = pack_padded_sequence(x.pad(), torch.tensor(sizes), batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    torch.testing.assert_close(module.states(x).values, x.pack(expected).values, atol=1e-6, rtol=0)
    plain = x.pack(reference(x.pad())[0]).values  # negative control: a padded backward LSTM begins in the padding
    assert (plain - expected[x.mask]).abs().max() > 1e-2


@pytest.mark.parametrize(("low", "dtype"), [(("cpu",), torch.bfloat16), ((), torch.float32)], ids=["cpu", "gpu"])
def test_under_autocast_an_lstm_runs_in_bf16_only_on_a_cpu(
    low: tuple[str, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent, "LOW_PRECISION_LSTM", low)  # without "cpu", this CPU is treated like a GPU
    module, seen = BiLSTM(6, 5, 2), set()
    for lstm in (*module.forwards, *module.backwards):
        lstm.register_forward_hook(lambda _, __, out: seen.add((out[0].dtype, torch.is_autocast_enabled("cpu"))))
    x = Ragged.from_lengths(torch.randn(9, 6, dtype=torch.bfloat16), (4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        module(x).values.sum().backward()
    assert seen == {(dtype, dtype == torch.bfloat16)}
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_a_dilated_cnn_equals_plain_convolutions_on_one_sequence() -> None:
    torch.manual_seed(0)
    module = TemporalCNN(4, 3, 5, 2)
    sequences = [torch.randn(n, 4) for n in (1, 30, 7)]
    together = module(Ragged.from_sequences(sequences)).split()
    for found, sequence in zip(together, sequences, strict=True):
        x = sequence
        for norm, conv in zip(module.norms, module.convolutions, strict=True):
            x = x + functional.gelu(conv(norm(x).T[None])[0].T)
        torch.testing.assert_close(found, x, atol=1e-6, rtol=1e-5)
    assert [conv.dilation for conv in module.convolutions] == [(1,), (2,), (4,)]


def test_an_even_kernel_is_rejected() -> None:
    with pytest.raises(ValueError, match="kernel must be odd, .* found 4"):
        make_head("cnn_bilstm_attn", "mean", kernel=4)
