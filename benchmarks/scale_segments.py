"""Measure whether the segments of a long compressed file are read as fast as the file is decoded.

    python benchmarks/scale_segments.py [--tiny] [--json]

1 000 segments of one MP3 of an hour, of 1 to 12 s, are read in the order of an extraction, by length.
The time includes making the uncompressed copy of the file and deleting it. It is divided by the time of
decoding the file once from start to end. Before the measurement, the samples of some segments are
compared with those of one decoder that reads the whole file. Times are CPU time, which is the work of
one core whatever else the machine does; the file is in the disk cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import soundfile
from report import Figure, report
from timing import median_ratio

from features.audio import decoded_copies, segment
from features.audio.decoded_copies import DecodedCopies
from features.audio.segment import decode_blocks, decode_segment

RATE = 16_000
ROUNDS = 5
Span = tuple[float, float]
"""Start and end of a segment in seconds."""


def make_recording(path: Path, seconds: int) -> None:
    """Write an MP3 of tones and noise, in blocks of a minute."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for minute in range(-(-seconds // 60)):
            times = np.arange(RATE * min(60, seconds - 60 * minute)) / RATE
            tone = np.sin(2 * np.pi * (150 + minute) * times) * np.sin(2 * np.pi * 3 * times)
            file.write(0.3 * tone + 0.02 * generator.standard_normal(len(times)))


def make_spans(seconds: int, count: int) -> list[Span]:
    """Return random segments of 1 to 12 s, the longest first."""
    generator = np.random.default_rng(1)
    lengths = np.sort(np.clip(generator.lognormal(np.log(3.5), 0.5, count), 1.0, 12.0))[::-1]
    starts = generator.uniform(0.0, seconds - lengths)
    return list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))


def check_equal(path: Path, spans: list[Span]) -> None:
    """Raise RuntimeError if a segment differs from the samples of one sequential read."""
    with soundfile.SoundFile(path) as file:
        whole = file.read(file.frames, dtype="float32")
    for start, end in spans:
        found, _ = decode_segment(path, start, end, "mix")
        if not np.array_equal(found, whole[round(start * RATE) : round(end * RATE)]):
            raise RuntimeError(f"the segment {start}..{end} must have the samples of a sequential decoder")


def cpu_seconds_of(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    started = time.process_time()
    run()
    return time.process_time() - started


@contextmanager
def new_copies(folder: Path) -> Iterator[None]:
    """Make new copies in a folder, and delete them at the end."""
    before, segment.COPIES = segment.COPIES, DecodedCopies(folder)
    try:
        yield
    finally:
        segment.COPIES.close()
        segment.COPIES = before


def measure_segments(folder: Path, tiny: bool) -> list[Figure]:
    """Alternate reading all segments, which makes a new copy, and decoding the file."""
    seconds, count, rounds = (90, 25, 1) if tiny else (3600, 1000, ROUNDS)
    path, spans = folder / "recording.mp3", make_spans(seconds, count)
    make_recording(path, seconds)
    time.sleep(decoded_copies.SETTLED_S)

    def read_all() -> None:
        with new_copies(folder / "copies"):
            for start, end in spans:
                decode_segment(path, start, end, "mix")

    def decode_once() -> None:
        for _ in decode_blocks(path):
            pass

    with new_copies(folder / "copies"):
        check_equal(path, spans[:: max(1, count // 100)])
    ratio = median_ratio(lambda: cpu_seconds_of(read_all), lambda: cpu_seconds_of(decode_once), rounds)
    about = f"{count} segments of an MP3 of {seconds} s / decoding it once, CPU seconds"
    return [Figure("scale.segments", about, ratio, 1.3, "lower")]


@click.command()
@click.option("--tiny", is_flag=True, help="25 segments of 90 s, for a test of this benchmark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure the segments of one long recording."""
    with tempfile.TemporaryDirectory() as name:
        report("scale_segments", measure_segments(Path(name), tiny), as_json)


if __name__ == "__main__":
    main()
