"""Measure what an extraction loses when it is killed, and what a full disk or Ctrl-C does to it.

    python benchmarks/benchmark_crash.py [--trials 20] [--format hdf5|zarr] [--update] [--beside] [--tiny] [--json]

`mervn extract` is started, killed with -9 at a random moment of its work, and started again until it is done; its store
is compared with that of an undisturbed run, bit by bit. The encoders alternate: random fourier2vec, whose fp16 rows
depend on the batch by a unit in the last place, a variant of it whose rows depend on the batch by per cents, and
hashed_ngrams, whose rows do not. What is lost: utterances that had a committed row before the kill and have another, or
none, after it. Redone: units that were under way, and so are claimed by the dead process and not committed.

With `--update` the store is whole and every second audio file and transcript has changed: what is killed is `mervn
extract --update`. With `--beside` another process compacts the store and converts it to and fro all the time; it is
killed together with the extraction, and another one runs beside the extraction that continues.
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
from features.store.part import part_paths, read_part
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
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
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
"""Bytes, where the disk is said to be full: less than a unit's rows."""


@dataclass(frozen=True)
class Setting:
    """What is killed, and what runs beside it."""

    data: Path
    flags: list[str]
    """Options of `mervn extract`."""
    old: Path | None
    """The features folder that holds the stores to be updated."""
    beside: bool


@dataclass
class Counts:
    """What the trials found."""

    lost: int = 0
    wrong: int = 0
    redone: list[int] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    """Fraction of the utterances that was committed at the kill."""


def start(setting: Setting, features: Path, encoder: str, before: str = "") -> subprocess.Popen[str]:
    """Start an extraction in a process of its own."""
    _, flags, patch = ENCODERS[encoder]
    paths = ["--data", str(setting.data), "--features-dir", str(features)]
    arguments = ["extract", *paths, "--threads", "1", *flags, *setting.flags]
    program = before + patch + COMMAND.format(arguments=arguments)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for an extraction and return its exit code and what it said."""
    _, errors = process.communicate(timeout=LONG_S)
    return process.returncode, errors


@contextmanager
def maintenance(setting: Setting, features: Path) -> Iterator[subprocess.Popen[str] | None]:
    """Compact and convert the stores of a folder all the time, if asked to; RuntimeError if that fails."""
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
    """Return the store's folder, if it is there yet."""
    found = list((features / ENCODERS[encoder][0]).glob("*/store.json"))
    return found[0].parent if found else None


def content(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return everything a store holds, checked."""
    store = FeatureStore(path)
    return {name: (store.utterance_info(name).input_sha256, store.check(name).tobytes()) for name in store}


def committed(path: Path | None) -> dict[str, tuple[str, bytes]]:
    """Return what is committed now."""
    return content(path) if path is not None else {}


def undisturbed(setting: Setting, features: Path, encoder: str) -> tuple[dict[str, tuple[str, bytes]], float]:
    """Return the content of a run that nothing disturbs, and the seconds from its first part to its end."""
    process = start(setting, features, encoder)
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
        if under_way(path):
            return
        time.sleep(0.001)


def one_trial(
    setting: Setting, features: Path, encoder: str, delay: float, expected: dict[str, tuple[str, bytes]], counts: Counts
) -> None:
    """Kill an extraction after a delay, let another finish it, and compare."""
    if setting.old is not None:
        shutil.copytree(setting.old, features)
    with maintenance(setting, features) as beside:
        process = start(setting, features, encoder)
        wait_for_work(process, features, encoder)
        time.sleep(delay)
        for victim in filter(None, (process, beside)):
            os.kill(victim.pid, signal.SIGKILL)
        process.communicate()
    path = store_of(features, encoder)
    before = committed(path)
    finished = {name: value for name, value in before.items() if setting.old is None or value == expected.get(name)}
    counts.committed.append(len(finished) / len(expected))
    counts.redone.append(under_way(path))
    with maintenance(setting, features):
        code, errors = finish(start(setting, features, encoder))
    if code:
        raise RuntimeError(f"the extraction that continued failed: {errors}")
    after = committed(store_of(features, encoder))
    counts.lost += sum(after.get(name) != value for name, value in finished.items())
    counts.lost += len((expected.keys() | before.keys()) - after.keys())
    counts.wrong += sum(expected.get(name) != value for name, value in after.items())
    leftovers = [p.name for p in [*features.rglob(".part-*.tmp"), *features.rglob(FOLDER)]]
    if leftovers:
        raise RuntimeError(f"what the killed process left must be swept, found {leftovers}")


def under_way(path: Path | None) -> int:
    """Return how many units the dead process had claimed and not committed; a claim outlives the commit by a moment."""
    names: list[str] = []
    if path is not None:
        with suppress(FileNotFoundError):  # nobody holds a claim
            names = os.listdir(path / FOLDER)  # noqa: PTH208 (iterdir is lazy: the folder can vanish meanwhile)
    return len({name.removesuffix(".json") for name in names if name.endswith(".json")} - {MAINTENANCE})


def obstacles(setting: Setting, folder: Path, expected: dict[str, tuple[str, bytes]]) -> dict[str, bool]:
    """Return, for a disk that fills up and for Ctrl-C, whether all went as it must."""
    met = {}
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGEST_FILE}, {LARGEST_FILE}))\n"
    for name, before, stop in (("full_disk", limit, None), ("sigint", "", signal.SIGINT)):
        features = folder / name
        process = start(setting, features, "fourier2vec")
        wait_for_work(process, features, "fourier2vec")  # by then the encoder's random weights are kept
        os.kill(process.pid, stop or signal.SIGKILL)
        if stop is None:
            process.communicate()
            process = start(setting, features, "fourier2vec", before)
        code, errors = finish(process)
        wanted = "the disk is full" if stop is None else "run the same command again to resume"
        said = wanted in errors and "Traceback" not in errors
        resumed, _ = finish(start(setting, features, "fourier2vec"))
        met[name] = code == 1 and said and resumed == 0 and committed(store_of(features, "fourier2vec")) == expected
        if not met[name]:
            print(f"{name}: exit {code}, then {resumed}; it said: {errors}", file=sys.stderr)
    return met


def change_half(data: Path) -> None:
    """Change every second audio file and transcript of train; lengths stay, so the batches do."""
    rows = read_jsonl(data / "train.jsonl")
    for number, row in enumerate(rows[::2]):
        samples, rate = soundfile.read(data / row["wav_path"], dtype="float32")
        soundfile.write(data / row["wav_path"], samples[::-1], rate)
        if row["transcript"]:
            row["transcript"] = row["transcript"].replace("hôm nay", f"hôm {number}")
    write_manifest(data / "train.jsonl", rows)


def measure(folder: Path, trials: int, utterances: int, kind: str, update: bool, beside: bool) -> list[Figure]:
    """Run all trials and return the figures."""
    data = make_data(folder / "data", {"train": utterances, "valid": 10, "test": 10})
    plain = Setting(data, ["--format", kind], None, False)
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
    if update:
        for encoder in ENCODERS:
            undisturbed(plain, folder / f"old-{encoder}", encoder)
        change_half(data)
    known: dict[str, Any] = {name: undisturbed(plain, folder / f"whole-{name}", name) for name in ENCODERS}
    counts = Counts()
    for trial in range(trials):
        encoder = list(ENCODERS)[trial % len(ENCODERS)]
        expected, seconds = known[encoder]
        old = folder / f"old-{encoder}" if update else None
        setting = Setting(data, [*plain.flags, "--update"] if update else plain.flags, old, beside)
        one_trial(setting, folder / f"trial-{trial}", encoder, float(rng.uniform(0, seconds)), expected, counts)
    met = obstacles(plain, folder, known["fourier2vec"][0])
    store = store_of(folder / "whole-fourier2vec", "fourier2vec")
    units = len(part_paths(store)) if store else 0
    largest = max(len(read_part(path).utterance_ids) for path in part_paths(store)) if store else 0
    fraction = statistics.mean(counts.committed)
    return [
        Figure("crash.lost", f"utterances lost in {trials} kills", counts.lost, 0, "lower"),
        Figure("crash.wrong", "rows that differ from an undisturbed run's", counts.wrong, 0, "lower"),
        Figure("crash.redone_units", f"units redone a kill, the most; of {units}", max(counts.redone), 1, "lower"),
        Figure("crash.redone_mean", f"the same on the mean; a unit has up to {largest} utterances",
               statistics.mean(counts.redone), None, "lower"),
        Figure("crash.committed", "fraction of the utterances committed at the kill, mean", fraction, None, "higher"),
        Figure("crash.full_disk", "a full disk: clear message, exit 1, resumed to equal content", met["full_disk"], 1,
               "higher"),
        Figure("crash.sigint", "Ctrl-C: clear message, exit 1, resumed to equal content", met["sigint"], 1, "higher"),
    ]  # fmt: skip


@click.command()
@click.option("--trials", type=int, help="Kills; 20, or 2 with --tiny, if unset.")
@click.option("--format", "kind", type=click.Choice(["hdf5", "zarr"]), default="hdf5", show_default=True)
@click.option("--update", is_flag=True, help="Kill updates of whole stores.")
@click.option("--beside", is_flag=True, help="Compact and convert the stores meanwhile.")
@click.option("--tiny", is_flag=True, help="Few utterances: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(trials: int, kind: str, update: bool, beside: bool, tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), trials or (2 if tiny else 20), 60 if tiny else 300, kind, update, beside)
    report("crash", figures, as_json)


if __name__ == "__main__":
    main()
