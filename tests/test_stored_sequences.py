"""Features are resident when they fit and streamed when they do not, with the same numbers, and never damaged ones."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_head import RESULTS, data, made, train  # noqa: F401
from tiny import Recorder
from tiny_store import damage, make_store, parts, stored, write
from torch import Tensor

from features.errors import InputError
from features.extraction.encoder_input import InputComparison
from features.store.part import crc32
from features.store.reader import FeatureStore
from mervn.config import TrainHeadOptions
from mervn.data.stored_sequences import Sequences, available_bytes, make_resident
from mervn.training.train_head import train_head

CPU = torch.device("cpu")


def make_sequences(folder: Path) -> Sequences:
    info = make_store(folder)
    write(info, [stored(str(i), size, i) for i, size in enumerate([3, 0, 5, 1])])
    write(info, [stored("4", 7, 4)], kind="zarr")
    return Sequences.of(FeatureStore(info.path), ["2", "1", "4", "0", "3"])


def test_resident_and_streamed_sequences_are_the_stored_rows(tmp_path: Path) -> None:
    streamed, resident = make_sequences(tmp_path), make_sequences(tmp_path)
    resident.load(CPU)
    assert resident.resident and not streamed.resident
    assert streamed.sizes.tolist() == resident.sizes.tolist() == [5, 0, 7, 3, 1] and streamed.num_bytes == 16 * 3 * 2
    assert streamed.sizes_of([2, 0]) == [7, 5]
    expected = [stored(name, size, int(name)).values for name, size in zip("21403", streamed.sizes, strict=True)]
    for indices in ([0], [4, 2, 0], [1], [2, 1, 3, 2]):
        wanted = np.concatenate([expected[i] for i in indices])
        for sequences in (streamed, resident):
            np.testing.assert_array_equal(sequences.gather(indices).numpy(), wanted)


def test_a_device_is_filled_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = make_sequences(tmp_path)
    width = sequences.num_bytes // 16
    for frames, chunks in ((16, [(0, 5)]), (7, [(0, 2), (2, 3), (3, 5)]), (1, [(i, i + 1) for i in range(5)])):
        monkeypatch.setattr("mervn.data.stored_sequences.CHUNK_BYTES", frames * width)
        assert list(sequences._chunks()) == chunks
    copied: list[Tensor] = []
    monkeypatch.setattr("mervn.data.stored_sequences.CHUNK_BYTES", 7 * width)
    monkeypatch.setattr(Tensor, "copy_", lambda _, host: copied.append(host))
    sequences.load(torch.device("meta"))
    whole = make_sequences(tmp_path)
    whole.load(CPU)
    assert [len(host) for host in copied] == [5, 7, 4]  # never the whole of them on the host
    assert torch.equal(torch.cat(copied), whole.gather(range(5)))


def test_the_budget_decides_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder()
    sequences = make_sequences(tmp_path)
    make_resident([sequences], CPU, 0.0, recorder)
    assert (
        not sequences.resident and "streamed from disk: they do not fit into the budget of 0 GB" in recorder.lines[-1]
    )
    make_resident([sequences], CPU, None, recorder)
    assert sequences.resident and "resident in memory: they fit into half of the" in recorder.lines[-1]
    assert 0 < available_bytes(CPU) < 2**50


@pytest.mark.parametrize("resident", [True, False])
def test_damaged_rows_are_never_used(tmp_path: Path, resident: bool) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 20), stored("b", 20, 1)])
    damage(parts(info)[0], stored("b", 20, 1).values[7])
    sequences = Sequences.of(FeatureStore(info.path), ["a", "b"])
    for _ in range(2):  # not the second time either
        with pytest.raises(InputError, match="features of 'b' whose crc32 differs from the stored one"):
            if resident:
                sequences.load(CPU)
            else:
                sequences.gather([0, 1])


def test_each_crc32_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2), stored("b", 3, 1), stored("c", 1, 2)])
    sequences, checked = Sequences.of(FeatureStore(info.path), ["a", "b", "c"]), []

    def counted(values: np.ndarray[Any, Any]) -> int:
        checked.append(len(values))
        return crc32(values)

    monkeypatch.setattr("features.store.reader.crc32", counted)
    for indices in ([0, 1], [1, 2], [2, 0]):
        sequences.gather(indices)
    assert checked == [2, 3, 1]


def test_a_run_does_not_depend_on_where_its_features_are(data: Path, tmp_path: Path) -> None:  # noqa: F811
    streamed = train(data, tmp_path / "streamed", memory_gb=0.0).path
    resident = train(data, tmp_path / "resident").path
    for name in RESULTS:
        assert (streamed / name).read_bytes() == (resident / name).read_bytes()


def test_training_says_where_its_features_are(data: Path, tmp_path: Path) -> None:  # noqa: F811
    recorder = Recorder()
    train_head(TrainHeadOptions(output=tmp_path / "run", epochs=1), data, recorder)
    assert any("resident in memory" in line for line in recorder.lines) and len(recorder.epochs) == 1


def test_a_touched_file_is_decoded_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for path in data.rglob("*.wav"):
        os.utime(path, (1, 1))
    found: list[object] = []
    compare = InputComparison.compare

    def recorded(self: InputComparison, inputs: Any) -> Iterator[tuple[Any, Any]]:
        for item, freshness in compare(self, inputs):
            found.append(freshness)
            yield item, freshness

    monkeypatch.setattr(InputComparison, "compare", recorded)
    train(data, tmp_path / "one")
    assert found.count("moved") >= 1
    found.clear()
    train(data, tmp_path / "two")
    assert found.count("moved") == 0
    (notes,) = (data / "stores" / "audio").glob("*/sources.jsonl")
    with notes.open("a") as file:
        file.write('{"utterance_id": "cut sho')  # by a crash
    assert json.loads(notes.read_text().splitlines()[0])["source"]
    train(data, tmp_path / "three")
    assert found.count("moved") == 0
