"""Measure what an extraction loses when it is killed, and what a full disk or Ctrl-C does to it.

    python benchmarks/benchmark_crash.py [--trials 20] [--tiny] [--json]

`mervn extract` is started, killed with -9 at a random moment of its work, and started again until it is done; its store
is compared with that of an undisturbed run, bit by bit. The encoders alternate: random fourier2vec, whose fp16 rows
depend on the batch by a unit in the last place, a variant of it whose rows depend on the batch by per cents, and
hashed_ngrams, whose rows do not. What is lost: utterances that had a committed row before the kill and have another, or
none, after it. Redone: units that were under way, and so are claimed by the dead process and not committed.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from report import Figure, report

from features.store.claims import FOLDER
from features.store.part import part_paths, read_part
from features.store.reader import FeatureStore

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_data

BATCH_DEPENDENT = """
from features.encoders.fourier2vec import Fourier2Vec
plain = Fourier2Vec.forward_layers
def forward_layers(self, inputs):
    factor = 1 + 0.01 * inputs.batch_size + 0.001 * inputs.max_length / 16000
    return [output.replace(output.values * factor) for output in plain(self, inputs)]
Fourier2Vec.forward_layers = forward_layers
"""
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
sys.argv[1:] = {arguments!r}
from cli.main import main
main()
"""
ENCODERS = {
    "fourier2vec": ("audio", ["--audio-encoder", "fourier2vec", "--batch-seconds", "2"], ""),
    "batch-dependent": ("audio", ["--audio-encoder", "fourier2vec", "--batch-seconds", "2"], BATCH_DEPENDENT),
    "hashed_ngrams": ("text", ["--text-encoder", "hashed_ngrams"], ""),
}
LONG_S = 300
LARGEST_FILE = 20_000
"""Bytes, where the disk is said to be full: less than a unit's rows."""


@dataclass
class Counts:
    """What the trials found."""

    lost: int = 0
    wrong: int = 0
    redone: list[int] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    """Share of the utterances that was committed at the kill."""


def start(data: Path, features: Path, encoder: str, before: str = "") -> subprocess.Popen[str]:
    """Start an extraction in a process of its own."""
    _, flags, patch = ENCODERS[encoder]
    arguments = ["extract", "--data", str(data), "--features-dir", str(features), "--threads", "1", *flags]
    program = before + patch + COMMAND.format(arguments=arguments)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for an extraction and return its exit code and what it said."""
    _, errors = process.communicate(timeout=LONG_S)
    return process.returncode, errors


def store_of(features: Path, encoder: str) -> Path | None:
    """Return the store's folder, if it is there yet."""
    found = list((features / ENCODERS[encoder][0]).glob("*/store.json"))
    return found[0].parent if found else None


def content(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return everything a store holds, checked."""
    store = FeatureStore(path)
    return {name: (store.row_info(name).input_sha256, store.check(name).tobytes()) for name in store}


def committed(path: Path | None) -> dict[str, tuple[str, bytes]]:
    """Return what is committed now."""
    return content(path) if path is not None else {}


def undisturbed(data: Path, features: Path, encoder: str) -> tuple[dict[str, tuple[str, bytes]], float]:
    """Return the content of a run that nothing disturbs, and the seconds from its first part to its end."""
    process = start(data, features, encoder)
    wait_for_work(process, features, encoder)
    began = time.monotonic()
    code, errors = finish(process)
    path = store_of(features, encoder)
    if code or path is None:
        raise RuntimeError(f"the undisturbed extraction failed: {errors}")
    return content(path), time.monotonic() - began


def wait_for_work(process: subprocess.Popen[str], features: Path, encoder: str) -> None:
    """Wait until the first unit is claimed."""
    deadline = time.monotonic() + LONG_S
    while process.poll() is None and time.monotonic() < deadline:
        path = store_of(features, encoder)
        if path is not None and (list((path / FOLDER).glob("*.json")) or part_paths(path)):
            return
        time.sleep(0.001)


def one_trial(
    data: Path, features: Path, encoder: str, delay: float, expected: dict[str, tuple[str, bytes]], counts: Counts
) -> None:
    """Kill an extraction after a delay, let another finish it, and compare."""
    process = start(data, features, encoder)
    wait_for_work(process, features, encoder)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    path = store_of(features, encoder)
    before = committed(path)
    counts.committed.append(len(before) / len(expected))
    counts.redone.append(under_way(path))
    code, errors = finish(start(data, features, encoder))
    if code:
        raise RuntimeError(f"the extraction that went on failed: {errors}")
    after = committed(store_of(features, encoder))
    counts.lost += sum(after.get(name) != value for name, value in before.items()) + len(expected.keys() - after.keys())
    counts.wrong += sum(expected.get(name) != value for name, value in after.items())
    leftovers = [p.name for p in (path or features).glob(".*.tmp")]
    if leftovers or (path is not None and (path / FOLDER).exists()):
        raise RuntimeError(f"what the killed process left must be swept, found {leftovers} and {path}/{FOLDER}")


def under_way(path: Path | None) -> int:
    """Return how many units the dead process had claimed and not committed; a claim outlives the commit by a moment."""
    if path is None or not (path / FOLDER).is_dir():
        return 0
    return len(list((path / FOLDER).glob("*.json")))


def obstacles(data: Path, folder: Path, expected: dict[str, tuple[str, bytes]]) -> dict[str, bool]:
    """Return, for a disk that fills up and for Ctrl-C, whether all went as it must."""
    met = {}
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST_FILE}, {LARGEST_FILE}))\n"
    for name, before, stop in (("full_disk", limit, None), ("sigint", "", signal.SIGINT)):
        features = folder / name
        process = start(data, features, "fourier2vec")
        wait_for_work(process, features, "fourier2vec")  # by then the encoder's random weights are kept
        os.kill(process.pid, stop or signal.SIGKILL)
        if stop is None:
            process.communicate()
            process = start(data, features, "fourier2vec", before)
        code, errors = finish(process)
        wanted = "the disk is full" if stop is None else "run the same command again to go on"
        said = wanted in errors and "Traceback" not in errors
        resumed, _ = finish(start(data, features, "fourier2vec"))
        met[name] = code == 1 and said and resumed == 0 and committed(store_of(features, "fourier2vec")) == expected
        if not met[name]:
            print(f"{name}: exit {code}, then {resumed}; it said: {errors}", file=sys.stderr)
    return met


def measure(folder: Path, trials: int, utterances: int) -> list[Figure]:
    """Run all trials and return the figures."""
    data = make_data(folder / "data", {"train": utterances, "valid": 10, "test": 10})
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
    known: dict[str, Any] = {name: undisturbed(data, folder / f"whole-{name}", name) for name in ENCODERS}
    counts = Counts()
    for trial in range(trials):
        encoder = list(ENCODERS)[trial % len(ENCODERS)]
        expected, seconds = known[encoder]
        one_trial(data, folder / f"trial-{trial}", encoder, float(rng.uniform(0, seconds)), expected, counts)
    met = obstacles(data, folder, known["fourier2vec"][0])
    store = store_of(folder / "whole-fourier2vec", "fourier2vec")
    units = len(part_paths(store)) if store else 0
    largest = max(len(read_part(path).utterance_ids) for path in part_paths(store)) if store else 0
    share = statistics.mean(counts.committed)
    return [
        Figure("crash.lost", f"utterances lost in {trials} kills", counts.lost, 0, "lower"),
        Figure("crash.wrong", "rows that differ from an undisturbed run's", counts.wrong, 0, "lower"),
        Figure("crash.redone_units", f"units redone a kill, the most; of {units}", max(counts.redone), 1, "lower"),
        Figure("crash.redone_mean", f"the same on the mean; a unit has up to {largest} utterances",
               statistics.mean(counts.redone), None, "lower"),
        Figure("crash.committed", "share of the utterances committed at the kill, on the mean", share, None, "higher"),
        Figure("crash.full_disk", "a full disk: clear message, exit 1, resumed to equal content", met["full_disk"], 1,
               "higher"),
        Figure("crash.sigint", "Ctrl-C: clear message, exit 1, resumed to equal content", met["sigint"], 1, "higher"),
    ]  # fmt: skip


@click.command()
@click.option("--trials", type=int, default=20, show_default=True, help="Kills.")
@click.option("--tiny", is_flag=True, help="Two kills: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(trials: int, tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), 2 if tiny else trials, 60 if tiny else 300)
    report("crash", figures, as_json)


if __name__ == "__main__":
    main()
