"""ONNX files: onnxruntime gives the probabilities of the model for every batch, and faults say why."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_encoder import load
from test_head import make_head
from tiny import Messages
from tiny_extraction import small_encoders

from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.padded import Padded
from mervn.config import HeadOptions
from mervn.model.end_to_end import shapes_of
from mervn.model.head import PaddedHead, build_head
from mervn.model.module_checks import SHAPES
from mervn.run_folder import RunConfig
from mervn.use import onnx_export
from mervn.use.onnx_check import check_head, open_session, padded_inputs
from mervn.use.onnx_export import HEAD_FILE, MODEL_FILE, NotExportable, _export, export_onnx, head_inputs
from mervn.use.run_encoders import StreamEncoder
from mervn.use.run_model import RunModel


def run_model(encoders: Mapping[str, Encoder], precision: str = "fp32", **options: Any) -> RunModel:
    """Return a small head behind encoders."""
    shapes = shapes_of(encoders)
    values = HeadOptions(dim=8, heads=2, mlp=(), **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = build_head(values, shapes, 3).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(2)
    streams = {name: shape.as_json() for name, shape in shapes.items()}
    config = RunConfig("train-head", {}, ["a", "b", "c"], {}, streams)
    with_form = {name: StreamEncoder(encoder, precision, "fp16") for name, encoder in encoders.items()}
    return RunModel(Path("run"), config, head, with_form, "", torch.device("cpu"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    audio, text = small_encoders(tmp_path_factory.mktemp("models"))
    return {
        "text": load_encoder(parse_selector(text, "text")),
        "audio": load_encoder(parse_selector(f"{audio}@1,last", "audio")),
    }


def test_head_and_model_equal_the_run_and_the_description_is_complete(
    small: dict[str, Encoder], tmp_path: Path
) -> None:
    model, reporter = run_model(small, fusion="cnn_bilstm_attn", pooling="attn", merge="gate"), Messages()
    found = export_onnx(model, tmp_path, reporter)
    assert found.reason is None and reporter.said == []
    assert 0 < found.head_difference < 1e-5 and 0 < (found.model_difference or 0) < 1e-4
    about = json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert about["labels"] == ["a", "b", "c"] and about["not_exported"] is None
    assert about["files"][HEAD_FILE]["inputs"]["audio"]["shape"] == ["batch", "length", 2, 32]
    assert about["files"][MODEL_FILE]["inputs"]["audio"] == {
        "kind": "samples", "dtype": "float32", "shape": ["batch", "length"], "encoder": "fourier2vec",
        "min_length": 400, "normalize": False,
    }  # fmt: skip
    session = open_session(tmp_path / "onnx" / HEAD_FILE)
    shapes = {node.name: node.shape for node in session.get_inputs()}
    assert shapes["text"] == ["batch", "text_length", 32] and shapes["text_lengths"] == ["batch"]


def test_an_utterance_alone_has_the_logits_that_it_has_in_a_padded_batch(tmp_path: Path) -> None:
    head = make_head("late", "max")
    _export(PaddedHead(head, Padded.of), head_inputs(SHAPES), tmp_path / HEAD_FILE)
    session = open_session(tmp_path / HEAD_FILE)
    sequences = {name: [torch.randn(n, shape.width) for n in (4, 1, 6)] for name, shape in SHAPES.items()}
    together: dict[str, Any] = {}
    for name, tensors in sequences.items():
        together |= padded_inputs(name, tensors, extra=5)
    (logits,) = session.run(None, together)
    for i in range(3):
        alone: dict[str, Any] = {}
        for name, tensors in sequences.items():
            alone |= padded_inputs(name, [tensors[i]], extra=0)
        (one,) = session.run(None, alone)
        np.testing.assert_allclose(one[0], logits[i], atol=1e-5)
    assert np.ptp(logits, axis=0).max() > 0.1
    # negative control: a file of other weights is refused
    other = make_head("late", "max")
    with torch.no_grad():
        next(iter(other.classifier.parameters())).mul_(1.1)
    with pytest.raises(InputError, match=r"head\.onnx must give the probabilities of the model within 0\.0001"):
        check_head(other, SHAPES, tmp_path / HEAD_FILE)


class Unexportable(torch.nn.Module):
    """A fusion whose result depends on a number that no graph knows."""

    def forward(self, streams: dict[str, Any]) -> list[Any]:
        text = streams["text"]
        return [text.map(lambda values: values * float(values.sum()))]


def test_a_head_that_cannot_be_exported_is_an_error_with_the_reason(small: dict[str, Encoder], tmp_path: Path) -> None:
    model = run_model(small, fusion="late", pooling="mean")
    model.head.fusion = Unexportable()
    with pytest.raises(InputError, match="head of run cannot be exported to ONNX: .+"):
        export_onnx(model, tmp_path, Messages())


def test_encoders_that_cannot_be_exported_leave_the_head(
    small: dict[str, Encoder], tmp_path: Path, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    monkeypatch.setattr(onnx_export, "check_head", lambda head, shapes, file: 0.0)

    def refuse(module: torch.nn.Module, inputs: Any, path: Path) -> None:
        exported.append(path.name)

    monkeypatch.setattr(onnx_export, "_export", refuse)
    reporter = Messages()
    found = export_onnx(run_model(small, "bf16", fusion="late", pooling="mean"), tmp_path, reporter)
    assert exported == [HEAD_FILE] and found.model_difference is None
    assert found.reason is not None and "computed in bf16" in found.reason and found.reason in reporter.said[0]
    about = json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert list(about["files"]) == [HEAD_FILE] and about["not_exported"] == {MODEL_FILE: found.reason}
    monkeypatch.undo()
    data2vec = {"audio": load("data2vec", checkpoints)}
    with pytest.raises(NotExportable, match="each sequence on its own"):
        module = onnx_export.PaddedModel(
            run_model(data2vec, fusion="audio", pooling="mean").head, {"audio": StreamEncoder(data2vec["audio"])}
        )
        _export(module, onnx_export.model_inputs({"audio": StreamEncoder(data2vec["audio"])}), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'mervn\[onnx\]'"):
        onnx_export.require_packages()
