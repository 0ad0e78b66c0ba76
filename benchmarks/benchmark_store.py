"""Measure how close the feature store is to the speed of memory and disk, and how it scales.

    python benchmarks/benchmark_store.py [--tiny] [--json]

The reference is one raw file with the same frames, memory-mapped by numpy and copied batch by batch
(batches of 32 from length buckets, shuffled, as in training). Compared with it are our HDF5 and
Zarr parts, one HDF5 group per utterance (a common layout), and h5py's own slices of our parts.
There are 3 000 utterances with 228 frames on average, of width 1024: 1.4 GB in fp16.

Then a store of 50 000 utterances (5.8 GB): the time to open it, the time to read an utterance
compared with a store of 1 000, and the anonymous memory of a process that streams an epoch from it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from report import Figure, report
from store_layouts import (
    BATCH,
    Written,
    draw_batches,
    draw_lengths,
    new_store,
    read_groups,
    read_raw,
    read_slices,
    read_store,
    write_layouts,
    write_store,
)
from timing import seconds_of, time_ratio

from features.store.maintenance import convert
from features.store.part_files import num_bytes, part_paths
from features.store.reader import FeatureStore


def evict(paths: Sequence[Path]) -> None:
    """Remove files from the page cache."""
    for path in paths:
        for file in [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def cold(kind: str, written: Written, rounds: int) -> float:
    """Return the median of the seconds to read our parts / the raw file, with an empty page cache."""
    times = []
    for _ in range(rounds):
        evict([written.stores[kind], written.raw])
        ours = seconds_of(read_store(written.stores[kind], written.batches))
        times.append(ours / seconds_of(read_raw(written.raw, written.offsets, written.width, written.batches)))
    return statistics.median(times)


def measure_reading(folder: Path, count: int, width: int, rounds: int) -> list[Figure]:
    """Compare the layouts on the same sequences."""
    w = write_layouts(folder, count, width)
    size = sum(num_bytes(path) for path in part_paths(w.stores["hdf5"])) / w.raw.stat().st_size
    raw, ours = read_raw(w.raw, w.offsets, width, w.batches), read_store(w.stores["hdf5"], w.batches)
    zarr, groups = read_store(w.stores["zarr"], w.batches), read_groups(w.groups, w.batches)
    slices = read_slices(w.stores["hdf5"], w.batches)
    warm_hdf5, warm_zarr = time_ratio(ours, raw, rounds), time_ratio(zarr, raw, rounds)
    grouped, sliced = time_ratio(groups, ours, rounds), time_ratio(slices, raw, rounds)
    del raw, ours, zarr, groups, slices  # mapped files stay in the page cache
    cold_hdf5, cold_zarr = cold("hdf5", w, rounds), cold("zarr", w, rounds)
    return [
        Figure("store.warm.hdf5", "reading our HDF5 parts / a raw memory map", warm_hdf5, 1.15, "lower"),
        Figure("store.warm.zarr", "reading our Zarr parts / a raw memory map", warm_zarr, 1.15, "lower"),
        Figure("store.cold.hdf5", "the same with an empty page cache, HDF5", cold_hdf5, 1.2, "lower"),
        Figure("store.cold.zarr", "the same with an empty page cache, Zarr", cold_zarr, None, "lower"),
        Figure("store.group_over_ours", "one HDF5 group per utterance / our HDF5 parts", grouped, 4.0, "higher"),
        Figure("store.plain_slice.hdf5", "h5py slices of our parts / a raw memory map", sliced, 2.5, "lower"),
        Figure("store.write", "writing a store / a raw file, with fsync", w.write, 1.8, "lower"),
        Figure("store.bytes", "bytes of the HDF5 parts / of the raw file", size, 1.01, "lower"),
    ]


def measure_growth(folder: Path, count: int, width: int, rounds: int) -> list[Figure]:
    """Compare a large store with a small one, and measure opening and streaming it."""
    generator = np.random.default_rng(1)
    templates = generator.standard_normal((8, 750, width), np.float32).astype(np.float16)
    lengths = draw_lengths(count, generator)
    sequences = [templates[i % 8][:length] for i, length in enumerate(lengths)]
    small, large = new_store(folder / "small", width), new_store(folder / "large", width)
    few = max(BATCH, count // 50)
    write_store(small, sequences[:few])
    write_store(large, sequences)
    chosen = generator.permutation(count)[:few]
    small_batches = draw_batches(lengths[:few], generator)
    large_batches = []
    for batch in draw_batches([lengths[i] for i in chosen], generator):
        large_batches.append(chosen[batch].tolist())
    growth = time_ratio(read_store(large.path, large_batches), read_store(small.path, small_batches), 4 * rounds)
    growth *= sum(lengths[:few]) / sum(lengths[i] for i in chosen)  # per frame
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
        Figure("store.stream_memory", "GB of anonymous memory to stream an epoch of 5.8 GB", peak, 1.0, "lower"),
        Figure("store.growth", f"seconds per frame from {count} utterances / from {few}", growth, 1.15, "lower"),
    ]


STREAM = """
import json, sys
import numpy as np, torch
from pathlib import Path
from features.progress import SILENT
from features.store.reader import FeatureStore
from mervn.training.sampling import BatchSize, epoch_batches
from mervn.data.stored_sequences import Sequences, make_resident
store = FeatureStore(sys.argv[1])
sequences = Sequences.of(store, store)
make_resident([sequences], torch.device("cpu"), 0.5, SILENT)
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


def run_python(code: str, arguments: list[str]) -> str:
    """Run Python code in a process of its own, and return what it printed."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


def streamed_memory(store: Path, count: int) -> float:
    """Return the peak anonymous memory in GB of a process that streams an epoch with a budget of 0.5 GB."""
    answer = json.loads(run_python(STREAM, [str(store)]).splitlines()[-1])
    if answer["resident"] and count >= 50_000:
        raise RuntimeError("the features must be streamed, found them in memory")
    return float(answer["gb"])


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
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
