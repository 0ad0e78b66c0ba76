"""Measure how well an extraction keeps its device busy, and check that workers change no stored value.

    python benchmarks/benchmark_feed.py [--tiny] [--json]

The encoder stands for a device. Like a GPU, it takes batches into a queue and returns at once. The
copy of the features to the host waits, without using a core, until a device would have computed the
batch and those before it. The features are samples of the batch, so they depend on which utterances
it has, and in which order. Everything else is the real extraction: WAV and FLAC files at 16 and
44.1 kHz are decoded, hashed and resampled, and parts are written with checksums. The time of the
device is 4, 1 and 1/4 times that of one worker that prepares the audio.

- overlap: duration / (time of the device or of the preparation by all workers, whichever is longer)
- scaling: utterances that two workers prepare per second / one worker
- equal: maximum difference of stored values, parts and rejections between 0, 1, 2 and 4 workers, also
  after Ctrl-C and a second run; 1 if parts or rejections differ
- device_copies: copies of samples to a device, and of features back, per batch and layer; the
  lengths of the utterances are copied too, 8 bytes each
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import click
import numpy as np
import soundfile
import torch
from report import Figure, report
from timing import seconds_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from features.audio.resampling import SAMPLE_RATE, resample
from features.cpu_threads import leave_cores
from features.encoders.base import Encoder, Lengths, load_encoder, samples_tensor
from features.encoders.selector import EncoderSettings, Selector, parse_selector
from features.extraction.encode import launch
from features.extraction.extract import extract_stream
from features.extraction.host_copy import HostCopy
from features.extraction.report import StoreResult
from features.extraction.settings import ExtractSettings
from features.extraction.unit import Unit
from features.extraction.unit_reader import UnitReader
from features.manifests.manifest import Utterance
from features.progress import SILENT
from features.ragged import Ragged
from features.store.part_files import part_paths
from features.store.reader import FeatureStore

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_whisper, wave

RATIOS = {"4to1": 4.0, "1to1": 1.0, "1to4": 0.25}
"""Time of the device / time of one thread that prepares the audio."""
WORKERS = 2
OVERLAPS = [*((name, WORKERS) for name in RATIOS), ("1to4", 1)]
"""Ratios and numbers of workers. Two fill both cores of a small machine, and the process of the encoder has
none; one is the default on a GPU beside two cores."""
WIDTH = 256
BATCH_S = 40.0
"""Seconds of audio per batch, padding included."""
KINDS = (("wav", 16_000), ("flac", 16_000), ("wav", 44_100), ("flac", 44_100))
"""Format and rate of the files, in turn."""


class SimulatedCopy(HostCopy):
    """Copy of features that a device has computed at a given time."""

    def __init__(self, output: Ragged, ready_at: float) -> None:
        super().__init__(output)
        self._ready_at = ready_at

    def wait(self) -> None:
        """Wait until the device has computed the features."""
        time.sleep(max(0.0, self._ready_at - time.monotonic()))


class SimulatedDevice(Encoder):
    """Encoder that takes `pace` seconds per second of audio, and can be interrupted after some batches."""

    name: ClassVar[str] = "simulated"
    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 1
    dim, layers, num_layers, config, model_name = WIDTH, ("last",), 1, {}, "simulated"
    weights_sha256, weights_note = "0" * 64, "a simulated device"

    def __init__(self, pace: float = 0.0, interrupt_after: float = float("inf")) -> None:
        super().__init__()
        self.pace, self.interrupt_after = pace, interrupt_after
        self.num_batches = 0
        self.busy_until = 0.0

    def copy(self, output: Ragged) -> HostCopy:
        """Return the copy of the features that were launched last."""
        return SimulatedCopy(output, self.busy_until)

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> SimulatedDevice:
        """Return a device that takes no time."""
        return cls()

    def save(self, folder: Path) -> None:
        """Write nothing: there are no weights."""

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,)."""
        return samples_tensor(raw)

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return floor(n / 320)."""
        return lengths // 320

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Return samples of the batch, 256 for every 320: a view, for which no core computes anything."""
        if self.num_batches >= self.interrupt_after:
            raise KeyboardInterrupt
        self.num_batches += 1
        self.busy_until = max(self.busy_until, time.monotonic()) + self.pace * inputs.total / SAMPLE_RATE
        sizes = list(map(self.get_feat_lengths, inputs.sizes))
        return [Ragged.from_lengths(inputs.values[: sum(sizes) * WIDTH].view(-1, WIDTH), sizes)]


@dataclass(frozen=True)
class Corpus:
    """Utterances, each with a file of its own; two of them cannot be decoded."""

    utterances: list[Utterance]
    seconds: list[float]

    def first(self, count: int) -> Corpus:
        """Return the first utterances."""
        return Corpus(self.utterances[:count], self.seconds[:count])

    def unit(self) -> Unit:
        """Return all utterances as one unit, as the extraction reads them."""
        by_id = {one.utterance_id: length for one, length in zip(self.utterances, self.seconds, strict=True)}
        return Unit("all", [self.utterances], [set()], by_id)


def make_corpus(folder: Path, count: int, mean_s: float) -> Corpus:
    """Write audio files of about `mean_s` seconds."""
    seconds = np.clip(np.random.default_rng(0).lognormal(np.log(mean_s), 0.3, count), 0.1, 15.0).tolist()
    folder.mkdir()
    utterances = []
    for i, length in enumerate(seconds):
        kind, rate = KINDS[i % len(KINDS)]
        samples, options = wave(length, i, rate), {}
        if i in (2, 6):
            samples[-1], options = np.nan, {"subtype": "FLOAT"}  # only decoding finds it
            kind = "wav"
        path = folder / f"{i}.{kind}"
        soundfile.write(path, samples, rate, **options)
        utterances.append(
            Utterance(f"u{i}", "s", path.name, path, 0.0, None, "mix", None, None, "train", "train.jsonl", i + 1, {})
        )
    return Corpus(utterances, seconds)


def extract(corpus: Corpus, folder: Path, workers: int, device: SimulatedDevice) -> StoreResult:
    """Extract the features of a corpus."""
    settings = ExtractSettings(folder, device="cpu", batch_seconds=BATCH_S, workers=workers)
    opened = mock.patch("features.extraction.extract.open_encoder", return_value=device)
    # as an extraction on a GPU does: no encoder's numbers depend on the threads of the CPU there
    with opened, mock.patch("features.extraction.encode.HostCopy", device.copy), leave_cores(workers):
        (result,) = extract_stream(corpus.utterances, parse_selector("fourier2vec", "audio"), settings, SILENT)
    return result


def prepare_all(corpus: Corpus, workers: int) -> float:
    """Return the seconds that some workers need to read and prepare a corpus."""
    with closing(UnitReader(SimulatedDevice(), workers)) as reader:
        return seconds_of(lambda: [None for _ in reader.batches(corpus.unit())])


def measure_overlap(corpus: Corpus, folder: Path, rounds: int) -> list[Figure]:
    """Return the durations of extractions over their lower bounds, and the gain of a second worker.

    The speed of a machine can change within a minute: the preparation by one worker is measured before
    and after each of them, and the mean counts.
    """
    found: dict[tuple[str, int], list[float]] = {}
    scaling = []
    before = prepare_all(corpus, 1)
    for _ in range(rounds):
        both, after = prepare_all(corpus, WORKERS), prepare_all(corpus, 1)
        scaling.append((before + after) / 2 / both)
        for name, workers in OVERLAPS:
            before = after
            device_s = RATIOS[name] * before
            device = SimulatedDevice(device_s / sum(corpus.seconds))
            result = extract(corpus, folder / "overlap", workers, device)
            # a virtual machine is slow to give memory that was never used: reuse the 100 MB of the page cache
            shutil.rmtree(folder / "overlap")
            after = prepare_all(corpus, 1)
            bound = max(device_s, (before + after) / 2 / workers)
            found.setdefault((name, workers), []).append(result.seconds / bound)
        before = after
    figures = []
    for (name, workers), values in found.items():
        suffix, noun = ("", "workers") if workers == WORKERS else (".one_worker", "worker")
        what = f"duration / bound, device : preparation = {name.replace('to', ' : ')}, {workers} {noun}"
        figures.append(Figure(f"feed.overlap.{name}{suffix}", what, statistics.median(values), 1.15, "lower"))
    what = f"utterances prepared per second by {WORKERS} workers / by one"
    return [*figures, Figure("feed.scaling", what, statistics.median(scaling), 1.7, "higher")]


def difference(path: str, expected: str) -> float:
    """Return the maximum difference of two stores' values; 1 if their parts or rejections differ."""
    folders = [Path(path), Path(expected)]
    names = [[part.name for part in part_paths(folder)] for folder in folders]
    rejected = [sorted((folder / "rejected.jsonl").read_text().splitlines()) for folder in folders]
    if names[0] != names[1] or rejected[0] != rejected[1]:
        return 1.0
    stores = list(map(FeatureStore, folders))
    return max(float(np.abs(stores[0][name].astype(float) - stores[1][name]).max()) for name in stores[1])


def interrupted(corpus: Corpus, folder: Path, workers: int, num_batches: int) -> tuple[int, StoreResult]:
    """Interrupt an extraction after some batches and resume it; return what was kept, and the result."""
    with suppress(KeyboardInterrupt):
        extract(corpus, folder, workers, SimulatedDevice(interrupt_after=num_batches))
    result = extract(corpus, folder, workers, SimulatedDevice())
    return result.kept, result


def measure_equal(corpus: Corpus, folder: Path, numbers: Sequence[int]) -> Figure:
    """Return the maximum difference between numbers of workers."""
    device = SimulatedDevice()
    whole = extract(corpus, folder / "whole", 0, device)
    half = interrupted(corpus, folder / "half", 0, device.num_batches // 2)
    differences = []
    for workers in numbers:
        found = extract(corpus, folder / f"whole-{workers}", workers, SimulatedDevice())
        differences.append(difference(found.path, whole.path))
        kept, resumed = interrupted(corpus, folder / f"half-{workers}", workers, device.num_batches // 2)
        differences.append(difference(resumed.path, half[1].path))
        differences.append(float(kept != half[0]))
    what = f"maximum difference between 0 and {', '.join(map(str, numbers))} workers, also if interrupted and resumed"
    return Figure("feed.equal", what, max(differences), 0, "lower")


class CountedCopies(TorchDispatchMode):
    """Counts copies of real numbers to the device `meta` and back; the latter give zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ == "_to_copy" and "device" in kwargs:
            source, target = args[0], torch.device(kwargs["device"])
            if source.device.type == "meta" and target.type == "cpu":
                self.back += 1
                return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
            self.there += source.device.type == "cpu" and target.type == "meta" and source.is_floating_point()
        return func(*args, **kwargs)


def measure_copies(folder: Path, tiny: bool) -> Figure:
    """Count the copies of one batch through encoders of two layers."""
    names = ["fourier2vec@1,2"] if tiny else ["fourier2vec@1,2", f"whisper={make_whisper(folder / 'whisper')}@1,2"]
    worst = 0.0
    for name in names:
        encoder = load_encoder(parse_selector(name, "audio")).to("meta")
        prepared = [encoder.prepare(wave(seconds, 0)) for seconds in (1.0, 0.4)]
        # torch has no autocast for meta, and does not take operations apart in inference mode
        no_autocast = mock.patch.object(torch, "autocast", return_value=nullcontext())
        no_gradients = mock.patch.object(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
        with no_autocast, no_gradients, CountedCopies() as copies:
            launch(prepared, encoder, torch.device("meta"))
        worst = max(worst, copies.there, copies.back / len(encoder.layers))
    return Figure("feed.device_copies", "copies per batch to the device, per layer back", worst, 1, "lower")


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resample(np.zeros(441, np.float32), 44_100, SAMPLE_RATE)  # builds the filters
        corpus = make_corpus(folder / "audio", 12 if tiny else 1000, 0.2 if tiny else 4.0)
        figures = measure_overlap(corpus, folder, 1 if tiny else 7)
        figures += [measure_equal(corpus.first(200), folder, (2,) if tiny else (1, 2, 4)), measure_copies(folder, tiny)]
    report("feed", figures, as_json)


if __name__ == "__main__":
    main()
