"""Measure what an extraction loses when it is killed, and how it handles a full disk and Ctrl-C.

    python benchmarks/benchmark_crash.py [--trials 20] [--format hdf5|zarr] [--workers 2] [--update] [--beside]
        [--tiny] [--json]

Each trial starts `mervn extract`, kills it with SIGKILL at a random moment, runs the same command
again, and compares the store bit by bit with that of an uninterrupted run. The encoders alternate:
random fourier2vec, whose fp16 features depend on the batch in the last bit; a variant whose
features depend on the batch by several per cent; and hashed_ngrams, whose features do not depend on
the batch.

- lost: utterances that were committed before the kill and are missing or different after it
- redone: units in progress, that is, claimed by the killed process but not committed

With `--update`, the store is complete, every second audio file and transcript has changed, and the
killed command is `mervn extract --update`. With `--beside`, another process compacts and converts
the store all the time. It is killed together with the extraction, and a new one runs beside the
second extraction.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
from report import Figure, report

from features.store.claims import FOLDER, MAINTENANCE
from features.store.part import read_part
from features.store.part_files import part_paths
from features.store.reader import FeatureStore

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_data, read_jsonl, write_manifest

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
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it by default
sys.argv[1:] = {arguments!r}
from cli.main import main
main()
"""
MAINTAIN = """
import sys, time
from pathlib import Path
from features.store.maintenance import compact, convert
def convert_to(kind):
    return lambda path: convert(path, kind, lambda _: None)
steps = [convert_to("zarr"), convert_to("hdf5"), compact]
turn = 0
while not Path(sys.argv[2]).exists():
    for file in Path(sys.argv[1]).glob("*/*/store.json"):
        steps[turn % 3](file.parent)
    turn += 1
    time.sleep(0.02)
"""
ENCODERS = {
    "fourier2vec": ("audio", ["--audio-encoder", "fourier2vec", "--batch-seconds", "2"], ""),
    "batch-dependent": ("audio", ["--audio-encoder", "fourier2vec", "--batch-seconds", "2"], BATCH_DEPENDENT),
    "hashed_ngrams": ("text", ["--text-encoder", "hashed_ngrams"], ""),
}
LONG_S = 300
LARGEST_FILE = 20_000
"""Maximum file size in bytes that simulates a full disk: less than one unit of features."""


@dataclass(frozen=True)
class Setting:
    """What is extracted, and whether maintenance runs beside it."""

    data: Path
    flags: list[str]
    """Options of `mervn extract`."""
    old: Path | None
    """The features folder with the stores to update; None to start without stores."""
    beside: bool


@dataclass
class Counts:
    """Counts over all trials."""

    lost: int = 0
    wrong: int = 0
    redone: list[int] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    """Fraction of the utterances that were committed before the kill."""


def start(setting: Setting, features: Path, encoder: str, before: str = "") -> subprocess.Popen[str]:
    """Start an extraction in a separate process; `before` is Python code to run first."""
    _, flags, patch = ENCODERS[encoder]
    paths = ["--data", str(setting.data), "--features-dir", str(features)]
    arguments = ["extract", *paths, "--threads", "1", *flags, *setting.flags]
    return start_python(before + patch + COMMAND.format(arguments=arguments))


def start_python(code: str) -> subprocess.Popen[str]:
    """Start Python code in a process."""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process and return its exit code and its stderr."""
    _, errors = process.communicate(timeout=LONG_S)
    return process.returncode, errors


@contextmanager
def maintenance(setting: Setting, features: Path) -> Iterator[subprocess.Popen[str] | None]:
    """Compact and convert the stores of a folder all the time, if `setting.beside`; RuntimeError if that fails."""
    if not setting.beside:
        yield None
        return
    stop = features.with_name(f"{features.name}-stop")
    stop.unlink(missing_ok=True)
    command = [sys.executable, "-c", MAINTAIN, str(features), str(stop)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    yield process
    stop.touch()
    code, errors = finish(process)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"maintenance failed: {errors}")


def store_of(features: Path, encoder: str) -> Path | None:
    """Return the folder of the store, or None if it does not exist yet."""
    found = list((features / ENCODERS[encoder][0]).glob("*/store.json"))
    return found[0].parent if found else None


def content(path: Path | None) -> dict[str, tuple[str, bytes]]:
    """Verify a store and return its content: input hash and feature bytes by utterance."""
    if path is None:
        return {}
    store = FeatureStore(path)
    return {name: (store.utterance_info(name).input_sha256, store.check(name).tobytes()) for name in store}


def uninterrupted(setting: Setting, features: Path, encoder: str) -> tuple[dict[str, tuple[str, bytes]], float]:
    """Return the content of the store of an uninterrupted run, and the seconds from its first claim to its end."""
    process = start(setting, features, encoder)
    wait_for_work(process, features, encoder)
    began = time.monotonic()
    code, errors = finish(process)
    if code:
        raise RuntimeError(f"the uninterrupted extraction failed: {errors}")
    return content(store_of(features, encoder)), time.monotonic() - began


def wait_for_work(process: subprocess.Popen[str], features: Path, encoder: str) -> None:
    """Wait until the first unit is claimed."""
    deadline = time.monotonic() + LONG_S
    while process.poll() is None and time.monotonic() < deadline:
        if units_in_progress(store_of(features, encoder)):
            return
        time.sleep(0.001)


def one_trial(
    setting: Setting, features: Path, encoder: str, delay: float, expected: dict[str, tuple[str, bytes]], counts: Counts
) -> None:
    """Kill an extraction after a delay, finish it with a second one, and compare."""
    if setting.old is not None:
        shutil.copytree(setting.old, features)
    with maintenance(setting, features) as beside:
        process = start(setting, features, encoder)
        wait_for_work(process, features, encoder)
        time.sleep(delay)
        for victim in filter(None, (process, beside)):
            victim.kill()
        process.communicate()
    path = store_of(features, encoder)
    before = content(path)
    finished = {name: value for name, value in before.items() if setting.old is None or value == expected.get(name)}
    counts.committed.append(len(finished) / len(expected))
    counts.redone.append(units_in_progress(path))
    with maintenance(setting, features):
        code, errors = finish(start(setting, features, encoder))
    if code:
        raise RuntimeError(f"the second extraction failed: {errors}")
    after = content(store_of(features, encoder))
    counts.lost += sum(after.get(name) != value for name, value in finished.items())
    counts.lost += len((expected.keys() | before.keys()) - after.keys())
    counts.wrong += sum(expected.get(name) != value for name, value in after.items())
    leftovers = [p.name for p in [*features.rglob(".part-*.tmp"), *features.rglob(FOLDER)]]
    if leftovers:
        raise RuntimeError(f"temporary files of the killed process must be removed, found {leftovers}")


def units_in_progress(path: Path | None) -> int:
    """Return how many units are claimed; a claim is removed shortly after the commit."""
    names: list[str] = []
    if path is not None:
        with suppress(FileNotFoundError):  # there are no claims
            names = os.listdir(path / FOLDER)  # noqa: PTH208 (iterdir is lazy, and the folder can be removed meanwhile)
    return len({name.removesuffix(".json") for name in names if name.endswith(".json")} - {MAINTENANCE})


def check_interruptions(setting: Setting, folder: Path, expected: dict[str, tuple[str, bytes]]) -> dict[str, bool]:
    """Return for a full disk and for Ctrl-C whether message, exit code and the result of a second run are correct."""
    met = {}
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST_FILE}, {LARGEST_FILE}))\n"
    for name, before, stop in (("full_disk", limit, None), ("sigint", "", signal.SIGINT)):
        features = folder / name
        process = start(setting, features, "fourier2vec")
        wait_for_work(process, features, "fourier2vec")  # by then the random weights of the encoder are written
        process.send_signal(stop or signal.SIGKILL)
        if stop is None:
            process.communicate()
            process = start(setting, features, "fourier2vec", before)
        code, errors = finish(process)
        wanted = "finished work is kept" if stop is None else "run the same command again"
        clear = wanted in errors and "Traceback" not in errors
        resumed, _ = finish(start(setting, features, "fourier2vec"))
        met[name] = code == 1 and clear and resumed == 0 and content(store_of(features, "fourier2vec")) == expected
        if not met[name]:
            print(f"{name}: exit code {code}, then {resumed}; stderr: {errors}", file=sys.stderr)
    return met


def change_half(data: Path) -> None:
    """Change every second audio file and transcript of train, but no length, so that the batches stay the same."""
    entries = read_jsonl(data / "train.jsonl")
    for number, entry in enumerate(entries[::2]):
        samples, rate = soundfile.read(data / entry["wav_path"], dtype="float32")
        soundfile.write(data / entry["wav_path"], samples[::-1], rate)
        if entry["transcript"]:
            entry["transcript"] = entry["transcript"].replace("hôm nay", f"hôm {number}")
    write_manifest(data / "train.jsonl", entries)


def measure(folder: Path, trials: int, utterances: int, flags: list[str], update: bool, beside: bool) -> list[Figure]:
    """Run all trials and return the figures; `flags` are options of `mervn extract`."""
    data = make_data(folder / "data", {"train": utterances, "valid": 10, "test": 10})
    plain = Setting(data, flags, None, False)
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
    encoders = list(ENCODERS)[:trials]
    if update:
        for encoder in encoders:
            uninterrupted(plain, folder / f"old-{encoder}", encoder)
        change_half(data)
    known: dict[str, Any] = {name: uninterrupted(plain, folder / f"whole-{name}", name) for name in encoders}
    counts = Counts()
    for trial in range(trials):
        encoder = encoders[trial % len(encoders)]
        expected, seconds = known[encoder]
        old = folder / f"old-{encoder}" if update else None
        setting = Setting(data, [*plain.flags, "--update"] if update else plain.flags, old, beside)
        one_trial(setting, folder / f"trial-{trial}", encoder, float(rng.uniform(0, seconds)), expected, counts)
    met = check_interruptions(plain, folder, known["fourier2vec"][0])
    store = store_of(folder / "whole-fourier2vec", "fourier2vec")
    units = len(part_paths(store)) if store else 0
    largest = max(len(read_part(path).utterance_ids) for path in part_paths(store)) if store else 0
    fraction = statistics.mean(counts.committed)
    return [
        Figure("crash.lost", f"utterances lost in {trials} kills", counts.lost, 0, "lower"),
        Figure("crash.wrong", "utterances that differ from an uninterrupted run", counts.wrong, 0, "lower"),
        Figure("crash.redone_units", f"units redone per kill, maximum; of {units}", max(counts.redone), 1, "lower"),
        Figure("crash.redone_mean", f"the same, mean; a unit has up to {largest} utterances",
               statistics.mean(counts.redone), None, "lower"),
        Figure("crash.committed", "fraction of utterances committed at the kill, mean", fraction, None, "higher"),
        Figure("crash.full_disk", "a full disk: clear message, exit 1, resumed to equal content", met["full_disk"], 1,
               "higher"),
        Figure("crash.sigint", "Ctrl-C: clear message, exit 1, resumed to equal content", met["sigint"], 1, "higher"),
    ]  # fmt: skip


@click.command()
@click.option("--trials", type=int, help="Number of kills; default 20, with --tiny 2.")
@click.option("--format", "kind", type=click.Choice(["hdf5", "zarr"]), default="hdf5", show_default=True)
@click.option("--workers", type=int, default=2, show_default=True, help="Processes that read audio in an extraction.")
@click.option("--update", is_flag=True, help="Kill updates of complete stores.")
@click.option("--beside", is_flag=True, help="Compact and convert the stores at the same time.")
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(trials: int, kind: str, workers: int, update: bool, beside: bool, tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    flags = ["--format", kind, "--workers", str(workers)]
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), trials or (2 if tiny else 20), 16 if tiny else 300, flags, update, beside)
    report("crash", figures, as_json)


if __name__ == "__main__":
    main()
