"""Growth of stores, for benchmark_scale.py: claims, compaction, opening, open files, and memory in training."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from random_corpus import random_identity
from report import Figure
from timing import seconds_of

from features.extraction.scheduler import ROUNDS
from features.store.claims import Claims
from features.store.identity import StoreInfo, create_store
from features.store.maintenance import compact
from features.store.part import StoredUtterance
from features.store.part_files import part_paths
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter
from features.text.normalize import text_sha256

UNIT = 128
"""Utterances per unit of work."""
SEGMENTS = 500
"""Utterances per recording."""
TRANSCRIPT = "xin chào"
VALUES = np.zeros((2, 4), np.float16)
RunPython = Callable[[str, list[str]], str]
"""Runs code with arguments in a process of its own, and returns what it printed."""


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of log seconds over log size: 1 if the seconds grow linearly."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def name(number: int) -> str:
    """Return an utterance id."""
    return f"call-{number // SEGMENTS:06d}-{number % SEGMENTS:04d}"


def place_of(number: int) -> dict[str, object]:
    """Return the path and times of an utterance, a segment of a recording that does not exist."""
    start = number % SEGMENTS * 2.0
    return {"path": f"calls/call-{number // SEGMENTS:06d}.wav", "start": start, "end": start + 1.5}


def audio(number: int) -> StoredUtterance:
    """Return the features of an utterance's audio."""
    source = {"path": "", "size": None, "mtime_ns": None, "fingerprint": None, "start": 0.0, "end": 0.0}
    source = {**source, **place_of(number), "channel": "mix"}
    digest = hashlib.sha256(name(number).encode()).hexdigest()
    return StoredUtterance(name(number), VALUES, 24_000, digest, json.dumps(source))


def text(number: int) -> StoredUtterance:
    """Return the features of an utterance's transcript."""
    return StoredUtterance(name(number), VALUES, len(TRANSCRIPT), text_sha256(TRANSCRIPT), "{}")


def extract(info: StoreInfo, count: int) -> float:
    """Commit utterances unit by unit; return the seconds of claims and looks at the store.

    Units are claimed in rounds, as the scheduler does. The seconds of writing do not count.
    """
    left = deque(range(0, count, UNIT))
    with Claims([info.path]) as claims:
        started, writing = time.perf_counter(), 0.0
        store = FeatureStore(info.path)
        while left:
            held = claims.held()
            claimed = [left.popleft() for _ in range(-(-len(left) // ROUNDS))]
            if held or not all(claims.take(f"{first:08d}") for first in claimed):
                raise RuntimeError("every unit must be free")
            store.refresh()
            for first in claimed:
                writing += seconds_of(lambda: commit(info, range(first, min(first + UNIT, count)), claims.token))  # noqa: B023
                claims.release(f"{first:08d}")
        store.refresh()
        seconds = time.perf_counter() - started - writing
    if len(store) != count:
        raise RuntimeError(f"the store must hold {count} utterances, found {len(store)}")
    return seconds


def commit(info: StoreInfo, numbers: range, token: str | None = None) -> None:
    """Write utterances."""
    make = audio if info.modality == "audio" else text
    with StoreWriter(info, token=token) as writer:
        for number in numbers:
            writer.add([make(number)])


FILES = """
import os, resource, sys
from features.store.reader import FeatureStore
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
store, highest = FeatureStore(sys.argv[1]), 0
for number, part in enumerate(store.parts):
    store.check(part.utterance_ids[0])
    if number % 100 == 0 or number == len(store.parts) - 1:
        highest = max(highest, len(os.listdir("/dev/fd")))
print(highest)
"""

MEMORY = """
import sys
from pathlib import Path
import torch
from features.command_lines import DataPlace
from features.manifests.manifest import read_manifests
from features.store.reader import FeatureStore
from mervn.config import TrainHeadOptions
from mervn.data.stored_split import load_split
from mervn.data.streams import Stream
from mervn.distributed import Processes
from mervn.training.batch_plan import BatchPlan

def used():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])

data, cpu = Path(sys.argv[1]), torch.device("cpu")
before = used()
utterances = read_manifests(data, ("train",), check_audio=False)["train"]
manifest = used()
streams = {}
for name, path in zip(("audio", "text"), sys.argv[2:]):
    streams[name] = Stream(name, [FeatureStore(path)], DataPlace(data, data))
split = load_split("train", utterances, streams, ["happy", "sad"])
plan = BatchPlan(split, TrainHeadOptions(sampling="bucket"), Processes())
peak = 0
for number, batch in enumerate(split.batches(plan.requests(0, plan.batches(0), 0), cpu)):
    frames = batch.inputs()["audio"].values
    if number % 500 == 0:
        peak = max(peak, used())
print(max(1, peak - manifest) / len(split), max(1, manifest - before) / len(split))
"""


def write_manifest(data: Path, count: int) -> None:
    """Write a manifest of the utterances."""
    with (data / "train.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            place = place_of(number)
            line = {"utterance_id": name(number), "speaker_id": f"agent-{number // SEGMENTS % 300}"}
            line |= {"wav_path": place["path"], "start": place["start"], "end": place["end"]}
            line |= {"transcript": TRANSCRIPT, "emotion": ("happy", "sad")[number % 2]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def measure_memory(folder: Path, spoken: StoreInfo, count: int, run_python: RunPython) -> list[Figure]:
    """Measure the memory of an epoch that reads audio and text from disk."""
    written = create_store(folder, random_identity("text", VALUES.shape[1]), {}, "benchmark")
    commit(written, range(count))
    write_manifest(folder, count)
    answer = run_python(MEMORY, [str(folder), str(spoken.path), str(written.path)])
    train, manifest = map(float, answer.split()[-2:])
    what = "bytes per utterance of two stores, their split and the batches of an epoch"
    return [
        Figure("scale.memory_per_utterance.train", what, train, 300.0, "lower"),
        Figure("scale.memory_per_utterance.manifest", "bytes per utterance of the manifest", manifest, None, "lower"),
    ]


@patch("os.fsync", lambda _: None)  # nothing needs to survive a power failure
def measure_stores(sizes: Sequence[int], folder: Path, run_python: RunPython) -> list[Figure]:
    """Extract, compact and open stores of these sizes; the largest is also trained on."""
    claiming, compacting, stores, num_files = [], [], [], 0.0
    for count in sizes:
        place = folder / f"stores-{count}"
        info = create_store(place, random_identity("audio", VALUES.shape[1]), {}, "benchmark")
        claiming.append(extract(info, count))
        if count == max(sizes):
            num_parts = len(part_paths(info.path))
            num_files = float(run_python(FILES, [str(info.path)]).split()[-1])
        compacting.append(seconds_of(lambda: compact(info.path)))  # noqa: B023
        stores.append(info.path)
    # in turn, because the speed of a machine can change within a minute
    rounds = [[seconds_of(lambda: FeatureStore(store)) for store in stores] for _ in range(5)]  # noqa: B023
    opening = [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]
    figures = [
        Figure("scale.open_1m", f"seconds to open a store of {count} utterances", opening[-1], 2.0, "lower"),
        Figure("scale.open.exponent", "growth of these seconds", exponent(sizes, opening), 1.1, "lower"),
        Figure("scale.claim.exponent", "growth of the seconds to claim", exponent(sizes, claiming), 1.1, "lower"),
        Figure("scale.compact.exponent", "growth of the seconds to compact", exponent(sizes, compacting), 1.1, "lower"),
        Figure("scale.claim", "seconds to claim all units", claiming[-1], None, "lower"),
        Figure("scale.compact", "seconds to compact them", compacting[-1], None, "lower"),
        Figure("scale.files", f"open files while {num_parts} parts are read", num_files, 128, "lower"),
    ]
    return figures + measure_memory(place, info, count, run_python)
