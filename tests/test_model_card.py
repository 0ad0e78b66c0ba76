"""Model card: it claims what the files of the run hold, and says what they lack."""

from dataclasses import replace
from typing import Any

import pytest

from features.encoders.selector import EncoderSettings
from mervn.run_folder import LEDGER_FILE, METRICS_FILE, RunConfig
from mervn.use.bundle_files import Bundle, BundledEncoder
from mervn.use.model_card import model_card
from mervn.use.onnx_export import OnnxFiles

ENTRY = BundledEncoder(
    "audio", "whisper", (8,), EncoderSettings(), "fp32", "fp16", "0", {}, 2, None, None, "vinai/PhoWhisper-small#abc",
    "pretrained, vinai/PhoWhisper-small", "MIT (Whisper), BSD-3-Clause (PhoWhisper)",
)  # fmt: skip
RANDOM = replace(ENTRY, modality="text", name="hashed_ngrams", link=None, model=".", weights="random, seed 0")
BUNDLE = Bundle("first", "0123abcd", {"audio": ENTRY, "text": RANDOM}, {}, {"mervn": "0.1.0", "torch": "2.9"}, "")
CONFIG = RunConfig(
    "train-head", {"data": "corpus", "fusion": "xattn", "pooling": "attn", "loss": "focal", "seed": 3},
    ["happy", "sad | angry"], {}, {"audio": {}, "text": {}},
)  # fmt: skip


def scores(value: float) -> dict[str, Any]:
    names = ("macro_f1", "uar", "accuracy", "weighted_f1")
    per_class = {"happy": {"support": 3}, "sad | angry": {"support": 5}}
    return {**dict.fromkeys(names, value), "n": 8, "per_class": per_class}


def results() -> dict[str, Any]:
    interval = {"low": 0.4, "high": 0.7, "unit": "speaker_id", "groups": 5, "effective_groups": 4.5}
    finding = {"id": "speaker_overlap", "severity": "error", "message": "2 speakers are in\ntrain and test"}
    return {
        METRICS_FILE: {
            "valid": scores(0.9),
            "selected_epoch": 4,
            "dropped": {"train": {"fear": 2}},
            "missing": {"train": 5, "valid": 0},
        },
        "check.json": {"splits": {"train": 20}, "findings": [finding, {**finding, "severity": "info", "id": "no"}]},
        "metrics-test.json": {
            "test": scores(0.55),
            "intervals": {"macro_f1": interval, "uar": None},
            "units": [{"unit": "speaker_id", "groups": 5, "effective_groups": 4.5, "independent": False}],
            "baselines": {"majority": {"label": "sad | angry", "macro_f1": 0.385}},
        },
        LEDGER_FILE: {"looks": 3},
    }


def test_the_card_holds_scores_intervals_protocol_warnings_and_licences() -> None:
    text = model_card(BUNDLE, CONFIG, results(), None)
    assert text.startswith("---\nlibrary_name: mervn\npipeline_tag: audio-classification\n")
    assert 'base_model:\n- "vinai/PhoWhisper-small"\n---' in text
    assert "| macro-F1 | 0.550 | 0.400 to 0.700 over 5 speakers |" in text
    assert "G = 5 speakers, worth G* = 4.5 of equal size." in text
    assert "| UAR | 0.550 | no interval: it needs at least 4 units, found 5 speakers |" in text
    assert "Always answering `sad | angry` has a macro-F1 of 0.385" in text
    assert "- Scored on test 3 times" in text and "epoch 4, chosen by macro-F1 on valid" in text
    assert "- Left out of train, without features or usable audio: 5 utterances" in text
    assert "Left out of valid" not in text
    assert "- Left out of train: 2 fear" in text and "- Utterances in the manifests: 20 in train" in text
    assert "- error `speaker_overlap`: 2 speakers are in train and test\n" in text and "`no`" not in text
    assert "BSD-3-Clause (PhoWhisper)" in text and "text encoder has random weights" in text
    assert "Only test counts for a claim" in text and "ONNX" not in text.replace("onnx/", "")


def test_the_card_of_a_linear_head_names_what_it_has() -> None:
    linear = replace(CONFIG, options={"data": "corpus", "fusion": "linear"})
    metrics = {**results()[METRICS_FILE], "C": 0.1}
    text = model_card(BUNDLE, linear, {METRICS_FILE: metrics}, None)
    assert "Head: fusion `linear`." in text and "The regularization, C = 0.1, was chosen by macro-F1 on valid" in text


def test_the_card_says_what_is_not_known() -> None:
    text = model_card(BUNDLE, CONFIG, {METRICS_FILE: results()[METRICS_FILE]}, None)
    assert "was not scored on test: nothing is known about its score on new data" in text
    assert "no interval: mervn evaluate computes it" in text and "The data was not checked" in text
    assert "Scored on test" not in text


def test_the_card_says_what_test_shares_with_the_training() -> None:
    found = results()
    remark = "test not read: nothing is said about overlap with it"
    found["check.json"]["remarks"] = [remark]
    assert remark in model_card(BUNDLE, CONFIG, found, None)  # scores of an earlier version
    shared = {"id": "recording_overlap", "severity": "error", "message": "test and the training: 1 audio file"}
    for overlap, is_said in (([], False), ([shared], True)):
        found["metrics-test.json"]["overlap"] = {"findings": overlap, "remarks": ["some were not compared"]}
        text = model_card(BUNDLE, CONFIG, found, None)
        assert remark not in text and "- Overlap of test with the training: some were not compared" in text
        assert ("- error `recording_overlap`: test and the training: 1 audio file" in text) == is_said


@pytest.mark.parametrize(("difference", "expected"), [(2e-6, "at most 2.0e-06 apart"), (None, "no `model.onnx`: why")])
def test_the_card_describes_the_onnx_files(difference: float | None, expected: str) -> None:
    files = OnnxFiles(1e-7, difference, "why" if difference is None else None)
    text = model_card(BUNDLE, CONFIG, results(), files)
    assert expected in text and "at most 1.0e-07 apart" in text
