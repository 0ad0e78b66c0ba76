"""Layouts of the same frames on disk, for benchmark_store.py: our store, a raw file, one HDF5 group per utterance."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from random_corpus import random_identity
from timing import time_ratio

from features.store.identity import StoreInfo, create_store
from features.store.part import StoredUtterance
from features.store.part_files import part_paths
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter

Array = np.ndarray[Any, Any]
BATCH = 32
WRITTEN_AT_ONCE = 16


def draw_lengths(count: int, generator: np.random.Generator) -> list[int]:
    """Return numbers of frames at 50 Hz as in a speech emotion corpus, 228 on average."""
    seconds = np.clip(generator.lognormal(np.log(4.2), 0.45, count), 1.0, 15.0)
    found: list[int] = np.clip(seconds * 50, 50, 750).astype(int).tolist()
    return found


def draw_batches(lengths: Sequence[int], generator: np.random.Generator) -> list[list[int]]:
    """Return batches of similar lengths in random order."""
    order = np.argsort(lengths, kind="stable").tolist()
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    return [batches[i] for i in generator.permutation(len(batches))]


def new_store(folder: Path, width: int) -> StoreInfo:
    """Make an empty store."""
    return create_store(folder, random_identity("audio", width), {}, "benchmark")


def write_store(info: StoreInfo, sequences: Sequence[Array], kind: str = "hdf5") -> None:
    """Write sequences (T, D) as an extraction does, batch by batch."""
    source = '{"path": "wav/speaker/utterance.wav", "size": 100000, "start": 0.0, "end": null}'
    with StoreWriter(info, 0, kind) as writer:
        batch = []
        for i, values in enumerate(sequences):
            batch.append(StoredUtterance(name(i), values, 320 * len(values), "0" * 64, source))
            if len(batch) == WRITTEN_AT_ONCE or i == len(sequences) - 1:
                writer.add(batch)
                batch = []


def name(number: int) -> str:
    """Return an utterance id."""
    return f"utterance-{number:06d}"


def write_raw(path: Path, sequences: Sequence[Array]) -> None:
    """Write sequences to a raw file, with fsync."""
    with path.open("wb") as file:
        for values in sequences:
            file.write(values.data)
        file.flush()
        os.fsync(file.fileno())


def write_groups(path: Path, sequences: Sequence[Array]) -> None:
    """Write one HDF5 group per utterance."""
    with h5py.File(path, "w") as file:
        for i, values in enumerate(sequences):
            file.create_group(name(i)).create_dataset("values", data=values)


def read_raw(path: Path, offsets: Array, width: int, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a function that reads all batches from the raw file."""
    raw = np.asarray(np.memmap(path, np.float16, "r", shape=(int(offsets[-1]), width)))

    def read() -> None:
        for batch in batches:
            np.concatenate([raw[offsets[i] : offsets[i + 1]] for i in batch])

    return read


def read_store(path: Path, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a function that reads all batches from a store."""
    store = FeatureStore(path)

    def read() -> None:
        for batch in batches:
            np.concatenate([store[name(i)] for i in batch])

    return read


def read_slices(path: Path, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a function that reads all batches by slicing our HDF5 parts with h5py; each slice is a copy already."""
    locations = {}
    for part in part_paths(path):
        file = h5py.File(part, "r")
        offsets = file["offsets"][:].tolist()
        for number, utterance_id in enumerate(file["utterance_id"][:].tolist()):
            locations[utterance_id.decode()] = (file["values"], offsets[number], offsets[number + 1])

    def read() -> None:
        for batch in batches:
            frames = []
            for i in batch:
                dataset, first, last = locations[name(i)]
                frames.append(dataset[first:last])

    return read


def read_groups(path: Path, batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """Return a function that reads all batches from a file with one group per utterance."""
    file = h5py.File(path, "r")

    def read() -> None:
        for batch in batches:
            np.concatenate([file[name(i)]["values"][:] for i in batch])

    return read


@dataclass(frozen=True)
class Written:
    """The same sequences in every layout."""

    stores: dict[str, Path]
    raw: Path
    groups: Path
    offsets: Array
    width: int
    batches: list[list[int]]
    write: float
    """Seconds of writing our HDF5 parts / seconds of writing the raw file."""


def write_layouts(folder: Path, count: int, width: int) -> Written:
    """Write the same sequences in every layout, and check the content of our stores."""
    generator = np.random.default_rng(0)
    lengths = draw_lengths(count, generator)
    sequences = [generator.standard_normal((length, width), np.float32).astype(np.float16) for length in lengths]
    infos = {kind: new_store(folder / kind, width) for kind in ("hdf5", "zarr")}
    raw, groups = folder / "raw.bin", folder / "groups.h5"

    def write_ours() -> None:
        for path in part_paths(infos["hdf5"].path):
            path.unlink()
        write_store(infos["hdf5"], sequences)

    write = time_ratio(write_ours, lambda: write_raw(raw, sequences), 3)
    write_store(infos["zarr"], sequences, "zarr")
    write_groups(groups, sequences)
    for info in infos.values():
        store = FeatureStore(info.path)
        if not all(np.array_equal(store[name(i)], sequences[i]) for i in range(0, count, 17)):
            raise RuntimeError(f"{info.path} must hold the sequences that were written")
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    stores = {kind: info.path for kind, info in infos.items()}
    return Written(stores, raw, groups, offsets, width, draw_batches(lengths, generator), write)
