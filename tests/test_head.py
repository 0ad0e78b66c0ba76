"""The head with every fusion and pooling passes the invariance checks."""

import pytest
import torch

import features.ragged
from features.errors import UsageError
from features.ragged import padding_mask
from mervn.config import HeadOptions
from mervn.data.streams import StreamShape
from mervn.model.cross_attention import MultiheadAttention
from mervn.model.head import Head, build_head
from mervn.model.module_checks import HEAD_CHECKS, SHAPES, head_factory, make_streams, single_utterance
from mervn.registry import FUSIONS, POOLINGS

CASES = [
    {"fusion": fusion, "pooling": pooling, "missing": missing}
    for fusion in FUSIONS
    for pooling in POOLINGS
    for missing in ("token", "none")
    if (fusion, pooling) != ("audio", "cls")
    and (not FUSIONS[fusion].linear or (pooling, missing) == ("mean", "token"))  # it reads neither
]
CASES += [
    {"fusion": "xattn", "residual": True, "norm": True, "feed_forward": True},
    {"fusion": "bilstm_attn", "merge": "gate", "blocks": 2, "rnn_layers": 2},
    {"fusion": "cnn_bilstm_attn", "merge": "gate", "kernel": 5, "cnn_layers": 3, "dilation_growth": 3},
]


def make_head(fusion: str, pooling: str, missing: str = "token", **changes: object) -> Head:
    return head_factory(fusion=fusion, pooling=pooling, missing=missing, **changes)(0)


@pytest.mark.parametrize("check", HEAD_CHECKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_fusion_and_pooling_passes_the_invariance_checks(case: dict[str, object], check: str) -> None:
    assert HEAD_CHECKS[check](head_factory(**case)) is None


@pytest.mark.parametrize("pooling", ["mean", "attn", "cls"])
def test_without_the_mask_the_batch_check_fails(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        features.ragged, "padding_mask", lambda lengths, size: torch.ones_like(padding_mask(lengths, size))
    )
    assert "logits change by" in str(HEAD_CHECKS["batch = alone"](head_factory(fusion="xattn", pooling=pooling)))


def test_input_dropout_acts_on_projected_frames_in_training_only() -> None:
    head, plain = make_head("xattn", "mean", input_dropout=0.5), make_head("xattn", "mean")
    streams = make_streams()
    with torch.no_grad():
        assert torch.equal(head.eval()(dict(streams)), plain.eval()(dict(streams)))
        dropped = head.projections["audio"].train()(streams["audio"]).values
        kept = plain.projections["audio"].train()(streams["audio"]).values
    zero = dropped == 0
    assert 0.3 < zero.float().mean() < 0.7
    torch.testing.assert_close(dropped[~zero], 2 * kept[~zero])


def test_cls_takes_the_text_position_and_is_rejected_without_text() -> None:
    with pytest.raises(UsageError, match="--pooling cls takes the text"):
        make_head("audio", "cls")
    assert [type(p).__name__ for p in make_head("late", "cls").poolings] == ["ClsPooling", "MeanPooling"]
    head, streams = make_head("xattn", "cls", "none"), make_streams()
    silent = head(
        {"text": single_utterance(streams, 2)["text"], "audio": single_utterance(streams, 3)["audio"]}
    )  # no text, some audio
    nothing = head({"text": single_utterance(streams, 2)["text"], "audio": single_utterance(streams, 1)["audio"]})
    assert torch.equal(silent, nothing)


@pytest.mark.parametrize("fusion", ["xattn", "bilstm_attn", "cnn_bilstm_attn", "text", "late"])
def test_cls_takes_the_last_text_token_of_a_causal_model(fusion: str) -> None:
    torch.manual_seed(0)
    options = HeadOptions(fusion=fusion, pooling="cls", dim=8, heads=2, mlp=(), missing="none")
    head = build_head(options, SHAPES | {"text": StreamShape(6, causal=True)}, 3).eval()
    first = build_head(options, SHAPES, 3).eval()
    first.load_state_dict(head.state_dict())
    streams = make_streams()
    with torch.no_grad():
        projected = head.project(streams)
        sequences = head.fusion(projected)
        for i, size in enumerate(streams["text"].sizes):
            text, *audio = [sequence.split()[i] for sequence in sequences]
            last = text[size - 1] if size else torch.zeros(8)
            vectors = [last, *(x.mean(0) if len(x) else torch.zeros(8) for x in audio)]
            torch.testing.assert_close(head(streams)[i], head.classifier(torch.cat(vectors)[None])[0])
        for i in (0, 3):  # negative control: with several tokens and audio frames, the first token differs
            assert not torch.allclose(head(streams)[i], first(streams)[i])


def test_dim_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="found dim=10 heads=4"):
        HeadOptions(dim=10, heads=4)
    with pytest.raises(ValueError, match="found 10 and 4"):
        MultiheadAttention(10, 4, 0.0)
