"""No head waits for a device: on meta tensors nothing is copied from or to the host, and no value is looked at."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import make_store, stored, write
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from features.device import to_device
from features.encoders.fourier2vec import DEFAULTS, Fourier2Vec
from features.extraction.encode import encode
from features.ragged import Ragged, concatenate
from features.store.reader import FeatureStore
from mervn.data import streamed_frames
from mervn.data.frames_together import spans
from mervn.data.split import BatchRequest
from mervn.data.stored_sequences import Sequences
from mervn.data.stored_split import StoredSplit
from mervn.data.streamed_frames import HostBuffer, read_ahead, transfer_spans
from mervn.model.module_checks import SHAPES, SIZES, head_factory
from mervn.registry import FUSIONS, POOLINGS

META = torch.device("meta")
CASES = [
    (fusion, pooling)
    for fusion in FUSIONS
    for pooling in POOLINGS
    if (fusion, pooling) != ("audio", "cls") and (pooling == "mean" or not FUSIONS[fusion].linear)
]

SHORT = {"text": (3, 2, 0, 1), "audio": (4, 0, 1, 2)}
"""Lengths for LSTMs, which run frame by frame on meta tensors; one without text and one without audio, as in SIZES."""


class Crossings(TorchDispatchMode):
    """Lists the operations that read or make tensors on the host and on the device: copies, and what mixes them.

    Numbers (tensors of no dimension) are passed to a kernel without a copy and do not count, unless they are copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [x for x in pytree.tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if len({x.device.type for x in tensors if x.ndim or name in ("_to_copy", "copy_")}) > 1:
            self.found.append(name)
        return result


def streams_on_device(sizes: Mapping[str, tuple[int, ...]] = SIZES) -> dict[str, Ragged]:
    return {
        name: Ragged.from_lengths(torch.empty(sum(sizes[name]), shape.width, device=META), sizes[name])
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("missing", ["token", "none"])
@pytest.mark.parametrize(("fusion", "pooling"), CASES)
def test_a_step_of_a_head_copies_nothing_and_waits_for_nothing(
    fusion: str, pooling: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # which torch does not answer for meta
    head = head_factory(fusion=fusion, pooling=pooling, missing=missing)(0).to(META).train()
    streams = streams_on_device(SHORT if "lstm" in fusion else SIZES)
    with Crossings() as crossings:
        logits = head(streams)
        logits.sum().backward()
    assert logits.device == META and crossings.found == []


LOOKS: dict[str, Callable[[Ragged], Any]] = {
    "item": lambda x: x.lengths.max().item(),
    "tolist": lambda x: x.lengths.tolist(),
    "nonzero": lambda x: x.values.nonzero(),
}


@pytest.mark.parametrize("look", LOOKS)
def test_control_looking_at_a_value_fails(look: str) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)meta"):
        LOOKS[look](streams_on_device()["text"])


def test_control_a_layout_from_the_host_is_noticed() -> None:
    x = streams_on_device()["text"]
    with Crossings() as crossings:
        joined = concatenate(x, x)
        assert crossings.found == []
        Ragged.from_lengths(joined.values, joined.sizes)  # as `concatenate` once did, three times
    assert crossings.found == ["_to_copy"]


def test_a_batch_goes_to_a_device_in_two_copies() -> None:
    x = Ragged.from_lengths(torch.empty(5, 3), [2, 0, 3])
    with Crossings() as crossings:
        there = x.to(META)
    assert crossings.found == ["_to_copy"] * 2  # values and lengths
    assert {t.device for t in (there.values, there.lengths, there.segments, there.index)} == {META}
    assert x.to("cpu") is x


@pytest.mark.parametrize(("resident", "max_batches", "num_transfers"), [(True, 3, 0), (False, 3, 2), (False, 1, 3)])
def test_an_epoch_of_stored_features_goes_to_a_device_in_few_copies(
    resident: bool, max_batches: int, num_transfers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_frames, "TRANSFER_BATCHES", max_batches)
    info = make_store(tmp_path)
    write(info, [stored(name, size, size) for name, size in zip("abcd", (3, 0, 5, 2), strict=True)])
    sequences = [Sequences.of(FeatureStore(info.path), list("abcd")) for _ in range(3)]
    streams, numbers = {"text": sequences[:1], "audio": sequences[1:]}, np.arange(4)
    split = StoredSplit("train", [], [], numbers, streams, numbers.astype(float), numbers, "")
    plan = [BatchRequest([0, 1]), BatchRequest([3, 2]), BatchRequest([2])]
    if resident:
        for each in sequences:
            each.load(META)
    with Crossings() as crossings:
        batches = [(batch, batch.inputs()) for batch in split.batches(plan, META)]
        # lengths and targets once for all batches, and the frames of all streams once per transfer
        assert crossings.found == ["_to_copy"] * (1 + num_transfers)
        batches[0][0].inputs([1])  # a part of a batch that does not fit into memory
    assert len(crossings.found) > 1 + num_transfers
    for batch, inputs in batches:
        assert batch.targets.device == inputs["text"].values.device == inputs["audio"].lengths.device == META
        assert inputs["audio"].values.shape[1:] == (2, inputs["text"].values.shape[1])
        assert inputs["audio"].values.dtype == torch.float32


def test_a_block_of_several_stores_holds_their_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = []
    for dtype, kind in (("fp16", np.float16), ("fp32", np.float32)):
        info = make_store(tmp_path / dtype, store_dtype=dtype)
        utterances = [stored("a", 3), stored("b", 5)]
        write(info, [replace(one, values=one.values.astype(kind)) for one in utterances])
        sequences.append(Sequences.of(FeatureStore(info.path), ["a", "b"]))
    cpu, batches = torch.device("cpu"), [[1, 0], [0], [1, 1, 1]]
    counts = [[sum(each.sizes_of(indices)) for indices in batches] for each in sequences]
    block = HostBuffer.of(sequences, np.array([1, 0, 0, 1, 1, 1]), counts)
    for found, indices in zip(block.batches(cpu), batches, strict=True):
        for frames, each in zip(found.read(), sequences, strict=True):
            assert torch.equal(frames, each.gather_float(indices)) and frames.dtype == torch.float32
    for limits in ((1 << 20, 32), (1 << 20, 2), (1, 32)):
        monkeypatch.setattr(streamed_frames, "TRANSFER_BYTES", limits[0])
        monkeypatch.setattr(streamed_frames, "TRANSFER_BATCHES", limits[1])
        ahead = read_ahead(sequences, batches, cpu)
        for indices, found in zip(batches, ahead, strict=True):
            for frames, each in zip(found.read(), sequences, strict=True):
                assert torch.equal(frames, each.gather_float(indices))
    assert list(read_ahead(sequences, [], cpu)) == []
    assert [len(found.read()[0]) for found in read_ahead(sequences, [[0], [], [1, 0]], cpu)] == [3, 0, 8]


def test_training_waits_for_the_first_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(num_bytes: list[int]) -> list[int]:
        spans_of = transfer_spans(num_bytes)
        assert [i for span in spans_of for i in range(len(num_bytes))[span]] == list(range(len(num_bytes)))
        return [span.stop - span.start for span in spans_of]

    monkeypatch.setattr(streamed_frames, "TRANSFER_BATCHES", 8)
    monkeypatch.setattr(streamed_frames, "TRANSFER_BYTES", 100)
    assert sizes([]) == []
    assert sizes([1] * 25) == [1, 2, 4, 8, 8, 2]
    assert sizes([40] * 7) == [1, 2, 2, 2]  # at most 100 bytes
    assert sizes([1, 999, 1, 1, 99, 2, 1]) == [1, 1, 2, 1, 2]  # a larger batch is a transfer of its own


def test_spans_are_bounded_and_hold_every_item_once() -> None:
    assert list(spans([], 9, 9)) == []
    assert list(spans([3, 3, 3, 9, 1, 99, 1], 9, 9)) == [
        slice(0, 3),
        slice(3, 4),
        slice(4, 5),
        slice(5, 6),
        slice(6, 7),
    ]
    assert list(spans([0, 0, 0, 0, 0], 9, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_a_layout_is_the_same_wherever_it_is_derived() -> None:
    sizes = (3, 0, 5, 1)
    x = Ragged.from_lengths(torch.empty(9, 2), sizes)
    assert x.lengths.tolist() == list(sizes)
    assert x.segments.tolist() == [0, 0, 0, 2, 2, 2, 2, 2, 3]
    assert x.index.tolist() == [0, 1, 2, 10, 11, 12, 13, 14, 15]


def test_extraction_copies_once_for_each_batch_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Fourier2Vec({**DEFAULTS, "dim": 16, "num_layers": 1}, (0, "last")).eval()
    waves, cpu, copies = [torch.randn(n) for n in (1600, 0, 4000, 800)], Tensor.cpu, []
    monkeypatch.setattr(Tensor, "cpu", lambda self: copies.append(self.shape) or cpu(self))
    found = encode(waves, encoder, torch.device("cpu"))
    sizes = [encoder.get_feat_lengths(len(wave)) if len(wave) else 0 for wave in waves]
    assert copies == [(sum(sizes), 16)] * 2
    assert [[len(features) for features in layers or ()] for layers in found] == [[size] * 2 for size in sizes]


class Host:
    """Stands for a tensor on the host and tells how it was copied."""

    device = torch.device("cpu")
    pinned = False

    def pin_memory(self) -> "Host":
        found = Host()
        found.pinned = True
        return found

    def to(self, device: torch.device, non_blocking: bool = False) -> tuple[str, bool, bool]:
        return device.type, self.pinned, non_blocking


def test_only_a_gpu_copies_from_pinned_memory_without_waiting() -> None:
    host: Any = Host()
    assert to_device(host, "cuda:1") == ("cuda", True, True)
    assert to_device(host, META) == ("meta", False, False)
