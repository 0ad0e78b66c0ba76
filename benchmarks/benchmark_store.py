"""Measure how far the feature store is from the memory and the disk themselves, and how it grows.

    python benchmarks/benchmark_store.py [--tiny] [--json]

The limit: the same rows in one raw file, mapped by numpy and copied batch by batch (batches of 32, drawn from length
buckets and shuffled, as training reads). Beside it our HDF5 and Zarr parts, an HDF5 group an utterance (the habit), and
h5py's own slices of our parts. 3 000 utterances of 228 frames of width 1024 on the mean, 1.4 GB in fp16. Then a store
of 50 000 utterances (5.8 GB): opening, reading an utterance beside a store of 1 000, and the anonymous memory of a
process that trains through it with its features streamed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from random_corpus import random_identity
from report import Figure, report

from features.store.identity import StoreInfo, create_store
from features.store.maintenance import convert
from features.store.part import StoredUtterance, num_bytes, part_paths
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter

Array = np.ndarray[Any, Any]
BATCH = 32
WRITTEN_AT_ONCE = 16


def draw_lengths(count: int, generator: np.random.Generator) -> list[int]:
    """Return frames at 50 Hz of a speech emotion corpus, 228 on the mean."""
    seconds = np.clip(generator.lognormal(np.log(4.2), 0.45, count), 1.0, 15.0)
    found: list[int] = np.clip(seconds * 50, 50, 750).astype(int).tolist()
    return found


def draw_batches(lengths: Sequence[int], generator: np.random.Generator) -> list[list[int]]:
    """Return batches of like lengths in random order."""
    order = np.argsort(lengths, kind="stable").tolist()
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    return [batches[i] for i in generator.permutation(len(batches))]


def new_store(folder: Path, width: int) -> StoreInfo:
    """Make an empty store."""
    return create_store(folder, random_identity("audio", width), {}, "benchmark")


def write_store(info: StoreInfo, rows: Sequence[Array], kind: str = "hdf5") -> None:
    """Write rows as an extraction does, a batch at a time."""
    with StoreWriter(info, 0, kind) as writer:
        for start in range(0, len(rows), WRITTEN_AT_ONCE):
            chunk = rows[start : start + WRITTEN_AT_ONCE]
            source = '{"path": "wav/speaker/utterance.wav", "size": 100000, "start": 0.0, "end": null}'
            writer.add(
                [StoredUtterance(name(start + i), x, 320 * len(x), "0" * 64, source) for i, x in enumerate(chunk)]
            )


def name(number: int) -> str:
    """Return an id."""
    return f"utterance-{number:06d}"


def write_raw(path: Path, rows: Sequence[Array]) -> None:
    """Write rows as they are, to the disk."""
    with path.open("wb") as file:
        for values in rows:
            file.write(values.data)
        file.flush()
        os.fsync(file.fileno())


def write_groups(path: Path, rows: Sequence[Array]) -> None:
    """Write an HDF5 group an utterance."""
    with h5py.File(path, "w") as file:
        for i, values in enumerate(rows):
            file.create_group(name(i)).create_dataset("values", data=values)


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def ratio(ours: Callable[[], object], limit: Callable[[], object], rounds: int) -> float:
    """Return the median of ours over the limit, run in alternation, after each has run once."""
    ours(), limit()
    return statistics.median(seconds_of(ours) / seconds_of(limit) for _ in range(rounds))


def evict(paths: Sequence[Path]) -> None:
    """Ask the system to forget what it holds of files in memory."""
    for path in paths:
        for file in [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_raw(path: Path, offsets: Array, width: int, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a reader of the raw file."""
    raw = np.asarray(np.memmap(path, np.float16, "r", shape=(int(offsets[-1]), width)))

    def read() -> None:
        for batch in batches:
            np.concatenate([raw[offsets[i] : offsets[i + 1]] for i in batch])

    return read


def read_store(path: Path, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a reader of a store."""
    store = FeatureStore(path)

    def read() -> None:
        for batch in batches:
            np.concatenate([store[name(i)] for i in batch])

    return read


def read_slices(path: Path, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a reader that slices the datasets of our parts with h5py; each slice is a copy already."""
    where = {}
    for part in part_paths(path):
        file = h5py.File(part, "r")
        offsets = file["offsets"][:].tolist()
        for row, found in enumerate(file["utterance_id"][:].tolist()):
            where[found.decode()] = (file["values"], offsets[row], offsets[row + 1])

    def read() -> None:
        for batch in batches:
            [dataset[a:b] for dataset, a, b in (where[name(i)] for i in batch)]

    return read


def read_groups(path: Path, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a reader of a group an utterance."""
    file = h5py.File(path, "r")

    def read() -> None:
        for batch in batches:
            np.concatenate([file[name(i)]["values"][:] for i in batch])

    return read


@dataclass(frozen=True)
class Written:
    """The same rows in every layout."""

    stores: dict[str, Path]
    raw: Path
    groups: Path
    offsets: Array
    width: int
    batches: list[list[int]]
    write: float
    """Writing our HDF5 parts over writing the raw file."""


def write_layouts(folder: Path, count: int, width: int) -> Written:
    """Write one set of rows in every layout, and check that ours holds what was written."""
    generator = np.random.default_rng(0)
    lengths = draw_lengths(count, generator)
    rows = [generator.standard_normal((length, width), np.float32).astype(np.float16) for length in lengths]
    infos = {kind: new_store(folder / kind, width) for kind in ("hdf5", "zarr")}
    raw, groups = folder / "raw.bin", folder / "groups.h5"

    def write_ours() -> None:
        for path in part_paths(infos["hdf5"].path):
            path.unlink()
        write_store(infos["hdf5"], rows)

    write = ratio(write_ours, lambda: write_raw(raw, rows), 3)
    write_store(infos["zarr"], rows, "zarr")
    write_groups(groups, rows)
    for info in infos.values():
        store = FeatureStore(info.path)
        if not all(np.array_equal(store[name(i)], rows[i]) for i in range(0, count, 17)):
            raise RuntimeError("the store must hold what was written")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    stores = {kind: info.path for kind, info in infos.items()}
    return Written(stores, raw, groups, offsets, width, draw_batches(lengths, generator), write)


def cold(kind: str, written: Written, rounds: int) -> float:
    """Return the median of reading our parts over reading the raw file, neither of them in memory."""
    times = []
    for _ in range(rounds):
        evict([written.stores[kind], written.raw])
        ours = seconds_of(read_store(written.stores[kind], written.batches))
        times.append(ours / seconds_of(read_raw(written.raw, written.offsets, written.width, written.batches)))
    return statistics.median(times)


def measure_reading(folder: Path, count: int, width: int, rounds: int) -> list[Figure]:
    """Compare layouts on one set of rows."""
    w = write_layouts(folder, count, width)
    size = sum(num_bytes(path) for path in part_paths(w.stores["hdf5"])) / w.raw.stat().st_size
    limit, ours = read_raw(w.raw, w.offsets, width, w.batches), read_store(w.stores["hdf5"], w.batches)
    zarr, groups = read_store(w.stores["zarr"], w.batches), read_groups(w.groups, w.batches)
    slices = read_slices(w.stores["hdf5"], w.batches)
    warm = [ratio(ours, limit, rounds), ratio(zarr, limit, rounds), ratio(groups, ours, rounds)]
    sliced = ratio(slices, limit, rounds)
    del limit, ours, zarr, groups, slices  # what is mapped is not forgotten
    cold_hdf5, cold_zarr = cold("hdf5", w, rounds), cold("zarr", w, rounds)
    return [
        Figure("store.warm.hdf5", "our HDF5 parts over raw memory maps", warm[0], 1.15, "lower"),
        Figure("store.warm.zarr", "our Zarr parts over raw memory maps", warm[1], 1.15, "lower"),
        Figure("store.cold.hdf5", "the same, not in memory, HDF5", cold_hdf5, 1.2, "lower"),
        Figure("store.cold.zarr", "the same, not in memory, Zarr", cold_zarr, None, "lower"),
        Figure("store.group_over_ours", "an HDF5 group an utterance over ours", warm[2], 4.0, "higher"),
        Figure("store.plain_slice.hdf5", "h5py's slices of our parts over raw memory maps", sliced, 2.5, "lower"),
        Figure("store.write", "writing a store over writing a raw file, to the disk", w.write, 1.8, "lower"),
        Figure("store.bytes", "bytes of the HDF5 parts over those of the raw rows", size, 1.01, "lower"),
    ]


def measure_growth(folder: Path, count: int, width: int, rounds: int) -> list[Figure]:
    """Compare a large store with a small one, and measure opening and streaming it."""
    generator = np.random.default_rng(1)
    some = [generator.standard_normal((750, width), np.float32).astype(np.float16) for _ in range(8)]
    lengths = draw_lengths(count, generator)
    rows = [some[i % 8][:length] for i, length in enumerate(lengths)]
    small, large = new_store(folder / "small", width), new_store(folder / "large", width)
    few = max(BATCH, count // 50)
    write_store(small, rows[:few])
    write_store(large, rows)
    chosen = generator.permutation(count)[:few].tolist()
    batches = {info.path: [[*range(few)][i : i + BATCH] for i in range(0, few, BATCH)] for info in (small,)}
    shuffled = [lengths[i] for i in chosen]
    batches[small.path] = draw_batches(lengths[:few], generator)
    batches[large.path] = [[chosen[i] for i in batch] for batch in draw_batches(shuffled, generator)]
    read = {path: sum(lengths[i] for batch in found for i in batch) for path, found in batches.items()}
    growth = ratio(
        read_store(large.path, batches[large.path]), read_store(small.path, batches[small.path]), 4 * rounds
    ) * (read[small.path] / read[large.path])
    opening = statistics.median(seconds_of(lambda: FeatureStore(large.path)) for _ in range(5))
    peak = streamed_memory(large.path, count)
    shutil.rmtree(large.path)
    tiny = new_store(folder / "tiny", 8)
    write_store(tiny, [np.zeros((2, 8), np.float16)] * count)
    convert(tiny.path, "zarr", lambda _: None)
    opening_zarr = statistics.median(seconds_of(lambda: FeatureStore(tiny.path)) for _ in range(5))
    return [
        Figure("store.open_50k.hdf5", f"seconds to open {count} utterances, HDF5", opening, 0.3, "lower"),
        Figure("store.open_50k.zarr", f"seconds to open {count} utterances, Zarr", opening_zarr, 1.0, "lower"),
        Figure("store.stream_memory", "GB of anonymous memory, a streamed epoch of 5.8 GB", peak, 1.0, "lower"),
        Figure("store.growth", f"reading a frame out of {count} utterances over out of {few}", growth, 1.15, "lower"),
    ]


STREAM = """
import json, sys
import numpy as np, torch
from pathlib import Path
from features.store.reader import FeatureStore
from mervn.training.sampling import BatchSize, epoch_batches
from mervn.data.stored_sequences import Sequences, make_resident
store = FeatureStore(sys.argv[1])
sequences = Sequences(store, list(store))
make_resident([sequences], torch.device("cpu"), 0.5, lambda text: print(text, file=sys.stderr))
lengths = np.array(sequences.sizes, float)
peak = total = 0
cutting = BatchSize(np.array([sequences.sizes]), 32)
for batch in epoch_batches("bucket", lengths, np.ones(len(lengths)), cutting, 0, 0):
    total += sequences.gather(batch).float().shape[0]
    status = Path("/proc/self/status").read_text()
    peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))
assert total == lengths.sum()
print(json.dumps({"gb": peak * 1024 / 1e9, "resident": sequences.resident}))
"""


def streamed_memory(store: Path, count: int) -> float:
    """Return the greatest anonymous memory, in GB, of a process that streams an epoch with a budget of 0.5 GB."""
    done = subprocess.run([sys.executable, "-c", STREAM, str(store)], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["resident"] and count >= 50_000:
        raise RuntimeError("the features must be streamed")
    return float(answer["gb"])


@click.command()
@click.option("--tiny", is_flag=True, help="A few utterances: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_reading(Path(folder), 60 if tiny else 3000, 64 if tiny else 1024, 1 if tiny else 5)
    with tempfile.TemporaryDirectory() as folder:
        figures += measure_growth(Path(folder), 600 if tiny else 50_000, 16 if tiny else 256, 1 if tiny else 5)
    report("store", figures, as_json)


if __name__ == "__main__":
    main()
