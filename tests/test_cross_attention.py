"""Cross-attention equals torch's attention, absorbed or not, with and without dropout."""

from collections import Counter

import pytest
import torch
from test_head import make_head
from torch import Tensor, nn

from features.ragged import Ragged
from mervn.model import cross_attention
from mervn.model.cross_attention import CrossAttention, MultiheadAttention

TOLERANCE = 2e-5


def random_sequences(*sizes: int) -> Ragged:
    """Return sequences of random frames of width 8."""
    return Ragged.from_sequences([torch.randn(n, 8) for n in sizes])


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
    text, audio = random_sequences(3, 1, 6), random_sequences(5, 17, 1)
    (fused,) = fusion({"text": text, "audio": audio})
    to_audio, to_text = (reference_cross_attention(m.attention) for m in (fusion.text_to_audio, fusion.audio_to_text))
    for found, t, a in zip(fused.split(), text.split(), audio.split(), strict=True):
        t_new, _ = to_audio(t[None], a[None], a[None])
        a_new, _ = to_text(a[None], t[None], t[None])
        torch.testing.assert_close(found, torch.cat([t_new[0], a_new[0]]), atol=TOLERANCE, rtol=0)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("side", ["keys", "queries"])
@pytest.mark.parametrize(("query_sizes", "key_sizes"), [((3, 1, 0, 4), (9, 17, 2, 0)), ((30, 7), (1, 5))])
def test_absorbed_attention_equals_plain_attention(
    side: str, query_sizes: tuple[int, ...], key_sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = MultiheadAttention(16, 4, 0.0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    results = []
    for chosen in ("none", side):
        monkeypatch.setattr(MultiheadAttention, "absorbed_side", lambda *_, chosen=chosen: chosen)
        torch.manual_seed(1)
        queries = Ragged.from_lengths(torch.randn(sum(query_sizes), 16, requires_grad=True), query_sizes)
        keys = Ragged.from_lengths(torch.randn(sum(key_sizes), 16, requires_grad=True), key_sizes)
        output = module(queries, keys).values
        module.zero_grad()
        (output * torch.linspace(-1, 1, 16)).square().sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters()}
        bias = gradients.pop("key_value.bias")
        assert bias is not None and queries.values.grad is not None and keys.values.grad is not None
        gradients["value bias"] = bias.chunk(2)[1]  # the softmax cancels the key bias
        results.append({"output": output.detach(), "q": queries.values.grad, "k": keys.values.grad, **gradients})
    for name, plain in results[0].items():
        assert plain is not None and relative(results[1][name], plain) <= 1e-5, name


DROPOUT, DRAWS, WIDTH = 0.3, 40_000, 4
"""For the tests of attention dropout: the same queries and keys, DRAWS times in a batch."""


def attention_with_biases() -> MultiheadAttention:
    torch.manual_seed(0)
    module = MultiheadAttention(WIDTH, 2, DROPOUT).train()
    with torch.no_grad():
        for bias in (module.query.bias, module.key_value.bias, module.out.bias):
            bias.normal_()
    return module


def moments_of_dropout(module: MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and covariance (D, D) of the output of one query (1, D) with dropped attention weights.

    The output is b + sum_ht d_ht p_ht u_ht with u_ht = Wo_h v_ht; d_ht is 1 / (1 - p) with probability 1 - p, else 0.
    """
    weights = module.attention_weights(Ragged.from_sequences([query]), Ragged.from_sequences([key]))[0][:, 0]  # (H, Tk)
    value = module.key_value(key).chunk(2, dim=-1)[1].unflatten(-1, (module.heads, -1))  # (Tk, H, D / H)
    summands = torch.einsum("ht,thd,ehd->hte", weights, value, module.out.weight.view(WIDTH, module.heads, -1))
    flat = summands.flatten(0, 1)  # (H Tk, D)
    return module.out.bias + flat.sum(0), DROPOUT / (1 - DROPOUT) * flat.T @ flat


def deviations_of_dropout(module: MultiheadAttention, expected: tuple[Tensor, Tensor], pair: list[Tensor]) -> float:
    """Return the maximum error of the mean and covariance of DRAWS outputs, in standard errors."""
    query, key = (Ragged.from_lengths(x.repeat(DRAWS, 1), [len(x)] * DRAWS) for x in pair)
    torch.manual_seed(1)
    found = module(query, key).values  # (DRAWS, D)
    centred = found - expected[0]
    products = torch.einsum("ni,nj->nij", centred, centred)
    mean = centred.mean(0) / (centred.std(0) / DRAWS**0.5)
    covariance = (products.mean(0) - expected[1]) / (products.std(0) / DRAWS**0.5)
    return max(mean.abs().max().item(), covariance.abs().max().item())


@pytest.mark.parametrize("side", ["none", "keys", "queries"])
def test_attention_dropout_does_not_depend_on_the_absorbed_side(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, pair = attention_with_biases(), [torch.randn(1, WIDTH), torch.randn(5, WIDTH)]
    monkeypatch.setattr(MultiheadAttention, "absorbed_side", lambda *_: side)
    with torch.no_grad():
        expected = moments_of_dropout(module, *pair)
        assert deviations_of_dropout(module, expected, pair) < 5
        bias = module.key_value.bias.chunk(2)[1]  # negative control: same mean, but no dropout of the value bias
        module.out.bias += module.out.weight @ bias
        bias.zero_()
        assert deviations_of_dropout(module, expected, pair) > 20


def test_the_absorbed_side_depends_on_the_shapes() -> None:
    module = MultiheadAttention(256, 4, 0.0)
    short, long = Ragged.without_values([20] * 4), Ragged.without_values([230] * 4)
    assert module.absorbed_side(short, long) == "keys" and module.absorbed_side(long, short) == "queries"
    assert module.absorbed_side(long, long) == "none"


def test_plain_attention_counts_for_more_in_bf16_on_a_cpu() -> None:
    module = MultiheadAttention(256, 4, 0.0)
    short, long = Ragged.without_values([120] * 4), Ragged.without_values([750] * 4)
    assert module.absorbed_side(short, long) == "none" == module.absorbed_side(long, short)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.absorbed_side(short, long) == "keys" and module.absorbed_side(long, short) == "queries"


def test_attention_computes_in_the_autocast_dtype() -> None:
    module = MultiheadAttention(8, 2, 0.0)
    frames = Ragged.from_lengths(torch.randn(9, 8), [4, 5])
    with torch.autocast("cpu", torch.bfloat16):
        assert module(frames, frames).values.dtype == torch.bfloat16
        wide = frames.replace(frames.values.double())
        assert module.double()(wide, wide).values.dtype == torch.float64


def test_attention_weights_equal_the_reference() -> None:
    torch.manual_seed(0)
    module = MultiheadAttention(8, 2, 0.0).eval()
    queries, keys = random_sequences(3, 2), random_sequences(4, 1)
    for found, q, k in zip(module.attention_weights(queries, keys), queries.split(), keys.split(), strict=True):
        _, expected = reference_cross_attention(module)(q[None], k[None], k[None], average_attn_weights=False)
        torch.testing.assert_close(found, expected[0])
    fusion = make_head("xattn", "mean").fusion
    assert isinstance(fusion, CrossAttention)
    weights = fusion.attention_weights({"text": queries, "audio": keys})
    assert [tuple(w.shape) for w in weights["text_to_audio"]] == [(2, 3, 4), (2, 2, 1)]


def test_a_query_without_keys_gets_zeros() -> None:
    attention = MultiheadAttention(8, 2, 0.0)
    nn.init.ones_(attention.out.bias)
    queries = Ragged.from_sequences([torch.randn(2, 8), torch.randn(2, 8)])
    keys = Ragged.from_sequences([torch.randn(3, 8), torch.randn(0, 8)])
    with_keys, without_keys = attention(queries, keys).split()
    assert with_keys.any()
    assert not without_keys.any()


def test_both_directions_share_the_padded_audio_and_compute_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fusion = CrossAttention(8, 2, 0.1)
    text, audio = random_sequences(3, 1, 0, 2), random_sequences(60, 90, 17, 0)
    pad, counts = Ragged.pad, Counter[int]()

    def counting(ragged: Ragged, fill: float = 0.0) -> Tensor:
        counts[ragged.max_length] += 1
        return pad(ragged, fill)

    def step() -> tuple[list[Tensor], int]:
        """Return the result and all gradients, and how often audio was padded."""
        counts.clear()
        inputs = {name: values.replace(values.values.clone().requires_grad_()) for name, values in streams.items()}
        torch.manual_seed(1)
        (fused,) = fusion(inputs)
        leaves = [*(each.values for each in inputs.values()), *fusion.parameters()]
        weights = torch.linspace(-1, 1, fused.values.numel()).view_as(fused.values)
        gradients = torch.autograd.grad((fused.values * weights).sum(), leaves)
        return [fused.values, *gradients], counts[90]

    streams = {"text": text, "audio": audio}
    monkeypatch.setattr(Ragged, "pad", counting)
    shared, once = step()
    monkeypatch.setattr(cross_attention, "PadOnce", lambda: Ragged.pad)
    separate, twice = step()
    assert (once, twice) == (1, 2)
    for found, expected in zip(shared, separate, strict=True):
        assert torch.equal(found, expected)
