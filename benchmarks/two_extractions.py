"""Two extractions of one corpus at once: their time divided by half of the time of one."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from report import Figure

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import wave, write_manifest

EXTRACT = """
import sys, time
from pathlib import Path
import features.extraction.extract
from cli.main import main
from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
start = Path(sys.argv.pop(1))
load_encoder(parse_selector(sys.argv[sys.argv.index("--audio-encoder") + 1], "audio"))  # what it imports
print("ready", flush=True)
while not start.exists():
    time.sleep(0.002)
started = time.perf_counter()
try:
    main()
finally:
    print(time.perf_counter() - started, flush=True)
"""
"""One `mervn extract` whose time is measured without the start of Python and its imports."""
RATE = 16_000
Start = Callable[[str], "subprocess.Popen[str]"]
"""Starts Python code."""
LONG_S = 1800.0
"""Seconds after which an extraction is taken for hung."""


def start_python(code: str) -> subprocess.Popen[str]:
    """Start Python code in a process that computes with one thread."""
    command, environment = [sys.executable, "-c", code], {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def make_corpus(folder: Path, count: int, seconds: float) -> Path:
    """Write utterances around a duration, with the spread of a speech emotion corpus."""
    durations = np.clip(seconds * np.random.default_rng(0).lognormal(0.0, 0.45, count), 0.25, 15.0)
    folder.mkdir()
    lines = []
    for number, duration in enumerate(durations):
        name = f"u{number:04d}"
        soundfile.write(folder / f"{name}.wav", wave(float(duration), number), RATE)
        lines.append({"utterance_id": name, "speaker_id": "s", "wav_path": f"{name}.wav", "emotion": "sad"})
    write_manifest(folder / "train.jsonl", lines)
    return folder


def seconds_of_extractions(start_process: Start, processes: int, selector: str, data: Path) -> float:
    """Run extractions of one corpus at once, with one thread each; return the seconds until the last one ends."""
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        arguments = [str(start), "extract", "--audio-encoder", selector, "--data", str(data), "--splits", "train"]
        arguments += ["--features-dir", str(Path(name) / "stores"), "--threads", "1", "--device", "cpu"]
        children: list[subprocess.Popen[str]] = []
        try:
            for _ in range(processes):
                child = start_process(f"import sys; sys.argv[1:] = {arguments!r}\n{EXTRACT}")
                children.append(child)
                if child.stdout is None or child.stdout.readline() != "ready\n":
                    raise RuntimeError("an extraction failed before it began")
            start.touch()
            seconds = []
            for child in children:
                printed = child.communicate(timeout=LONG_S)[0].splitlines()
                if child.returncode:
                    raise RuntimeError(f"an extraction failed: {printed}")
                seconds.append(float(printed[-1]))
            return max(seconds)
        finally:
            for child in children:
                child.kill()


def measure_two(selectors: dict[str, str], folder: Path, tiny: bool, start_process: Start) -> list[Figure]:
    """Alternate one extraction and two at once, for each encoder, by its name and selector.

    The speed of a machine can change within a minute: one extraction is measured before and after each
    two, and the mean counts.
    """
    count, seconds, rounds = (6, 0.3, 1) if tiny else (200, 4.2, 9)
    data = make_corpus(folder / "two", count, seconds)
    figures = []
    for name, selector in selectors.items():
        one, two = (partial(seconds_of_extractions, start_process, processes, selector, data) for processes in (1, 2))
        ratios, before = [], one()
        for _ in range(rounds):
            both, after = two(), one()
            ratios.append(4 * both / (before + after))
            before = after
        what = f"{name}: two processes at once / half of one's time, one thread each"
        figures.append(Figure(f"extract.two_processes.{name}", what, statistics.median(ratios), 1.1, "lower"))
    return figures
