"""Explanations: weights over real tokens and frames, and probabilities without a modality."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_train_head import made, train
from tiny import read_jsonl, wave

from cli.main import run as mervn
from features.errors import UsageError
from mervn.config import EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.use.explanation import envelope
from mervn.use.explanation_page import is_page
from mervn.use.predict import predict
from mervn.use.predict_options import PredictOptions
from mervn.use.recognizer import load

__all__ = ["made"]  # fixture


@pytest.mark.parametrize("pooling", ["attn", "mean"])
def test_weights_sum_to_one_and_contributions_are_those_of_evaluate(made: Path, pooling: str) -> None:
    run = train(made, made.parent / f"explained-{pooling}", pooling=pooling).path
    for without in ("text", "audio"):
        evaluate(run, EvaluateOptions(split="test", without=without, device="cpu"))
    entry = read_jsonl(made / "test.jsonl")[1]
    recognizer = load(run, device="cpu")
    found = recognizer.explain(made / entry["wav_path"], entry["transcript"])
    assert found.tokens == ["[CLS]", *entry["transcript"].split()]
    assert found.token_weights is not None and found.frame_weights is not None
    total = found.token_weights.sum(), found.frame_weights.sum()
    assert sum(total) == pytest.approx(1) if pooling == "attn" else total == pytest.approx((1, 1))
    assert found.source == ("attentive pooling" if pooling == "attn" else "cross-attention")
    for modality in ("text", "audio"):
        saved = read_jsonl(run / f"predictions-test-without-{modality}.jsonl")[1]["probabilities"]
        assert found.without[modality] == pytest.approx(saved, abs=1e-5)
        change = found.probabilities[found.prediction] - saved[found.prediction]
        assert found.contribution(modality) == pytest.approx(change, abs=2e-5)
    assert abs(found.contribution("text") or 0) > 1e-4  # negative control: leaving it out changes something
    alone = recognizer.explain(text="hôm nay tôi vui lắm")
    assert alone.without == {} and alone.frame_weights is None and alone.envelope.shape == (2, 0)


def test_the_envelope_has_the_extremes_of_the_waveform() -> None:
    samples = wave(2.0, 0)
    found = envelope(samples)
    assert found.shape == (2, 600)
    assert found[0].min() == samples.min() and found[1].max() == samples.max()
    assert envelope(samples[:5]).shape == (2, 5)
    parts = np.array_split(samples[: 600 * 53], 600)
    assert envelope(samples[: 600 * 53])[1] == pytest.approx([part.max() for part in parts])


def test_the_page_has_the_timeline_and_what_was_left_out(made: Path, tmp_path: Path) -> None:
    run = train(made, made.parent / "explained-attn", pooling="attn").path
    soundfile.write(tmp_path / "<call>.wav", wave(1.0, 0), 16_000)
    (tmp_path / "s.csv").write_text("file,start,end,text\n<call>.wav,0,0.5,tôi vui <b>\n<call>.wav,0.5,1,\n", "utf-8")
    output = tmp_path / "out.csv"
    assert (
        mervn(["predict", str(run), "--segments", str(tmp_path / "s.csv"), "--output", str(output), "--explain"]) == 0
    )
    page = (tmp_path / "out.html").read_text("utf-8")
    assert (
        page.count("<svg") == 1 + (1 + 2 + 1) + (1 + 1) and page.count("left out in turn") == 1
    )  # the second has no text
    assert "&lt;call&gt;.wav" in page and "<call>" not in page and "<b>" not in page


def test_a_page_is_replaced_only_if_explain_has_written_it(made: Path, tmp_path: Path) -> None:
    run = train(made, made.parent / "explained-attn", pooling="attn").path
    soundfile.write(tmp_path / "a.wav", wave(0.5, 0), 16_000)
    page = tmp_path / "out.html"
    page.write_text("<p>my page</p>")

    def call(**options: bool) -> None:
        predict(run, [tmp_path / "a.wav"], PredictOptions(device="cpu", output=tmp_path / "out.json", **options))

    call()  # writes the state, but no page
    with pytest.raises(UsageError, match=r"out.html exists and was not written by mervn predict"):
        call(explain=True)
    assert page.read_text() == "<p>my page</p>"
    call(explain=True, force=True)
    assert is_page(page)
    call(explain=True)


def test_a_head_without_attention_has_contributions_and_no_weights(made: Path) -> None:
    run = train(made, made.parent / "late", fusion="late", pooling="mean", epochs=1).path
    found = load(run, device="cpu").explain(wave(0.5, 0), "tôi vui", sample_rate=16_000)
    assert found.attention is None and found.token_weights is None and found.source is None
    assert set(found.without) == {"text", "audio"} and found.seconds == 0.5
