"""Every fusion with every pooling: an utterance's numbers are its own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import features.ragged
from features.errors import UsageError
from features.ragged import Ragged, padding_mask
from features.targets import import_target
from mervn.config import HeadOptions
from mervn.fusion import FUSIONS
from mervn.fusion.cross_attention import CrossAttention, MultiheadAttention
from mervn.model import Head, PaddedHead, build_head
from mervn.pooling import AttentivePooling
from mervn.registry import POOLINGS
from mervn.streams import StreamShape

WIDTHS = {"text": 6, "audio": 5}
SHAPES = {name: StreamShape(width) for name, width in WIDTHS.items()}
TEXT_SIZES, AUDIO_SIZES = (3, 2, 0, 6, 1), (5, 0, 1, 17, 9)
TOLERANCE = 2e-5
CASES = [
    (fusion, pooling, missing)
    for fusion in FUSIONS
    for pooling in POOLINGS
    for missing in ("token", "none")
    if (fusion, pooling) != ("audio", "cls")
]
GARBAGE = 1e4


def make_head(fusion: str, pooling: str, missing: str = "token") -> Head:
    torch.manual_seed(0)
    options = HeadOptions.model_validate(
        {"fusion": fusion, "pooling": pooling, "missing": missing, "dim": 8, "heads": 2, "mlp": (7,)}
    )
    head = build_head(options, SHAPES, 3).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(2)  # freshly made weights are so small that a leak would hide
    return head


def make_streams(requires_grad: bool = False) -> dict[str, Ragged]:
    torch.manual_seed(1)
    text = torch.randn(sum(TEXT_SIZES), WIDTHS["text"], requires_grad=requires_grad)
    audio = torch.randn(sum(AUDIO_SIZES), WIDTHS["audio"], requires_grad=requires_grad)
    return {"text": Ragged.from_lengths(text, TEXT_SIZES), "audio": Ragged.from_lengths(audio, AUDIO_SIZES)}


def one(streams: dict[str, Ragged], i: int) -> dict[str, Ragged]:
    return {name: Ragged.from_sequences([stream.split()[i]]) for name, stream in streams.items()}


def greatest_difference(head: Head) -> float:
    streams = make_streams()
    together = head(streams)
    alone = torch.cat([head(one(streams, i)) for i in range(len(TEXT_SIZES))])
    return (together - alone).abs().max().item()


@pytest.fixture
def garbage_in_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    pad = Ragged.pad
    monkeypatch.setattr(Ragged, "pad", lambda self, fill=GARBAGE: pad(self, fill))


@pytest.mark.parametrize(("fusion", "pooling", "missing"), CASES)
def test_alone_and_in_a_batch_are_equal(fusion: str, pooling: str, missing: str, garbage_in_padding: None) -> None:
    head = make_head(fusion, pooling, missing)
    assert greatest_difference(head) <= TOLERANCE
    assert head(make_streams()).std() > 1e-2


@pytest.mark.parametrize(("fusion", "pooling"), [("xattn", "mean"), ("xattn", "attn"), ("xattn", "cls")])
def test_negative_control_without_the_mask_they_differ(
    fusion: str, pooling: str, garbage_in_padding: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        features.ragged, "padding_mask", lambda lengths, size: torch.ones_like(padding_mask(lengths, size))
    )
    assert greatest_difference(make_head(fusion, pooling)) >= 1e-2


@pytest.mark.parametrize(("fusion", "pooling", "missing"), CASES)
def test_nan_in_the_padding_changes_nothing(fusion: str, pooling: str, missing: str) -> None:
    head, streams = make_head(fusion, pooling, missing), make_streams()
    padded = PaddedHead(head)(
        text=streams["text"].pad(float("nan")),
        text_lengths=streams["text"].lengths,
        audio=streams["audio"].pad(float("nan")),
        audio_lengths=streams["audio"].lengths,
    )
    assert torch.equal(padded, head(streams))


@pytest.mark.parametrize(("fusion", "pooling", "missing"), CASES)
def test_the_order_of_the_batch_changes_nothing(fusion: str, pooling: str, missing: str) -> None:
    head, streams = make_head(fusion, pooling, missing), make_streams()
    turned = {name: Ragged.from_sequences(stream.split()[::-1]) for name, stream in streams.items()}
    torch.testing.assert_close(head(turned).flip(0), head(streams), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("fusion", "pooling", "missing"), CASES)
def test_an_utterances_gradient_reaches_its_own_frames_only(fusion: str, pooling: str, missing: str) -> None:
    head, streams = make_head(fusion, pooling, missing), make_streams(requires_grad=True)
    head(streams)[3].square().sum().backward()
    for name in FUSIONS[fusion].streams:
        gradient = streams[name].values.grad
        assert gradient is not None and torch.isfinite(gradient).all()
        own = streams[name].segments == 3
        assert not gradient[~own].any()
        assert gradient[own].any()


@pytest.mark.parametrize(("fusion", "pooling", "missing"), CASES)
def test_every_parameter_has_a_finite_gradient(fusion: str, pooling: str, missing: str) -> None:
    head = make_head(fusion, pooling, missing)
    head(make_streams()).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("missing", ["token", "none"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_of_nothing_but_empty_sequences_is_legal(fusion: str, missing: str) -> None:
    head = make_head(fusion, "mean", missing)
    empty = {name: Ragged.from_lengths(torch.empty(0, width), (0, 0)) for name, width in WIDTHS.items()}
    assert torch.isfinite(head(empty)).all()


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
    to_audio, to_text = (reference_cross_attention(m) for m in (fusion.text_to_audio, fusion.audio_to_text))
    for found, t, a in zip(fused.split(), text.split(), audio.split(), strict=True):
        t_new, _ = to_audio(t[None], a[None], a[None])
        a_new, _ = to_text(a[None], t[None], t[None])
        torch.testing.assert_close(found, torch.cat([t_new[0], a_new[0]]), atol=TOLERANCE, rtol=0)


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
    silent = head({"text": one(streams, 2)["text"], "audio": one(streams, 3)["audio"]})  # no text, some audio
    nothing = head({"text": one(streams, 2)["text"], "audio": one(streams, 1)["audio"]})
    assert torch.equal(silent, nothing)


def test_dim_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="found dim=10 heads=4"):
        HeadOptions(dim=10, heads=4)
    with pytest.raises(ValueError, match="found 10 and 4"):
        MultiheadAttention(10, 4, 0.0)
