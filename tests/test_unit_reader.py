"""UnitReader: any number of workers gives the same stores, and a file that cannot be read stops nothing."""

import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import soundfile
import torch
from test_extract import content, run
from tiny import make_data, wave
from tiny_extraction import small_encoders, spoil, utterance

from features.audio import decoding
from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.extraction import prefetch, unit_reader
from features.extraction.unit import Unit
from features.extraction.unit_reader import UnitReader, default_workers
from features.manifests.manifest import Utterance
from features.store.part import read_columns, read_part
from features.store.part_files import part_paths
from features.store.rejected import read_rejected


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen utterances, two of which cannot be decoded, and three at other rates."""
    data = make_data(tmp_path_factory.mktemp("data"), {"train": 10, "valid": 2, "test": 2})
    spoil(data, "train-003", "valid-001")
    for i, rate in enumerate((44_100, 22_050, 48_000)):
        soundfile.write(data / f"train-00{i}.wav", wave(0.4, i, rate), rate)
    return data


@pytest.fixture(scope="module")
def selector(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_encoders(tmp_path_factory.mktemp("models"))[0]


class InThisProcess:
    """Stands for the processes, in tests that change how audio is decoded."""

    abandoned: ClassVar[list[threading.Thread]] = []

    @staticmethod
    def decode(*segment: Any) -> decoding.Decoded:
        """Decode in this process."""
        return decoding.decode(*segment)

    @staticmethod
    def abandon(thread: threading.Thread) -> None:
        """Keep the thread."""
        InThisProcess.abandoned.append(thread)


def everything(path: str) -> tuple[dict[str, tuple[list[str], bytes, dict[str, list[Any]]]], bytes]:
    """Return the content of every part of a store by name, and its rejected.jsonl; HDF5 files also have the time."""
    parts = {}
    for file in part_paths(Path(path)):
        part = read_part(file)
        columns = {name: list(column) for name, column in vars(read_columns(file, "audio")).items()}
        parts[file.name] = (list(part.utterance_ids), part.values.tobytes(), columns)
    return parts, (Path(path) / "rejected.jsonl").read_bytes()


def test_any_number_of_threads_gives_the_same_parts(
    data: Path, selector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(run(data, selector, features_dir=tmp_path / "0", workers=0).path)
    assert len(expected[0]) > 3
    order: list[str] = []
    decode = decoding.decode_segment

    def decode_slowly(path: Path, *rest: Any) -> Any:
        time.sleep(0.02 * (int(path.stem[-1]) % 2))  # the others overtake these
        found = decode(path, *rest)
        order.append(path.stem)
        return found

    monkeypatch.setattr(decoding, "decode_segment", decode_slowly)
    monkeypatch.setattr(unit_reader, "PROCESSES", InThisProcess)
    orders = []
    for workers in (1, 2, 4):
        order.clear()
        found = run(data, selector, features_dir=tmp_path / str(workers), workers=workers)
        assert everything(found.path) == expected
        orders.append(list(order))
    assert len({tuple(order) for order in orders}) > 1  # the control: they were not read in one order
    assert set(orders[0]) == set(orders[1]) == set(orders[2])


@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_file_that_hangs_or_ends_its_thread_is_rejected_and_tried_again(
    data: Path, selector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    release = threading.Event()
    decode = decoding.decode_segment

    def fail(path: Path, *rest: Any) -> Any:
        if path.stem == "train-005":
            if fault == "dies":
                raise SystemExit
            release.wait()
        return decode(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_segment", fail)
        patch.setattr(unit_reader, "PROCESSES", InThisProcess)
        patch.setattr(prefetch, "LIMIT_S", 2.0 if fault == "hangs" else 60.0)
        result = run(data, selector, features_dir=tmp_path, workers=2)
    release.set()
    assert len(InThisProcess.abandoned) == (fault == "hangs")
    InThisProcess.abandoned.clear()
    assert (result.encoded, result.rejected) == (11, 3)
    entry = read_rejected(Path(result.path))["train-005"]
    cause = "it was not read within 2 s" if fault == "hangs" else "its thread ended with SystemExit"
    assert (
        entry.reason == "system_error" and cause in entry.detail and "train-005.wav cannot be read now" in entry.detail
    )
    again = run(data, selector, features_dir=tmp_path, workers=2)
    assert (again.encoded, again.kept, again.rejected) == (1, 11, 2)


def test_processes_that_decode_give_the_same_parts(data: Path, selector: str, tmp_path: Path) -> None:
    expected = everything(run(data, selector, features_dir=tmp_path / "0", workers=0).path)
    assert everything(run(data, selector, features_dir=tmp_path / "2", workers=2).path) == expected


def test_a_rate_that_needs_resampling_is_read_in_fp32_for_an_encoder_in_bf16(
    data: Path, selector: str, tmp_path: Path
) -> None:
    """Resampling ran in the encoder's precision, and failed: TypeError."""
    stores = []
    for workers in (0, 1):
        path = run(data, selector, features_dir=tmp_path / str(workers), workers=workers, encoder_precision="bf16").path
        stores.append(content(path))
    assert stores[0] == stores[1] and "train-000" in stores[0]


def unit(*names: str) -> Unit:
    return Unit("-".join(names), [[utterance(name)] for name in names], [set(names)])


def test_a_unit_that_another_process_took_is_dropped(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(parse_selector(selector, "audio"))
    read: list[str] = []

    def note(_: object, utterance: Utterance) -> Any:
        read.append(utterance.utterance_id)
        return utterance

    monkeypatch.setattr(unit_reader, "read_or_reject", note)
    reader = UnitReader(encoder, 0)
    a, b, c = unit("a"), unit("b1", "b2"), unit("c")
    reader.begin(a)
    reader.prepare(b)
    assert [len(batch.inputs) for batch in reader.batches(a)] == [1]
    reader.begin(c)
    assert [len(batch.inputs) for batch in reader.batches(c)] == [1]
    assert read == ["a", "c"]
    first = reader.batches(b)
    next(first)
    first.close()  # as after an error
    assert [len(batch.inputs) for batch in reader.batches(a)] == [1]
    assert read == ["a", "c", "b1", "a"]


def test_the_default_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cores in (1, 2, 64):
        monkeypatch.setattr(unit_reader, "usable_cores", lambda cores=cores: cores)
        found.append([default_workers(torch.device(name)) for name in ("cpu", "cuda")])
    assert found == [[0, 1], [0, 1], [0, 8]]
