"""Every fusion with every pooling: an utterance's numbers are its own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import features.ragged
from features.errors import UsageError
from features.lazy_import import import_target
from features.ragged import Ragged, padding_mask
from mervn.config import HeadOptions
from mervn.model import recurrent
from mervn.model.cross_attention import CrossAttention, MultiheadAttention
from mervn.model.head import Head
from mervn.model.module_checks import HEAD_CHECKS, make_streams, maker, one_of
from mervn.model.pooling import AttentivePooling
from mervn.model.recurrent import BiLSTM, TemporalCNN, reversal
from mervn.registry import FUSIONS, POOLINGS

TOLERANCE = 2e-5
CASES = [
    {"fusion": fusion, "pooling": pooling, "missing": missing}
    for fusion in FUSIONS
    for pooling in POOLINGS
    for missing in ("token", "none")
    if (fusion, pooling) != ("audio", "cls")
]
CASES += [
    {"fusion": "xattn", "residual": True, "norm": True, "feed_forward": True},
    {"fusion": "bilstm_attn", "merge": "gate", "blocks": 2, "rnn_layers": 2},
    {"fusion": "cnn_bilstm_attn", "merge": "gate", "kernel": 5, "cnn_layers": 3, "dilation_growth": 3},
]


def make_head(fusion: str, pooling: str, missing: str = "token", **changes: object) -> Head:
    return maker(fusion=fusion, pooling=pooling, missing=missing, **changes)(0)


@pytest.mark.parametrize("check", HEAD_CHECKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_an_utterances_numbers_are_its_own(case: dict[str, object], check: str) -> None:
    assert HEAD_CHECKS[check](maker(**case)) is None


@pytest.mark.parametrize("pooling", ["mean", "attn", "cls"])
def test_negative_control_without_the_mask_they_are_not(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        features.ragged, "padding_mask", lambda lengths, size: torch.ones_like(padding_mask(lengths, size))
    )
    assert "logits change by" in str(HEAD_CHECKS["batch = alone"](maker(fusion="xattn", pooling=pooling)))


def test_input_dropout_is_of_rows_in_training_alone() -> None:
    head, plain = make_head("xattn", "mean", input_dropout=0.5), make_head("xattn", "mean")
    streams = make_streams()
    with torch.no_grad():
        assert torch.equal(head.eval()(dict(streams)), plain.eval()(dict(streams)))
        rows = head.projections["audio"].train()(streams["audio"]).values
        kept = plain.projections["audio"].train()(streams["audio"]).values
    gone = rows == 0
    assert 0.3 < gone.float().mean() < 0.7
    torch.testing.assert_close(rows[~gone], 2 * kept[~gone])


def reference_cross_attention(module: MultiheadAttention) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([module.query.weight, module.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([module.query.bias, module.key_value.bias]))
        reference.out_proj.load_state_dict(module.out.state_dict())
    return reference.eval()


def test_xattn_equals_its_equations_one_utterance_at_a_time() -> None:
    torch.manual_seed(0)
    fusion = CrossAttention(8, 2, 0.0).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    text = Ragged.from_sequences([torch.randn(n, 8) for n in (3, 1, 6)])
    audio = Ragged.from_sequences([torch.randn(n, 8) for n in (5, 17, 1)])
    (fused,) = fusion({"text": text, "audio": audio})
    to_audio, to_text = (reference_cross_attention(m.attention) for m in (fusion.text_to_audio, fusion.audio_to_text))
    for found, t, a in zip(fused.split(), text.split(), audio.split(), strict=True):
        t_new, _ = to_audio(t[None], a[None], a[None])
        a_new, _ = to_text(a[None], t[None], t[None])
        torch.testing.assert_close(found, torch.cat([t_new[0], a_new[0]]), atol=TOLERANCE, rtol=0)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("way", ["keys", "queries"])
@pytest.mark.parametrize(("query_sizes", "key_sizes"), [((3, 1, 0, 4), (9, 17, 2, 0)), ((30, 7), (1, 5))])
def test_absorbed_attention_equals_plain(
    way: str, query_sizes: tuple[int, ...], key_sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = MultiheadAttention(16, 4, 0.0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    results = []
    for chosen in ("none", way):
        monkeypatch.setattr(MultiheadAttention, "way", lambda *_, chosen=chosen: chosen)
        torch.manual_seed(1)
        queries = Ragged.from_lengths(torch.randn(sum(query_sizes), 16, requires_grad=True), query_sizes)
        keys = Ragged.from_lengths(torch.randn(sum(key_sizes), 16, requires_grad=True), key_sizes)
        rows = module(queries, keys).values
        module.zero_grad()
        (rows * torch.linspace(-1, 1, 16)).square().sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        bias = gradients.pop("key_value.bias")
        assert bias is not None and queries.values.grad is not None and keys.values.grad is not None
        gradients["value bias"] = bias.chunk(2)[1]  # the key's has no gradient but rounding: it drops out
        results.append({"rows": rows.detach(), "q": queries.values.grad, "k": keys.values.grad, **gradients})
    for name, plain in results[0].items():
        assert plain is not None and relative(results[1][name], plain) <= 1e-5, name


DROPOUT, DRAWS, WIDTH = 0.3, 40_000, 4
"""Of the tests of attention dropout: the same queries and keys, DRAWS times in a batch."""


def attention_with_biases() -> MultiheadAttention:
    torch.manual_seed(0)
    module = MultiheadAttention(WIDTH, 2, DROPOUT).train()
    with torch.no_grad():
        for bias in (module.query.bias, module.key_value.bias, module.out.bias):
            bias.normal_()
    return module


def moments_of_dropout(module: MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and covariance (D, D) of the output of one query (1, D) with dropped attention weights.

    It is b + sum_ht d_ht p_ht u_ht with u_ht = Wo_h v_ht, where d_ht is 1 / (1 - p) with probability 1 - p, else 0.
    """
    weights = module.maps(Ragged.from_sequences([query]), Ragged.from_sequences([key]))[0][:, 0]  # (H, Tk)
    value = module.key_value(key).chunk(2, dim=-1)[1].unflatten(-1, (module.heads, -1))  # (Tk, H, D / H)
    summands = torch.einsum("ht,thd,ehd->hte", weights, value, module.out.weight.view(WIDTH, module.heads, -1))
    flat = summands.flatten(0, 1)  # (H Tk, D)
    return module.out.bias + flat.sum(0), DROPOUT / (1 - DROPOUT) * flat.T @ flat


def deviations_of_dropout(module: MultiheadAttention, wanted: tuple[Tensor, Tensor], pair: list[Tensor]) -> float:
    """Return the maximum distance of the mean and covariance of DRAWS outputs from the wanted, in standard errors."""
    query, key = (Ragged.from_lengths(x.repeat(DRAWS, 1), [len(x)] * DRAWS) for x in pair)
    torch.manual_seed(1)
    found = module(query, key).values  # (DRAWS, D)
    centred = found - wanted[0]
    products = torch.einsum("ni,nj->nij", centred, centred)
    mean = centred.mean(0) / (centred.std(0) / DRAWS**0.5)
    covariance = (products.mean(0) - wanted[1]) / (products.std(0) / DRAWS**0.5)
    return max(mean.abs().max().item(), covariance.abs().max().item())


@pytest.mark.parametrize("way", ["none", "keys", "queries"])
def test_attention_dropout_has_one_distribution_in_every_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, pair = attention_with_biases(), [torch.randn(1, WIDTH), torch.randn(5, WIDTH)]
    monkeypatch.setattr(MultiheadAttention, "way", lambda *_: way)
    with torch.no_grad():
        wanted = moments_of_dropout(module, *pair)
        assert deviations_of_dropout(module, wanted, pair) < 5
        bias = module.key_value.bias.chunk(2)[1]  # the control: the same mean, but the value bias is never dropped
        module.out.bias += module.out.weight @ bias
        bias.zero_()
        assert deviations_of_dropout(module, wanted, pair) > 20


def test_the_side_whose_maps_are_absorbed_follows_from_the_shapes() -> None:
    module = MultiheadAttention(256, 4, 0.0)
    short, long = Ragged.without_values([20] * 4), Ragged.without_values([230] * 4)
    assert module.way(short, long) == "keys" and module.way(long, short) == "queries"
    assert module.way(long, long) == "none"


def test_plain_attention_counts_for_more_in_bf16_on_a_cpu() -> None:
    module = MultiheadAttention(256, 4, 0.0)
    short, long = Ragged.without_values([120] * 4), Ragged.without_values([750] * 4)
    assert module.way(short, long) == "none" == module.way(long, short)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.way(short, long) == "keys" and module.way(long, short) == "queries"


def test_attention_computes_in_the_dtype_that_autocast_would_take() -> None:
    module = MultiheadAttention(8, 2, 0.0)
    rows = Ragged.from_lengths(torch.randn(9, 8), [4, 5])
    with torch.autocast("cpu", torch.bfloat16):
        assert module(rows, rows).values.dtype == torch.bfloat16
        wide = rows.replace(rows.values.double())
        assert module.double()(wide, wide).values.dtype == torch.float64


def test_attention_maps_are_those_of_the_reference() -> None:
    torch.manual_seed(0)
    module = MultiheadAttention(8, 2, 0.0).eval()
    queries, keys = (Ragged.from_sequences([torch.randn(n, 8) for n in sizes]) for sizes in ((3, 2), (4, 1)))
    for found, q, k in zip(module.maps(queries, keys), queries.split(), keys.split(), strict=True):
        _, expected = reference_cross_attention(module)(q[None], k[None], k[None], average_attn_weights=False)
        torch.testing.assert_close(found, expected[0])
    fusion = make_head("xattn", "mean").fusion
    assert isinstance(fusion, CrossAttention)
    maps = fusion.attention_maps({"text": queries, "audio": keys})
    assert [tuple(m.shape) for m in maps["text_to_audio"]] == [(2, 3, 4), (2, 2, 1)]


def test_recurrent_fusions_show_the_maps_of_every_block() -> None:
    torch.manual_seed(0)
    fusion = make_head("cnn_bilstm_attn", "mean", blocks=2).fusion
    streams = {
        name: Ragged.from_sequences([torch.randn(n, 8) for n in s]) for name, s in (("text", (3, 2)), ("audio", (4, 1)))
    }
    maps = fusion.attention_maps(streams)
    assert list(maps) == [f"block_{b}.{way}" for b in (0, 1) for way in ("text_to_audio", "audio_to_text")]
    assert [tuple(m.shape) for m in maps["block_1.audio_to_text"]] == [(2, 4, 3), (2, 1, 2)]
    for several in maps.values():
        for weights in several:
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    block, (text, audio) = fusion.blocks[1], list(fusion._levels(streams))[1]
    normal = text.replace(block["text"].query_norm(text.values)), audio.replace(block["text"].key_norm(audio.values))
    reference = reference_cross_attention(block["text"].attention)
    for found, q, k in zip(maps["block_1.text_to_audio"], normal[0].split(), normal[1].split(), strict=True):
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
    plain = x.pack(reference(x.pad())[0]).values  # the control: a padded bidirectional LSTM begins in the padding
    assert (plain - expected[x.mask]).abs().max() > 1e-2


@pytest.mark.parametrize(("low", "dtype"), [(("cpu",), torch.bfloat16), ((), torch.float32)], ids=["cpu", "gpu"])
def test_under_autocast_an_lstm_runs_in_bf16_on_a_cpu_alone(
    low: tuple[str, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent, "LOW_PRECISION_LSTM", low)  # without "cpu" this CPU is treated as a GPU is
    module, seen = BiLSTM(6, 5, 2), set()
    for lstm in (*module.forwards, *module.backwards):
        lstm.register_forward_hook(lambda _, __, out: seen.add((out[0].dtype, torch.is_autocast_enabled("cpu"))))
    x = Ragged.from_lengths(torch.randn(9, 6, dtype=torch.bfloat16), (4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        module(x).values.sum().backward()
    assert seen == {(dtype, dtype == torch.bfloat16)}
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_reversal_is_within_each_sequence_and_its_own_inverse() -> None:
    x = Ragged.from_lengths(torch.arange(6), (3, 0, 1, 2))
    assert x.values[reversal(x)].tolist() == [2, 1, 0, 3, 5, 4]
    assert torch.equal(reversal(x)[reversal(x)], torch.arange(6))


def test_a_dilated_cnn_equals_itself_on_one_sequence() -> None:
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


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel must be odd, .* found 4"):
        make_head("cnn_bilstm_attn", "mean", kernel=4)


def test_a_query_without_keys_gets_zeros() -> None:
    attention = MultiheadAttention(8, 2, 0.0)
    nn.init.ones_(attention.out.bias)
    queries = Ragged.from_sequences([torch.randn(2, 8), torch.randn(2, 8)])
    keys = Ragged.from_sequences([torch.randn(3, 8), torch.randn(0, 8)])
    heard, unheard = attention(queries, keys).split()
    assert heard.any()
    assert not unheard.any()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_equal_plain_torch_on_one_sequence(pooling: str) -> None:
    torch.manual_seed(0)
    module = import_target(POOLINGS[pooling])(4)
    sequence = torch.randn(5, 4)

    def attended(x: Tensor) -> Tensor:
        assert isinstance(module, AttentivePooling)
        return functional.softmax(module.score(torch.tanh(module.hidden(x))), dim=0).mul(x).sum(0)

    expected = {
        "cls": lambda x: x[0],
        "mean": lambda x: x.mean(0),
        "max": lambda x: x.amax(0),
        "min": lambda x: x.amin(0),
        "attn": attended,
    }[pooling](sequence)
    found = module(Ragged.from_sequences([torch.randn(2, 4), sequence, torch.empty(0, 4)]))
    torch.testing.assert_close(found[1], expected)
    assert not found[2].any()


def test_cls_is_the_text_position_and_refused_without_text() -> None:
    with pytest.raises(UsageError, match="--pooling cls takes the text"):
        make_head("audio", "cls")
    assert [type(p).__name__ for p in make_head("late", "cls").poolings] == ["ClsPooling", "MeanPooling"]
    head, streams = make_head("xattn", "cls", "none"), make_streams()
    silent = head({"text": one_of(streams, 2)["text"], "audio": one_of(streams, 3)["audio"]})  # no text, some audio
    nothing = head({"text": one_of(streams, 2)["text"], "audio": one_of(streams, 1)["audio"]})
    assert torch.equal(silent, nothing)


def test_dim_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="found dim=10 heads=4"):
        HeadOptions(dim=10, heads=4)
    with pytest.raises(ValueError, match="found 10 and 4"):
        MultiheadAttention(10, 4, 0.0)
