"""ONNX files: onnxruntime gives the probabilities of the model for every batch, and faults say why.

An export takes seconds, so one serves all tests. test_padded compares every fusion, pooling and
encoder in the form that is exported, without onnxruntime.
"""

import ast
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from every_encoder import load
from tiny import Messages, make_wave_transformer, wave
from tiny_extraction import small_encoders

from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from mervn.config import HeadOptions
from mervn.data.streams import StreamShape
from mervn.model.end_to_end import shapes_of
from mervn.model.head import build_head
from mervn.run_folder import RunConfig
from mervn.use import onnx_check, onnx_export
from mervn.use.clips import Clip
from mervn.use.onnx_check import check_head, open_session, padded_inputs
from mervn.use.onnx_export import HEAD_FILE, MODEL_FILE, NotExportable, OnnxFiles, export_onnx, model_inputs
from mervn.use.onnx_model import PaddedModel
from mervn.use.run_encoders import StreamEncoder
from mervn.use.run_model import RunModel
from mervn.use.scoring import Scorer

PAGE = Path(__file__).parent.parent / "docs" / "deployment.md"
ALLOWED = {"hashlib", "json", "sys", "unicodedata", "wave", "pathlib", "numpy", "onnxruntime"}


def run_model(encoders: Mapping[str, Encoder], precision: str = "fp32", **options: Any) -> RunModel:
    """Return a small head behind encoders."""
    shapes = shapes_of(encoders)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = build_head(HeadOptions(dim=8, heads=2, mlp=(), **options), shapes, 3).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(2)
    streams = {name: shape.as_json() for name, shape in shapes.items()}
    config = RunConfig("train-head", {}, ["a", "b", "c"], {}, streams)
    rounded = {name: StreamEncoder(encoder, precision, "fp16") for name, encoder in encoders.items()}
    return RunModel(Path("run"), config, head, rounded, "", torch.device("cpu"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    audio, text = small_encoders(tmp_path_factory.mktemp("models"))
    return {
        "text": load_encoder(parse_selector(text, "text")),
        "audio": load_encoder(parse_selector(f"{audio}@0,1", "audio")),
    }


@pytest.fixture(autouse=True, scope="module")
def fast_tracing() -> Iterator[None]:
    """Trace without torch's cache of shapes, slower here than no cache, and without garbage collection: a fifth less.

    Neither changes a graph.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch._dynamo.config.fake_tensor_cache_enabled", False)
        gc.disable()
        yield
        gc.enable()


@dataclass(frozen=True)
class Exported:
    model: RunModel
    bundle: Path
    found: OnnxFiles
    said: list[str]

    def shapes(self) -> dict[str, StreamShape]:
        return {name: StreamShape(**shape) for name, shape in self.model.config.streams.items()}


@pytest.fixture(scope="module")
def exported(small: dict[str, Encoder], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, reporter = run_model(small, fusion="late", pooling="attn"), Messages()
    folder = tmp_path_factory.mktemp("onnx")
    return Exported(model, folder, export_onnx(model, folder, reporter), reporter.said)


def test_head_and_model_equal_the_run_and_the_description_is_complete(exported: Exported) -> None:
    found, folder = exported.found, exported.bundle / "onnx"
    assert found.reason is None and exported.said == []
    for name in (HEAD_FILE, MODEL_FILE):
        assert str(PAGE.parent.parent).encode() not in (folder / name).read_bytes()  # no folder of this machine
    assert 0 < found.head_difference < 1e-5 and 0 < (found.model_difference or 0) < 1e-4
    about = json.loads((folder / "onnx.json").read_text())
    assert about["labels"] == ["a", "b", "c"] and about["not_exported"] is None
    assert about["files"][HEAD_FILE]["inputs"]["audio"]["shape"] == ["batch", "length", 2, 32]
    assert about["files"][MODEL_FILE]["inputs"]["audio"] == {
        "kind": "samples", "dtype": "float32", "shape": ["batch", "length"], "encoder": "fourier2vec",
        "min_length": 400, "normalize": False,
    }  # fmt: skip
    shapes = {node.name: node.shape for node in open_session(folder / HEAD_FILE).get_inputs()}
    assert shapes["text"] == ["batch", "text_length", 32] and shapes["text_lengths"] == ["batch"]


def test_an_utterance_alone_has_the_logits_that_it_has_in_a_padded_batch(exported: Exported) -> None:
    session = open_session(exported.bundle / "onnx" / HEAD_FILE)
    sequences: dict[str, list[torch.Tensor]] = {}
    for name, shape in exported.shapes().items():
        layers = [len(shape.layers)] if len(shape.layers) > 1 else []
        sequences[name] = [torch.randn(n, *layers, shape.width) for n in (4, 1, 40)]
    together: dict[str, Any] = {}
    for name, tensors in sequences.items():
        together |= padded_inputs(name, tensors, extra=5)
    (logits,) = session.run(None, together)
    for i in range(3):
        alone: dict[str, Any] = {}
        for name, tensors in sequences.items():
            alone |= padded_inputs(name, [tensors[i]], extra=0)
        (one,) = session.run(None, alone)
        np.testing.assert_allclose(one[0], logits[i], atol=1e-4)
    assert np.ptp(logits, axis=0).max() > 0.1


def test_a_file_of_other_weights_is_refused(exported: Exported) -> None:
    other = run_model(
        {name: one.encoder for name, one in exported.model.encoders.items()}, fusion="xattn", pooling="attn"
    )
    with torch.no_grad():
        next(other.head.classifier.parameters()).mul_(1.01)
    with pytest.raises(
        InputError, match=r"head\.onnx must give the probabilities of the model within 0\.0001, found a"
    ):
        check_head(other.head, exported.shapes(), exported.bundle / "onnx" / HEAD_FILE)


def test_the_program_of_the_page_needs_no_torch_and_gives_the_probabilities(exported: Exported, tmp_path: Path) -> None:
    (source,) = [
        part.split("```")[0] for part in PAGE.read_text("utf-8").split("```python\n") if "# mervn_onnx.py" in part
    ]
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported == ALLOWED
    names: dict[str, Any] = {"__name__": "mervn_onnx"}
    exec(compile(source, "mervn_onnx.py", "exec"), names)
    for number, (seconds, text) in enumerate([(0.7, "Hôm  nay tôi vui lắm"), (0.01, ""), (1.3, "ừ")]):
        clip = tmp_path / f"{number}.wav"
        soundfile.write(clip, wave(seconds, number), 16_000, subtype="PCM_16")
        (expected,) = Scorer(exported.model).score([Clip(clip, text=text)])
        found = names["predict"](exported.bundle, str(clip), text)
        assert list(found) == ["a", "b", "c"]
        assert list(found.values()) == pytest.approx(expected, abs=1e-4)


class Unexportable(torch.nn.Module):
    """A fusion whose result depends on a number that no graph knows."""

    def forward(self, streams: dict[str, Any]) -> list[Any]:
        return [stream.map(lambda values: values * float(values.sum())) for stream in streams.values()]


def test_a_head_that_cannot_be_exported_is_an_error_with_the_reason(small: dict[str, Encoder], tmp_path: Path) -> None:
    model = run_model({"text": small["text"]}, fusion="text", pooling="mean")
    model.head.fusion = Unexportable()
    with pytest.raises(InputError, match="head of run cannot be exported to ONNX: .+"):
        export_onnx(model, tmp_path, Messages())


def test_encoders_that_cannot_be_exported_leave_the_head(
    small: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "check_head", lambda head, shapes, file: 0.0)
        patch.setattr(onnx_export, "_export", lambda module, inputs, path: exported.append(path.name))
        reporter = Messages()
        found = export_onnx(run_model(small, "bf16", fusion="late", pooling="mean"), tmp_path, reporter)
    assert exported == [HEAD_FILE] and found.model_difference is None
    assert found.reason is not None and "computed in bf16" in found.reason and found.reason in reporter.said[0]
    about = json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert list(about["files"]) == [HEAD_FILE] and about["not_exported"] == {MODEL_FILE: found.reason}
    checkpoint = make_wave_transformer(tmp_path / "data2vec", "data2vec", num_hidden_layers=1)
    model = run_model({"audio": load("data2vec", {"data2vec": str(checkpoint)})}, fusion="audio", pooling="mean")
    with pytest.raises(NotExportable, match="each sequence on its own"):
        onnx_export._export(PaddedModel(model.head, model.encoders), model_inputs(model.encoders), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_difference_above_the_tolerance_is_an_error(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_check, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"model\.onnx must give .*audio_lengths.*no ONNX file is written"):
        onnx_check.check_model(exported.model, exported.bundle / "onnx" / MODEL_FILE)


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'mervn\[onnx\]'"):
        onnx_export.require_packages()
