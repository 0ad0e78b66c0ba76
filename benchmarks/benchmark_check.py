"""Measure how fast `mervn check` is: the first pass over the audio, the second one, and the quick check.

    python benchmarks/benchmark_check.py [--tiny] [--json]

The corpus has one-second files, for which opening a file costs most. The first pass decodes every file
in one thread. The second one compares fingerprints. The quick check, which train-head and finetune
run by themselves, opens no audio. All is computed for 5000 utterances of 84 speakers. Times are CPU
time, which is the work of one core whatever else the machine does; the files are in the disk cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import soundfile
from report import Figure, report

from features.audit.audio_pass import FACTS_FILE, measure_corpus
from features.audit.check import quick_check
from features.manifests.manifest import Utterance

RATE = 16_000
LABELS = ("angry", "happy", "neutral", "sad")
SYLLABLES = ("hôm", "nay", "trời", "hòa", "đẹp", "tôi", "không", "biết", "phải", "nói", "thuý", "gì")
UTTERANCES_PER_SPEAKER = 60


def make_utterances(folder: Path, count: int) -> list[Utterance]:
    """Write files of one second of noise and return their utterances, of three splits."""
    generator = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        speaker = number // UTTERANCES_PER_SPEAKER
        path = folder / f"c{number:05d}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(RATE, np.float32), RATE)
        transcript, label = " ".join(generator.choice(SYLLABLES, 12)), str(generator.choice(LABELS))
        split = ("train", "valid", "test")[speaker % 3]
        utterances.append(
            Utterance(
                path.stem, f"s{speaker}", path.name, path, 0.0, None, "mix", transcript, label, split,
                f"{split}.jsonl", number + 1, {},
            )
        )  # fmt: skip
    return utterances


def cpu_seconds_of(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, of all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def measure(count: int, rounds: int) -> list[Figure]:
    """Alternate the three checks and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = make_utterances(folder, count)
        seconds: dict[str, list[float]] = {"first": [], "second": [], "quick": []}
        for number in range(rounds + 1):
            (folder / FACTS_FILE).unlink(missing_ok=True)
            first = cpu_seconds_of(lambda: measure_corpus(utterances, folder, threads=1))
            second = cpu_seconds_of(lambda: measure_corpus(utterances, folder, threads=1))
            quick = cpu_seconds_of(lambda: quick_check(utterances, folder))
            if number:  # the first round fills the disk cache
                for key, value in zip(seconds, (first, second, quick), strict=True):
                    seconds[key].append(value)
    first_s, second_s, quick_s = (statistics.median(values) for values in seconds.values())
    about = f"{count} files of one second"
    return [
        Figure("check.real_time", f"hours of audio per CPU hour, {about}", count / first_s, 400.0, "higher"),
        Figure("check.first_over_second", "first pass / pass with known facts", first_s / second_s, 2.0, "higher"),
        Figure(
            "check.quick_s", f"CPU seconds of the check before a training of {count} utterances", quick_s, 0.1, "lower"
        ),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="40 files, for a test of this benchmark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure the check of a corpus."""
    report("check", measure(*((40, 1) if tiny else (5000, 5))), as_json)


if __name__ == "__main__":
    main()
