"""Out of memory: batches are halved, the limit is remembered, and only overlong audio is rejected."""

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_encoder_input import run
from tiny import make_data, make_whisper, wave
from torch import nn

from features.encoders.base import Encoder, load_encoder
from features.encoders.fourier2vec import Fourier2Vec
from features.encoders.layer_means import LayerMeans
from features.encoders.selector import EncoderSettings, parse_selector
from features.errors import InputError
from features.extraction.encode import encode
from features.manifests.manifest import read_manifests
from features.memory import MemoryBudget, default_budget, is_out_of_memory
from features.ragged import Ragged, segment_mean
from features.store.rejected import read_rejected
from mervn.data import waveform_split as live
from mervn.data.waveform_split import WaveformSplit
from mervn.evaluation.predict import predict

CPU = torch.device("cpu")


class Activations:
    """Memory of a fake device: in use as long as anything refers to it, an exception's traceback included."""

    capacity = sys.maxsize
    used = 0

    def __init__(self, size: int) -> None:
        self.size = 0
        if Activations.used + size > Activations.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.size = size
        Activations.used += size

    def __del__(self) -> None:
        Activations.used -= self.size


@pytest.fixture(autouse=True, scope="module")
def only_new_objects() -> None:
    """Leave what other tests have imported and made out of garbage collections, each a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[int]]]:
    """Give Fourier2Vec a device of some capacity in samples; return the padded sizes that were tried."""
    forward, tried = Fourier2Vec.forward_layers, []

    def limited(self: Fourier2Vec, inputs: Ragged) -> list[Ragged]:
        padded = max(inputs.sizes) * len(inputs.sizes)
        tried.append(padded)
        kept = [Activations(padded // 2)]
        kept.append(Activations(padded - padded // 2))
        return forward(self, inputs)

    def limit(capacity: int) -> list[int]:
        Activations.capacity = capacity
        monkeypatch.setattr(Fourier2Vec, "forward_layers", limited)
        return tried

    yield limit
    Activations.capacity = sys.maxsize
    gc.collect()
    assert Activations.used == 0


def make_encoder() -> Encoder:
    return load_encoder(parse_selector("fourier2vec", "audio"))


def test_a_batch_that_does_not_fit_is_halved_after_its_memory_was_freed(device: Callable[[int], list[int]]) -> None:
    encoder = make_encoder()
    prepared = [encoder.prepare(wave(0.2, i)) for i in range(5)]
    expected = encode(prepared, encoder, CPU)
    device(2 * 3200)  # with the failed batch's first half in use, nothing else would fit
    for found, wanted in zip(encode(prepared, encoder, CPU), expected, strict=True):
        assert found is not None and wanted is not None
        np.testing.assert_allclose(found[0], wanted[0], atol=2e-5)


def test_the_budget_that_fitted_is_remembered_for_later_batches(device: Callable[[int], list[int]]) -> None:
    encoder = make_encoder()
    prepared = [encoder.prepare(wave(0.2, i)) for i in range(8)]
    tried, budget = device(2 * 3200), MemoryBudget(CPU)
    encode(prepared, encoder, CPU, budget)
    assert tried[:3] == [8 * 3200, 4 * 3200, 2 * 3200]
    tried.clear()
    encode(prepared, encoder, CPU, budget)
    assert tried == [2 * 3200] * 4


def test_parts_come_in_order_and_empty_inputs_have_no_frames(device: Callable[[int], list[int]]) -> None:
    encoder = make_encoder()
    prepared = [encoder.prepare(wave(0.1 * (1 + i % 3), i)) for i in range(6)]
    prepared.insert(2, torch.zeros(0))
    device(6400)
    found = encode(prepared, encoder, CPU)
    sizes = [layers[0].shape[0] for layers in found if layers]
    assert sizes == [encoder.get_feat_lengths(len(item)) if len(item) else 0 for item in prepared]


def test_an_overlong_utterance_is_rejected_and_the_others_are_encoded(
    tmp_path: Path, device: Callable[[int], list[int]]
) -> None:
    data = make_data(tmp_path / "data", {"train": 4, "valid": 2, "test": 2})
    soundfile.write(data / "train-001.wav", wave(31.0, 0), 16_000)
    device(30 * 16_000)
    result = run(data)
    assert (result.encoded, result.rejected) == (7, 1)
    (entry,) = read_rejected(Path(result.path)).values()
    assert (entry.utterance_id, entry.reason) == ("train-001", "out_of_memory")
    assert "31.0 s of audio do not fit into the memory: cut it by start and end" in entry.detail


def test_a_device_that_is_full_for_another_reason_stops_the_extraction(
    tmp_path: Path, device: Callable[[int], list[int]]
) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    device(100)
    with pytest.raises(InputError, match=r"cpu has too little free memory for one utterance, '.*' of 0\.\d s of audio"):
        run(data)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_full_memory_are_told_from_others(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) == full


def test_another_error_is_raised_as_it_is() -> None:
    def broken(part: list[int]) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(MemoryBudget(CPU).run([0], [1.0], broken))


def test_whisper_costs_the_windows_it_computes(tmp_path: Path) -> None:
    selector = parse_selector(f"whisper={make_whisper(tmp_path / 'tiny')}", "audio")  # windows of 3 s
    whisper = load_encoder(selector)
    assert [whisper.get_padded_length(n) for n in (1, 48_000, 48_001)] == [48_000, 48_000, 96_000]
    assert LayerMeans(whisper).get_padded_length(1) == 48_000
    trimmed = load_encoder(selector, EncoderSettings(whisper_mode="trimmed"))
    assert trimmed.get_padded_length(1) == 1
    data = make_data(tmp_path / "data", {"train": 4, "valid": 1, "test": 1})
    sizes: list[int] = []
    original = type(whisper).forward_layers

    def forward(self: Any, inputs: Ragged) -> list[Ragged]:
        sizes.append(inputs.batch_size)
        return original(self, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(whisper), "forward_layers", forward)
        result = run(data, f"whisper={tmp_path / 'tiny'}", batch_seconds=9.0)
    assert sorted(sizes) == [3, 3]  # three windows of 3 s in 9 s, however short the utterances are
    assert result.padding > 0.8


class MeanLogits(nn.Module):
    """An encoder whose mean frame gives two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = make_encoder()

    def forward(self, streams: dict[str, Ragged]) -> torch.Tensor:
        logits: torch.Tensor = segment_mean(self.encoder(streams["audio"]))[:, :2]
        return logits


def test_a_batch_of_empty_inputs_computes_nothing(device: Callable[[int], list[int]]) -> None:
    tried = device(0)
    encoder = make_encoder()
    (layers,) = encode([torch.zeros(0)], encoder, CPU)
    assert layers is not None and layers[0].shape == (0, encoder.dim) and not tried


@pytest.mark.parametrize("workers", [0, 1])
def test_scoring_end_to_end_halves_its_batches_too(
    tmp_path: Path, device: Callable[[int], list[int]], workers: int
) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 12, "test": 2})
    model = MeanLogits()
    utterances = read_manifests(data, ("valid",))["valid"]
    split = WaveformSplit("valid", utterances, ["happy", "sad"], {"audio": model.encoder}, workers)
    whole = predict(model, split, CPU)
    read: list[int] = []
    original = live._Reader.__getitem__
    tried = device(16_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live._Reader, "__getitem__", lambda self, item: read.extend(item.indices) or original(self, item))  # type: ignore[func-returns-value]
        parts = predict(model, split, CPU)
    assert max(tried) > 16_000
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert sorted(read) == ([] if workers else list(range(12)))  # each once, by the workers if there are any
    device(1000)
    with pytest.raises(InputError, match=r"valid.jsonl:\d+ '.*' must fit into the memory of cpu"):
        predict(model, split, CPU)


def test_scoring_counts_the_windows_of_whisper(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 6, "test": 2})
    whisper = load_encoder(parse_selector(f"whisper={make_whisper(tmp_path / 'tiny')}", "audio"))
    utterances = read_manifests(data, ("valid",))["valid"]
    split = WaveformSplit("valid", utterances, ["happy", "sad"], {"audio": whisper}, 0)
    assert split.costs == [3.0] * 6
    assert sorted(map(len, split.evaluation_batches(CPU))) == [2, 2, 2]  # of 8 s


def test_a_small_gpu_begins_with_a_small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {0: 80e9, 1: 8e9, 2: 1e6}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda d: SimpleNamespace(total_memory=sizes[torch.device(d).index])
    )
    budgets = [default_budget("audio", torch.device("cuda", i)) for i in sizes]
    assert budgets == [480.0, 240.0, 8.0] and default_budget("audio", CPU) == 8.0
