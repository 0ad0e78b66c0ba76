"""Batches of stored features: the same wherever the features are, whatever is computed together."""

import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_store import make_store, stored, write
from torch import Tensor

from features.ragged import Ragged
from features.store.reader import FeatureStore
from mervn.data import frames_together, stored_batches, streamed_frames
from mervn.data.frames_together import FramesTogether, gather_together
from mervn.data.split import Batch, BatchRequest
from mervn.data.stored_batches import StoredBatch, read_batches
from mervn.data.stored_sequences import Sequences
from mervn.data.stored_split import StoredSplit
from mervn.data.streamed_frames import HostBuffer

CPU = torch.device("cpu")
SIZES = (3, 0, 5, 2)
TARGETS = 10 * np.arange(4)
PLAN = [[0, 1], [3, 2], [2], [1, 3, 0], [3]]


def make_streams(folder: Path) -> dict[str, list[Sequences]]:
    """Return the streams text, of one layer, and audio, of two, in another order than in the stores."""
    streams = {}
    for number, name in enumerate(("text", "audio", "audio-2")):
        info = make_store(folder / name)
        write(info, [stored(each, size, number) for each, size in zip("dcba", SIZES[::-1], strict=True)])
        streams[name] = Sequences.of(FeatureStore(info.path), list("abcd"))
    return {"text": [streams["text"]], "audio": [streams["audio"], streams["audio-2"]]}


def load(streams: dict[str, list[Sequences]]) -> None:
    for layers in streams.values():
        for each in layers:
            each.load(CPU)


def expected(indices: Sequence[int], number: int) -> Tensor:
    parts = [stored("abcd"[i], SIZES[i], number).values for i in indices]
    return torch.from_numpy(np.concatenate(parts)).float()


def check(batches: Sequence[Batch], plan: Sequence[list[int]] = PLAN) -> None:
    assert [batch.indices for batch in batches] == list(plan)
    for batch in batches:
        assert batch.targets.tolist() == TARGETS[batch.indices].tolist()
        for part in (None, batch.indices[:1]):  # a part: if the batch does not fit into memory
            check_streams(batch.inputs(part), part or batch.indices)


def check_streams(streams: dict[str, Ragged], indices: Sequence[int]) -> None:
    for stream in streams.values():
        alone = Ragged.from_lengths(stream.values, [SIZES[i] for i in indices])
        assert stream.sizes == alone.sizes and torch.equal(stream.index, alone.index)
    assert torch.equal(streams["text"].values, expected(indices, 0))
    assert torch.equal(streams["audio"].values, torch.stack([expected(indices, 1), expected(indices, 2)], dim=1))


@pytest.mark.parametrize("where", ["memory", "stores"])
@pytest.mark.parametrize("limits", [(1024, 1 << 18), (2, 1 << 18), (1024, 20), (1024, 1)])
def test_batches_are_those_of_the_stores(
    where: str, limits: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_batches, "GROUP_BATCHES", limits[0])
    monkeypatch.setattr(stored_batches, "GROUP_FRAMES", limits[1])
    streams = make_streams(tmp_path)
    if where == "memory":
        load(streams)
    check(list(read_batches(streams, TARGETS, PLAN, CPU)))
    assert list(read_batches(streams, TARGETS, [], CPU)) == []


def test_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = make_streams(tmp_path)  # the batches have 6, 14, 10, 10 and 4 frames
    for limits, sizes in (((1024, 1 << 18), [5]), ((2, 99), [2, 2, 1]), ((9, 20), [2, 2, 1]), ((9, 1), [1] * 5)):
        monkeypatch.setattr(stored_batches, "GROUP_BATCHES", limits[0])
        monkeypatch.setattr(stored_batches, "GROUP_FRAMES", limits[1])
        groups = list(stored_batches._groups(streams, PLAN))
        assert [len(group) for group in groups] == sizes and [each for group in groups for each in group] == PLAN


class Indices(array):  # type: ignore[type-arg]
    """Indices of a batch as training gives them; counts the lists that are made of them, which take more memory."""

    listed = 0

    def __iter__(self) -> Iterator[int]:
        Indices.listed += 1
        return super().__iter__()


def test_indices_are_lists_for_one_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_batches, "GROUP_BATCHES", 2)
    split = StoredSplit("train", [], [], TARGETS, make_streams(tmp_path), np.zeros(4), np.zeros(4), "")
    batches = split.batches([BatchRequest(Indices("i", indices)) for indices in PLAN], CPU)
    assert next(batches).indices == PLAN[0] and Indices.listed == 2
    check(list(batches), PLAN[1:])


class OnGpu:
    """A CPU that read_batches takes for a GPU."""

    type = "cuda"


@pytest.mark.parametrize(("max_bytes", "num_gathered"), [(1 << 26, 1), (16 * 18, 2), (1, 5)])
@pytest.mark.parametrize("order", [PLAN, PLAN[::-1]])
def test_frames_that_are_resident_on_a_gpu_are_gathered_together(
    order: list[list[int]], max_bytes: int, num_gathered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, gpu, take = make_streams(tmp_path), OnGpu(), Sequences.take
    load(streams)
    taken: list[int] = []
    monkeypatch.setattr(Sequences, "take", lambda self, index: taken.append(len(index)) or take(self, index))
    monkeypatch.setattr(frames_together, "GATHER_BYTES", max_bytes)
    monkeypatch.setattr(stored_batches, "to_device", lambda tensor, device: tensor)
    monkeypatch.setattr(stored_batches, "gather_all", lambda *_: pytest.fail("must take all frames by index"))
    batches = list(read_batches(streams, TARGETS, order, gpu))  # type: ignore[arg-type]
    assert taken == []  # not before the first batch is read
    for batch in reversed(batches):
        check_streams(batch.inputs(), batch.indices)
    assert len(taken) == 3 * num_gathered and sum(taken) == 3 * sum(SIZES[i] for own in PLAN for i in own)


def test_frames_that_were_gathered_are_kept_for_their_batches_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = make_streams(tmp_path)
    load(streams)
    monkeypatch.setattr(frames_together, "GATHER_BYTES", 1)
    index = {name: torch.arange(6) for name in streams}
    kept = []
    for whole in gather_together(streams, index, {name: [(3,), (0,), (2, 1)] for name in streams}):
        frames = whole.read()
        assert all(one() is None for one in kept)  # those of earlier batches
        kept = [weakref.ref(each._base) for each in frames]
        del frames, whole
    assert len(kept) == 3


def test_frames_that_inference_gathered_serve_training(tmp_path: Path) -> None:
    streams = make_streams(tmp_path)
    load(streams)
    index = {name: torch.arange(3) for name in streams}
    (whole,) = gather_together(streams, index, {name: [(3, 0)] for name in streams})
    with torch.inference_mode():
        whole.read()
    weight = torch.ones(3, requires_grad=True)
    (whole.read()[0] @ weight).sum().backward()
    assert torch.equal(weight.grad, expected([0], 0).sum(0))


@pytest.mark.parametrize("where", ["resident", "streamed"])
@pytest.mark.parametrize("max_frames", [7, 4])
def test_a_part_is_read_alone_if_memory_does_not_suffice(
    where: str, max_frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, cast = make_streams(tmp_path), Tensor.float
    if where == "resident":
        load(streams)
    cast_frames: list[weakref.ref[Tensor]] = []

    def limited(self: Tensor) -> Tensor:
        if len(self) > max_frames:
            raise torch.OutOfMemoryError("CUDA out of memory")
        cast_frames.append(weakref.ref(found := cast(self)))
        return found

    monkeypatch.setattr(stored_batches, "to_device", lambda tensor, device: tensor)
    monkeypatch.setattr(streamed_frames, "to_device", lambda tensor, device: tensor)
    monkeypatch.setattr(Tensor, "float", limited)
    of, copy = HostBuffer.of, HostBuffer.batches
    monkeypatch.setattr(HostBuffer, "of", lambda sequences, indices, counts, pinned: of(sequences, indices, counts))
    monkeypatch.setattr(HostBuffer, "batches", lambda self, device: copy(self, CPU))
    monkeypatch.setattr(streamed_frames, "transfer_spans", lambda num_bytes: [slice(0, len(num_bytes))])
    for batch in read_batches(streams, TARGETS, PLAN, OnGpu()):  # type: ignore[arg-type]
        if sum(SIZES[i] for i in batch.indices) > max_frames:
            with pytest.raises(torch.OutOfMemoryError):
                batch.inputs()
            cast_frames.clear()
            for index in batch.indices:
                if SIZES[index] <= max_frames:
                    check_streams(batch.inputs([index]), [index])
        else:
            check_streams(batch.inputs(), batch.indices)  # alone: all batches together do not fit
            kept = [each for each in cast_frames if each() is not None]
            assert kept == []
    assert cast_frames


def test_frames_are_released_if_a_part_of_a_batch_is_read() -> None:
    sources = [lambda places: torch.arange(9.0)[places, None].clone()]
    together = FramesTogether(sources, [[2, 0, 7]])
    before = weakref.ref(together.read(0)[0]._base)
    together.separate()
    assert before() is None
    assert [together.read(number)[0][:, 0].tolist() for number in range(3)] == [[0, 1], [], [2, 3, 4, 5, 6, 7, 8]]


def test_other_errors_than_full_memory_are_not_hidden() -> None:
    def fail(places: slice) -> Tensor:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        FramesTogether([fail], [[2]]).read(0)


def test_frames_in_memory_reach_a_gpu_without_an_index(tmp_path: Path) -> None:
    streams = make_streams(tmp_path)
    load(streams)
    for batch in read_batches(streams, TARGETS, PLAN, torch.device("meta")):
        for stream in batch.inputs().values():
            assert stream.values.device.type == "meta" and len(stream.values) == sum(SIZES[i] for i in batch.indices)


def test_control_the_index_of_another_batch_are_other_frames(tmp_path: Path) -> None:
    streams = make_streams(tmp_path)
    load(streams)
    index = {"text": torch.tensor([0, 1, 3]), "audio": torch.tensor([0, 1, 2])}
    (whole,) = gather_together(streams, index, {name: [(3, 0)] for name in streams})
    layouts = {name: Ragged.without_values([3, 0]).layout for name in streams}
    found = StoredBatch(streams, CPU, [0, 1], layouts, whole).read([0, 1])
    with pytest.raises(AssertionError):
        check_streams(found, [0, 1])
